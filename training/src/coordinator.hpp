#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include <troupe/rpc/methods.hpp>
#include <troupe/runtime/histogram.hpp>
#include <troupe/runtime/loop.hpp>

#include "work_queue.hpp"

namespace troupe::training {

/// What the coordinator knows of one worker.
struct WorkerRecord {
  double speed = 1;
  bool alive = true;
  std::uint64_t batches = 0;
  std::uint64_t examples = 0;        ///< of the model, not of comparisons
  std::uint64_t phase_examples = 0;  ///< of the present phase
  std::uint64_t dropped = 0;         ///< of its batches: gradients that came too late for their round
};

/// The state of the actor "coordinator" on the chief's node: hands out work and gathers what comes of it.
/// The chief's main thread works with it too, with the loop's turn.
class Coordinator {
 public:
  static constexpr const char* kName = "coordinator";

  Coordinator(Loop& loop, std::string settings) : loop_(loop), settings_(std::move(settings)) {}
  static void methods(rpc::Methods<Coordinator>& methods);

  // ---- Called by workers --------------------------------------------------------------------------
  /// The job's settings, as JSON.
  std::string settings() const { return settings_; }
  /// A worker is ready to work, for the first time or again after it had died. (That names are unique is
  /// the registry's business.)
  Result<void> hello(const std::string& worker, double speed);
  /// Takes a report and gives the next piece of work. To a report of kWait it answers only once there is
  /// something new, or after kPatience.
  rpc::Future<Work> next(const std::string& worker, const WorkDone& done);
  /// The worker cannot go on; what it had goes to others.
  Result<void> failed(const std::string& worker, const WorkerFailure& failure);
  /// Latencies in nanoseconds by method, as Histogram::serialise(); at the end.
  Result<void> farewell(const std::string& worker,
                        const std::map<std::string, std::vector<std::uint64_t>>& latencies);

  // ---- For the chief ------------------------------------------------------------------------------
  WorkQueue& queue() { return queue_; }
  const WorkQueue& queue() const { return queue_; }
  /// Whether the present phase trains the model itself.
  bool queue_is_training() const {
    return queue_.kind() == WorkKind::kTrain && queue_.tables() == TableSet::kOwn;
  }
  /// A phase has begun, with fresh sums: wakes those who wait.
  void phase_began();
  /// Nothing comes any more: everybody gets kFinish.
  void finish();
  void worker_gone(const std::string& worker);
  /// Lets those go who have waited for kPatience.
  void tick();

  /// Failures that workers told of at least `age` ago, each once. A death of another process that explains
  /// them has become known meanwhile.
  std::vector<std::pair<std::string, WorkerFailure>> take_failures(Duration age);

  double loss_sum() const { return loss_sum_; }
  std::uint64_t examples() const { return examples_; }
  const std::vector<double>& sums() const { return sums_; }
  const std::map<std::string, WorkerRecord>& workers() const { return workers_; }
  const std::map<std::string, Histogram>& latencies() const { return latencies_; }
  std::size_t farewells() const { return farewells_; }
  std::size_t alive() const;

 private:
  static constexpr Duration kPatience{std::chrono::seconds(10)};
  struct Waiter {
    std::string worker;
    TimePoint since;
    rpc::Promise<Work> promise;
  };
  struct ToldFailure {
    std::string worker;
    WorkerFailure failure;
    TimePoint at;
  };
  void record(const std::string& worker, const WorkDone& done);
  void serve_waiters();

  Loop& loop_;
  std::string settings_;
  WorkQueue queue_;
  bool finishing_ = false;
  std::vector<Waiter> waiters_;
  std::vector<ToldFailure> failures_;
  std::map<std::string, WorkerRecord> workers_;
  double loss_sum_ = 0;  // of the present phase, as are the next two
  std::uint64_t examples_ = 0;
  std::vector<double> sums_;
  std::map<std::string, Histogram> latencies_;
  std::size_t farewells_ = 0;
};

}  // namespace troupe::training
