// What remains of a run: the report's parts, and the summary on the screen.
#include <cstdio>
#include <fstream>
#include <nlohmann/json.hpp>

#include "wordnet/chief.hpp"
#include "wordnet/svg_chart.hpp"
#include "wordnet/worker.hpp"

namespace troupe::wordnet {

Result<void> Chief::add_neighbours() {
  if (settings_.words.empty() || settings_.neighbours == 0) return {};
  ModelRows rows;
  rows.dimension = settings_.parameters.dimension;
  rows.entities.resize(graph_.entity_count() * settings_.parameters.row_width());
  rows.relations.resize(2 * graph_.relation_count() * settings_.parameters.row_width());
  if (auto read = read_rows(*entities_, graph_.entity_count(), rows.entities.data()); !read) return read;
  if (auto read = read_rows(*relations_, 2 * graph_.relation_count(), rows.relations.data()); !read)
    return read;
  for (const std::string& word : settings_.words) {
    const auto entity = find_entity(graph_, word);
    if (!entity) continue;  // other graphs have other words
    NeighbourReport found{graph_.entities[*entity], {}};
    for (const Neighbour& neighbour : nearest_neighbours(rows.view(), *entity, settings_.neighbours))
      found.neighbours.emplace_back(graph_.entities[neighbour.entity], neighbour.similarity);
    report_.neighbours.push_back(std::move(found));
  }
  return {};
}

Result<void> Chief::add_staleness() {
  if (report_.consistency.empty()) {
    ConsistencyReport own;
    own.mode = describe(own_consistency(settings_));
    own.test_mrr = report_.test.mrr;
    report_.consistency.push_back(std::move(own));
  }
  // Of the run's own mode the training itself says more than the few seconds that were timed.
  auto stats = table_stats("entity");
  if (!stats) return stats.error();
  std::vector<std::uint64_t>& counts = report_.consistency.front().staleness_counts;
  counts.clear();
  for (const TableStats& server : *stats) {
    counts.resize(std::max(counts.size(), server.staleness_counts.size()));
    for (std::size_t i = 0; i < server.staleness_counts.size(); ++i) counts[i] += server.staleness_counts[i];
  }
  return {};
}

void Chief::add_workers_and_latencies() {
  Loop::Turn turn(node_->loop());
  for (const auto& [name, worker] : coordinator_->workers())
    report_.workers.push_back({name, worker.speed, worker.batches, worker.examples, worker.alive,
                               throughput_[name], step_times_.of(name)});
  for (const auto& entry : coordinator_->latencies()) {
    const Histogram& histogram = entry.second;
    const auto us = [&](double percent) { return static_cast<double>(histogram.percentile(percent)) / 1000; };
    report_.latencies.push_back({entry.first, histogram.count(), us(50), us(90), us(99), us(99.9),
                                 static_cast<double>(histogram.max()) / 1000});
  }
  report_.failures = failures_;
  const HyperParameters& p = settings_.parameters;
  const auto number = [](double value) { return tick_label(value); };
  report_.settings = {
      {"--dimension", std::to_string(p.dimension)}, {"--batch", std::to_string(p.batch_size)},
      {"--negatives", std::to_string(p.negatives)}, {"--epochs", std::to_string(p.epochs)},
      {"--rate", number(p.learning_rate)},          {"--n3", number(p.n3)},
      {"--seed", std::to_string(p.seed)},           {"consistency", report_.consistency.front().mode}};
}

Result<void> Chief::add_reference(const std::string& file) {
  std::ifstream in(file);
  if (!in)
    return Error{Code::kNotFound, file + ": cannot be read; it is to hold what wordnet_reference printed"};
  std::string line, last;
  while (std::getline(in, line))
    if (!line.empty()) last = line;
  try {
    const auto json = nlohmann::json::parse(last);
    report_.reference =
        ReferenceReport{json.at("test_mrr"), json.at("triples_per_second"),
                        "one process, " + std::to_string(json.at("threads").get<int>()) + " threads, " +
                            std::to_string(json.at("epochs").get<int>()) + " epochs"};
  } catch (const nlohmann::json::exception& exception) {
    return Error{Code::kInvalidArgument,
                 file + ": its last line is not what wordnet_reference prints: " + exception.what()};
  }
  return {};
}

void Chief::print_summary() const {
  std::printf("\n%-22s %8s %8s %8s %8s\n", "test (filtered)", "MRR", "Hits@1", "Hits@3", "Hits@10");
  std::printf("%-22s %8.4f %8.4f %8.4f %8.4f\n", "this run", report_.test.mrr, report_.test.hits_at_1,
              report_.test.hits_at_3, report_.test.hits_at_10);
  if (report_.reference) std::printf("%-22s %8.4f\n", "reference", report_.reference->test_mrr);
  std::printf("\n%s of training at %s triples/s in all\n", minutes(report_.train_seconds).c_str(),
              rate_text(report_.triples_per_second()).c_str());
  for (const WorkerReport& worker : report_.workers) {
    char speed[32] = "";
    if (worker.speed < 1) std::snprintf(speed, sizeof(speed), ", at %.0f %% speed", 100 * worker.speed);
    std::printf("  %-12s %6llu batches%s%s\n", worker.name.c_str(),
                static_cast<unsigned long long>(worker.batches), speed, worker.alive ? "" : ", died");
  }
  for (const ConsistencyReport& mode : report_.consistency) {
    const StalenessSummary summary = summarize(mode.staleness_counts);
    std::printf("  %-14s staleness mean %.2f, p99 %llu, max %llu", mode.mode.c_str(), summary.mean,
                static_cast<unsigned long long>(summary.p99), static_cast<unsigned long long>(summary.max));
    if (mode.triples_per_second > 0)
      std::printf(";  %s triples/s, %.0f %% of the workers' time at the bound",
                  rate_text(mode.triples_per_second).c_str(),
                  mode.working_seconds > 0 ? 100 * mode.waiting_seconds / mode.working_seconds : 0);
    std::printf("\n");
  }
  for (const FailureReport& failure : report_.failures)
    std::printf("  failure after %s: %s %s\n", minutes(failure.seconds).c_str(), failure.who.c_str(),
                failure.what.c_str());
  std::printf("\n");
  for (const NeighbourReport& word : report_.neighbours) {
    std::printf("%-16s", (word.word + ":").c_str());
    for (const auto& [name, similarity] : word.neighbours) std::printf(" %s", name.c_str());
    std::printf("\n");
  }
  std::printf("\nreport: %s\n", (settings_.out / "report.html").string().c_str());
  std::printf("result: %s\ncheckpoint: %s\n", (settings_.out / "result.json").string().c_str(),
              report_.checkpoint.empty() ? "none" : report_.checkpoint.c_str());
}

}  // namespace troupe::wordnet
