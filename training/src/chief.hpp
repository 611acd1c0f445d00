#pragma once

#include <atomic>
#include <chrono>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <troupe/actors/node.hpp>
#include <troupe/actors/shard_server.hpp>
#include <troupe/shards/snapshot.hpp>
#include <troupe/training/program.hpp>
#include <troupe/training/report.hpp>
#include <troupe/training/table_group.hpp>

#include "coordinator.hpp"
#include "progress.hpp"
#include "rate_window.hpp"
#include "roles.hpp"
#include "run_progress.hpp"
#include "step_times.hpp"

namespace troupe::training {

/// A job from start to end, as its first process sees it. One thread; what it shares with the
/// node's loop (coordinator, notices of death) it touches with the loop's turn.
class Chief {
 public:
  /// `flags` are those of which `settings` and `task` were made. `program` must outlive the chief.
  Chief(Place place, const Program& program, FlagWords flags, JobSettings settings,
        std::unique_ptr<Task> task, std::string command);
  ~Chief();

  /// The whole job; an error ends it.
  Result<void> run(const Resume& resume);
  /// Says on standard error why the job ended, and how to go on.
  void tell_failure(const Error& error);
  /// From any thread: end soon, with an error of kCancelled.
  void interrupt() { interrupted_ = true; }
  /// Whether all processes had come.
  bool has_begun() const { return training_; }
  /// From any thread: which checkpoint there is, and the command that goes on from it.
  std::string hint() const;

 private:
  using SteadyClock = std::chrono::steady_clock;

  // chief.cpp: the course of the job
  Result<void> run_all(const Resume& resume);
  Result<void> prepare(const Resume& resume);
  Result<void> check_tables() const;
  Result<void> gather_processes();
  Result<void> wait_for_all();
  Result<void> wait_for_servers();
  Result<void> train_and_check(std::uint64_t epoch);
  Result<void> make_tables();
  Result<void> train_epoch(std::uint64_t epoch);
  Result<std::vector<Metric>> evaluate(std::uint64_t epoch, Split split);
  Result<void> time_mode(TableSet tables, const std::string& phase, double seconds, std::uint64_t epoch);
  Result<ConsistencyReport> measure_mode(TableSet tables, const shards::Consistency& consistency,
                                         const char* suffix);
  Result<void> compare_modes();
  Result<void> finish();
  /// Lets the others go, and then goes itself.
  void end_others();

  // chief_checkpoints.cpp: where it went on from, and what it leaves
  Result<void> take_place();
  /// The checkpoint to go on from.
  Result<void> find(const Resume& resume, shards::Check check);
  Result<void> restore(const Resume& resume);
  Result<std::uint64_t> restore_tables();
  RunProgress run_progress() const;
  Result<shards::Manifest> save_files(const std::string& folder);
  Result<void> save_checkpoint(std::uint64_t epoch);

  // chief_watch.cpp: what goes on meanwhile
  /// Lets the phase in the queue go on to its end, showing it as `phase`.
  Result<void> drive(const std::string& phase,
                     std::chrono::duration<double> at_most = std::chrono::hours(1000));
  void on_change(const MembershipChange& change);
  void worker_lost(const std::string& name, const std::string& how, Code code);
  Result<void> check() const;
  void take_failures(Duration age);
  /// The error by which the job ends: if something died, that, and not what came of it.
  Error cause_of(const Error& error);
  void ask_servers();
  void sample();
  void add_loss(double at);
  /// Seconds of training until now.
  double training_time() const {
    return train_seconds_ + (coordinator_->queue_is_training() ? phase_seconds_ : 0);
  }
  double seconds_left(double fraction) const;
  ProgressView view(const std::string& phase) const;
  /// Of a table, by server, asked now.
  Result<std::vector<TableStats>> table_stats(const std::string& table);
  /// Of the workers' and the servers' nodes, asked now; without those that do not answer.
  JobMetrics job_metrics() const;

  // chief_report.cpp: what remains of it
  Result<void> add_staleness();
  void add_workers_and_latencies();
  void add_settings();
  void print_summary() const;

  Place place_;
  const Program& program_;
  FlagWords flags_;
  std::string command_;  // the program, for the line that says how to resume
  JobSettings settings_;
  std::vector<std::string> servers_;  // their actors
  std::unique_ptr<Task> task_;
  std::optional<shards::CheckpointLock> lock_;  // of the checkpoint's place
  std::optional<FoundRun> found_;               // on resuming
  std::unique_ptr<Node> node_;
  std::shared_ptr<Coordinator> coordinator_;
  std::unique_ptr<TableGroup> tables_;
  Progress progress_;
  RunReport report_;
  StepTimes step_times_;
  std::uint64_t first_epoch_ = 1;
  std::uint64_t epochs_done_ = 0;
  std::atomic<std::uint64_t> checkpoint_epoch_{0};  // 0: none
  SteadyClock::time_point begun_at_;
  double seconds_per_epoch_ = 0;    // with what comes after it; 0: not known yet
  double seconds_per_example_ = 0;  // of evaluation
  double time_limit_seconds_ = 0;   // of the present phase; 0: none
  std::optional<Metric> valid_;

  std::atomic<bool> interrupted_{false};
  std::atomic<bool> training_{false};  // all processes are there
  // With the loop's turn:
  double train_seconds_ = 0;  // of epochs that are over, before a resume too
  double phase_seconds_ = 0;  // of the present phase
  std::optional<Error> fatal_;
  std::vector<FailureReport> failures_;
  std::vector<std::string> news_;  // for the screen
  bool finishing_ = false;
  std::map<std::string, RateWindow> rates_;  // by worker, over training time
  double sampled_at_ = -1;                   // training time of the last point of throughput_
  std::map<std::string, std::vector<TimedValue>> throughput_;
  std::map<std::string, TableStats> table_stats_;  // of the first table, by server, as last heard
  std::map<std::string, bool> asked_;
  std::pair<double, std::uint64_t> loss_before_{0, 0};  // sum, examples of the epoch
  double staleness_mean_ = -1;
  std::pair<double, double> staleness_before_{0, 0};  // sum, pushes
};

}  // namespace troupe::training
