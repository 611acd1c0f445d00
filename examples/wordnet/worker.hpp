#pragma once

#include <chrono>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <troupe/actors/node.hpp>
#include <troupe/actors/table_client.hpp>
#include <troupe/runtime/histogram.hpp>

#include "wordnet/complex_model.hpp"
#include "wordnet/evaluation.hpp"
#include "wordnet/settings.hpp"
#include "wordnet/work.hpp"

namespace troupe::wordnet {

/// One worker: does pieces of work on the tables of the shard servers. One thread.
class Worker {
 public:
  /// `node` and `graph` must outlive the worker.
  Worker(Node& node, const JobSettings& settings, const KnowledgeGraph& graph, double speed);

  /// Does the piece; kUnavailable and such if a server is gone.
  Result<WorkDone> run(const Work& work);
  /// Nothing to do for a while: slower workers are not to be waited for, nor this one.
  void rest();
  const std::map<std::string, Histogram>& latencies() const { return latencies_; }

 private:
  /// The tables of one TableSet.
  struct Tables {
    std::unique_ptr<TableClient> entities;
    std::unique_ptr<TableClient> relations;
  };
  Result<Tables*> open(TableSet set);
  Result<StepResult> pull_and_compute(Tables& tables);
  Result<WorkDone> train(const Work& work);
  Result<WorkDone> evaluate(const Work& work);
  Result<void> fetch_model(std::uint64_t epoch);

  Node& node_;
  JobSettings settings_;
  const KnowledgeGraph& graph_;
  double speed_;
  Sampler sampler_;
  BatchPlanner planner_;
  ComplexModel model_;
  std::unique_ptr<KnownAnswers> known_;  // made for the first evaluation
  std::map<TableSet, Tables> tables_;
  bool resting_ = false;
  std::chrono::nanoseconds waited_{0};          // of the last batch, for slower workers
  std::map<std::string, Histogram> latencies_;  // ns, by method

  Batch batch_;
  BatchPlan plan_;
  PulledVersions entity_versions_, relation_versions_;
  std::vector<float> entity_rows_, relation_rows_, entity_grads_, relation_grads_;
  ModelRows rows_;                           // for evaluation
  std::optional<std::uint64_t> rows_epoch_;  // whose rows those are
};

/// All rows of a table into out[count, dim], in pieces, as they are.
Result<void> read_rows(TableClient& table, std::uint64_t count, float* out);

}  // namespace troupe::wordnet
