#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <troupe/training/task.hpp>

#include "wordnet/batch_plan.hpp"
#include "wordnet/complex_model.hpp"
#include "wordnet/dataset.hpp"
#include "wordnet/evaluation.hpp"
#include "wordnet/hyper_parameters.hpp"
#include "wordnet/sampler.hpp"

namespace troupe::wordnet {

/// The tables: one row for each entity, and one for each relation and its reciprocal.
shards::TableSpec entity_table(const HyperParameters& parameters);
shards::TableSpec relation_table(const HyperParameters& parameters);

/// ComplEx on a knowledge graph, as a task of the job that trains it.
class WordnetTask : public training::Task {
 public:
  void add_flags(CLI::App& app) override;
  std::vector<std::string> flags_free_to_change() const override;
  Result<void> load() override;
  std::vector<shards::TableSpec> tables() const override;

  std::uint64_t batches_per_epoch() const override { return sampler_->batches_per_epoch(); }
  void plan(const training::BatchId& batch, training::Step& step) override;
  Result<void> compute(const training::BatchId& batch, training::Step& step) override;

  std::uint64_t evaluation_size(training::Split split) const override;
  Result<std::vector<double>> evaluate(const training::EvaluationPart& part,
                                       training::TableGroup& tables) override;
  std::vector<training::Metric> metrics(const std::vector<double>& sums) const override;

  std::string data_identity() const override { return identity_of(graph_); }
  bool adds_to(const std::string& identity) const override { return wordnet::adds_to(graph_, identity); }
  Result<void> begin_report(training::RunReport& report) override;
  Result<void> end_report(training::RunReport& report, training::TableGroup& tables) override;

 private:
  Result<ModelRows> fetch_model(training::TableGroup& tables) const;

  DatasetOptions dataset_;
  HyperParameters parameters_;
  std::size_t valid_triples_ = 300;  // checked after each epoch
  std::vector<std::string> words_{"dog", "computer", "river", "run", "happy"};
  std::size_t neighbours_ = 10;
  std::string reference_file_;

  // From load() on:
  KnowledgeGraph graph_;
  std::optional<Sampler> sampler_;
  std::optional<BatchPlanner> planner_;
  std::optional<ComplexModel> model_;

  Batch batch_;
  BatchPlan plan_;
  std::unique_ptr<KnownAnswers> known_;  // made for the first evaluation
  ModelRows rows_;                       // likewise
  std::optional<std::uint64_t> rows_epoch_;
};

/// What the report says of nearest neighbours: of each word, names and cosines, best first.
using NeighboursOfWord = std::pair<std::string, std::vector<std::pair<std::string, double>>>;
training::ReportSection neighbour_section(const std::vector<NeighboursOfWord>& words);

/// What `wordnet_reference` printed into a file, as its last line. kNotFound, kInvalidArgument.
Result<training::ReferenceReport> read_reference(const std::string& file);

}  // namespace troupe::wordnet
