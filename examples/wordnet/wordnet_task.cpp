#include "wordnet/wordnet_task.hpp"

#include <algorithm>
#include <utility>

#include "wordnet/flags.hpp"

namespace troupe::wordnet {

using training::BatchId;
using training::EvaluationPart;
using training::Metric;
using training::RunReport;
using training::Split;
using training::Step;
using training::TableGroup;

namespace {

constexpr std::size_t kEntity = 0, kRelation = 1;  // the tables' places

shards::TableSpec table(const char* name, const HyperParameters& parameters, std::uint64_t seed_offset) {
  shards::TableSpec spec;
  spec.name = name;
  spec.kind = shards::TableKind::kEmbedding;
  spec.dim = parameters.row_width();
  spec.slots = 1024;
  spec.optimizer = shards::Adagrad{parameters.learning_rate, parameters.epsilon, 0};
  spec.initializer = shards::Normal{0, parameters.initial_scale};
  spec.seed = parameters.seed + seed_offset;
  return spec;
}

std::string grouped(std::uint64_t number) {
  std::string text = std::to_string(number);
  for (auto at = static_cast<std::ptrdiff_t>(text.size()) - 3; at > 0; at -= 3)
    text.insert(static_cast<std::size_t>(at), ",");
  return text;
}

std::vector<double> as_vector(const RankingSums& sums) {
  return {sums.questions, sums.reciprocal_ranks, sums.hits_at_1, sums.hits_at_3, sums.hits_at_10};
}

}  // namespace

shards::TableSpec entity_table(const HyperParameters& parameters) {
  return table("entity", parameters, 0);
}

shards::TableSpec relation_table(const HyperParameters& parameters) {
  return table("relation", parameters, 0x9e3779b97f4a7c15ULL);
}

void WordnetTask::add_flags(CLI::App& app) {
  add_dataset_flags(app, dataset_);
  add_hyper_parameter_flags(app, parameters_);
  app.add_option("--valid-triples", valid_triples_, "Validation triples ranked after each epoch; 0: none")
      ->capture_default_str()
      ->check(zero_or_more());
  app.add_option("--words", words_, "Print the nearest neighbours of these entities")->capture_default_str();
  app.add_option("--neighbours", neighbours_, "How many of them")
      ->capture_default_str()
      ->check(zero_or_more());
  app.add_option("--reference", reference_file_, "What wordnet_reference printed, to be set beside this run");
}

std::vector<std::string> WordnetTask::flags_free_to_change() const {
  return {"--data", "--words", "--neighbours", "--reference"};
}

Result<void> WordnetTask::load() {
  auto graph = load_graph(dataset_);
  if (!graph) return graph.error();
  graph_ = std::move(*graph);
  sampler_.emplace(graph_.train, graph_.entity_count(), graph_.relation_count(), parameters_.batch_size,
                   parameters_.negatives, parameters_.seed);
  planner_.emplace(graph_.entity_count(), 2 * graph_.relation_count());
  model_.emplace(parameters_.dimension, parameters_.n3);
  return {};
}

std::vector<shards::TableSpec> WordnetTask::tables() const {
  return {entity_table(parameters_), relation_table(parameters_)};
}

void WordnetTask::plan(const BatchId& batch, Step& step) {
  sampler_->sample(batch.epoch, batch.index, batch_);
  planner_->make(batch_, plan_);
  step.keys[kEntity] = plan_.entity_keys;
  step.keys[kRelation] = plan_.relation_keys;
}

Result<void> WordnetTask::compute(const BatchId&, Step& step) {
  const StepResult found = model_->step(plan_, step.rows[kEntity].data(), step.rows[kRelation].data(),
                                        step.gradients[kEntity].data(), step.gradients[kRelation].data());
  step.loss_sum = found.loss_sum;
  step.examples = found.examples;
  return {};
}

// ---- Evaluation -----------------------------------------------------------------------------------

std::uint64_t WordnetTask::evaluation_size(Split split) const {
  return split == Split::kTest ? graph_.test.size() : std::min(valid_triples_, graph_.valid.size());
}

Result<ModelRows> WordnetTask::fetch_model(TableGroup& tables) const {
  auto entities = tables.read_first(kEntity, graph_.entity_count());
  if (!entities) return entities.error();
  auto relations = tables.read_first(kRelation, 2 * graph_.relation_count());
  if (!relations) return relations.error();
  return ModelRows{parameters_.dimension, std::move(*entities), std::move(*relations)};
}

Result<std::vector<double>> WordnetTask::evaluate(const EvaluationPart& part, TableGroup& tables) {
  if (rows_epoch_ != part.epoch) {
    auto rows = fetch_model(tables);
    if (!rows) return rows.error();
    rows_ = std::move(*rows);
    rows_epoch_ = part.epoch;
  }
  if (!known_) known_ = std::make_unique<KnownAnswers>(graph_);
  const std::span<const Triple> triples(part.split == Split::kTest ? graph_.test : graph_.valid);
  return as_vector(
      wordnet::evaluate(rows_.view(), *known_, triples.subspan(part.begin, part.end - part.begin)));
}

std::vector<Metric> WordnetTask::metrics(const std::vector<double>& sums) const {
  RankingSums ranks;
  if (sums.size() == as_vector(ranks).size()) ranks = {sums[0], sums[1], sums[2], sums[3], sums[4]};
  const RankingMetrics found = wordnet::metrics(ranks);
  return {{"mrr", "MRR", found.mrr},
          {"hits_at_1", "Hits@1", found.hits_at_1},
          {"hits_at_3", "Hits@3", found.hits_at_3},
          {"hits_at_10", "Hits@10", found.hits_at_10}};
}

// ---- The report -----------------------------------------------------------------------------------

Result<void> WordnetTask::begin_report(RunReport& report) {
  report.words.title = graph_.name + " embeddings";
  report.words.examples = "triples";
  report.words.rate_note = "both directions of a triple counted";
  report.words.loss_axis = "cross-entropy (nats per example)";
  report.words.loss_note = "Mean softmax cross-entropy of the right answer among a batch's candidates.";
  report.words.score_axis = "mean reciprocal rank";
  report.words.score_note = "Filtered MRR over all entities, heads and tails asked.";
  report.words.test = "test (filtered)";
  report.words.test_note = "filtered";
  report.data = graph_.name + ": " + grouped(graph_.entity_count()) + " entities, " +
                grouped(graph_.relation_count()) + " relations, " + grouped(graph_.train.size()) +
                " training triples";
  if (const std::size_t unseen = count_unseen(graph_, graph_.test); unseen > 0) {
    const std::string note = grouped(unseen) + " of " + grouped(graph_.test.size()) +
                             " test triples have an entity that no training triple has";
    report.data += "; " + note;
    report.words.test_note += "; " + note;
  }
  if (reference_file_.empty()) return {};
  auto reference = read_reference(reference_file_);
  if (!reference) return reference.error();
  report.reference = std::move(*reference);
  return {};
}

Result<void> WordnetTask::end_report(RunReport& report, TableGroup& tables) {
  if (words_.empty() || neighbours_ == 0) return {};
  auto rows = fetch_model(tables);
  if (!rows) return rows.error();
  std::vector<NeighboursOfWord> words;
  for (const std::string& word : words_) {
    const auto entity = find_entity(graph_, word);
    if (!entity) continue;  // other graphs have other words
    NeighboursOfWord found{graph_.entities[*entity], {}};
    for (const Neighbour& neighbour : nearest_neighbours(rows->view(), *entity, neighbours_))
      found.second.emplace_back(graph_.entities[neighbour.entity], neighbour.similarity);
    words.push_back(std::move(found));
  }
  if (!words.empty()) report.sections.push_back(neighbour_section(words));
  return {};
}

}  // namespace troupe::wordnet
