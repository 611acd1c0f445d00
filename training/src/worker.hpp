#pragma once

#include <chrono>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include <troupe/actors/node.hpp>
#include <troupe/runtime/histogram.hpp>
#include <troupe/training/job_settings.hpp>
#include <troupe/training/table_group.hpp>
#include <troupe/training/task.hpp>

#include "work.hpp"

namespace troupe::training {

/// The tables of a run, by what they are for: those of comparisons have a suffix and a mode of their own.
std::vector<shards::TableSpec> tables_of(const Task& task, const JobSettings& settings, TableSet set);
/// The actors of the shard servers, in order.
std::vector<std::string> server_names(const JobSettings& settings);

/// One worker: does pieces of work on the tables of the shard servers. One thread.
class Worker {
 public:
  /// `node` and `task`, which has its data, must outlive the worker.
  Worker(Node& node, JobSettings settings, Task& task, double speed);

  /// Does the piece; kUnavailable and such if a server is gone.
  Result<WorkDone> run(const Work& work);
  /// Nothing to do for a while: slower workers are not to be waited for, nor this one.
  void rest();
  const std::map<std::string, Histogram>& latencies() const { return latencies_; }

 private:
  Result<TableGroup*> open(TableSet set);
  Result<WorkDone> train(const Work& work);
  Result<WorkDone> evaluate(const Work& work);

  Node& node_;
  JobSettings settings_;
  Task& task_;
  double speed_;
  std::map<TableSet, std::unique_ptr<TableGroup>> tables_;
  std::chrono::nanoseconds waited_{0};          // of the last batch, for slower workers
  std::map<std::string, Histogram> latencies_;  // ns, by method
  Step step_;
};

}  // namespace troupe::training
