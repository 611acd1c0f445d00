#pragma once

#include <condition_variable>
#include <mutex>
#include <optional>
#include <vector>

#include <troupe/shards/communicator.hpp>

namespace troupe::shards {

/// What a Work and the communicator's thread share.
class Work::State {
 public:
  State() = default;
  virtual ~State() = default;
  State(const State&) = delete;
  State& operator=(const State&) = delete;

  bool done();
  Result<void> wait(std::optional<Duration> timeout);
  void then(UniqueFunction<void(const Result<void>&)> told);
  virtual Result<void> before(const Stream& stream);
  /// The first call counts. Runs what waits for it.
  void finish(Result<void> ended);

 protected:
  /// The end, if it is known.
  std::optional<Result<void>> result() const;

 private:
  /// For one whose end can be seen before anybody finishes it: whether it can, and whether it is seen.
  virtual bool visible() const { return false; }
  virtual bool seen() const { return false; }
  /// Looks, and finishes what can be finished. Called by whoever waits.
  virtual void look() {}
  void look_until(std::optional<std::chrono::steady_clock::time_point> due);

  mutable std::mutex mutex_;
  std::condition_variable ended_;
  std::optional<Result<void>> result_;
  bool told_all_ = false;  // who comes now is told at once; before that, behind the others
  std::vector<UniqueFunction<void(const Result<void>&)>> told_;
};

/// One that has ended already.
Work ended_work(Result<void> result);

}  // namespace troupe::shards
