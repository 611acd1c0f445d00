#pragma once

#include <map>
#include <string>

#include <troupe/actors/node_metrics.hpp>

#include <troupe/training/report.hpp>

namespace troupe::training {

/// What the nodes of the workers and of the shard servers say of themselves at one moment, by name.
using JobMetrics = std::map<std::string, NodeMetrics>;

/// Where the workers' time in training went, from what their nodes and those of the shard servers count.
///
/// A worker's time (its loop's age) is divided into parts that add up to it:
/// - waiting for tables: a pull was open, or a push (a worker of this job has never both open);
/// - idle: it waited for its next batch, or its loop was driven with none of these calls open: it was held
///   back;
/// - compute: the rest.
///
/// Calls overlap, so their durations add up to more than was waited for them. The waiting is divided in the
/// proportion of what went into these durations:
/// - bound: the worker's pulls waited at the staleness bound, as the tables count it by caller;
/// - shard: the shard servers had its calls, bound aside. They time calls (from arrival to answer) of all
///   workers together; each worker has the part of it that it has of the work on rows, which the tables
///   count by caller;
/// - network: the rest, which is the worker's durations less the servers'.
class StepTimes {
 public:
  /// A phase of training, from its metrics before and after. A worker that was not there throughout, as the
  /// same process, has no part in it; without all servers nothing can be said.
  void add(const JobMetrics& before, const JobMetrics& after);
  /// All zero if nothing is known of the worker.
  TimeShares of(const std::string& worker) const;

 private:
  /// In nanoseconds, which are exact in a double for a hundred days.
  struct Worker {
    double wall = 0, absent = 0, next = 0, open = 0, durations = 0;
    double bound = 0, shard = 0;
  };
  std::map<std::string, Worker> workers_;
};

}  // namespace troupe::training
