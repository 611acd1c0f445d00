#pragma once

#include <cstdint>
#include <map>
#include <set>
#include <vector>

#include <troupe/runtime/result.hpp>
#include <troupe/runtime/task.hpp>

namespace troupe::shards {

/// Bounded staleness (stale synchronous parallel: Ho et al. 2013, section 2): a worker at clock c may go on
/// only if c <= (least clock of the workers taking part) + bound. Bound 0 is lock step; the slowest worker
/// never waits. A worker that leaves, finishes or dies is no longer counted, so it holds nobody back.
///
/// State without threads: one loop owns it. `resume` functions run inside advance(), leave() and join(),
/// after the gate's state is consistent again, so they may call the gate.
class StalenessGate {
 public:
  explicit StalenessGate(std::uint64_t bound) : bound_(bound) {}

  std::uint64_t bound() const { return bound_; }

  /// `worker` takes part from `clock` on. A newcomer behind the others would stop them: give it
  /// join_clock(). kAlreadyExists if it takes part already.
  Result<void> join(std::uint64_t worker, std::uint64_t clock);
  /// The least clock of those taking part; 0 if there are none.
  std::uint64_t join_clock() const { return minimum_clock(); }

  /// `worker` has reached `clock` (has finished all its work below it). Runs the waiters that this frees.
  /// A clock not above the present one changes nothing, so repeats do no harm. kNotFound if it takes no
  /// part.
  Result<void> advance(std::uint64_t worker, std::uint64_t clock);

  /// `worker` has finished, left or died: its waiters are dropped without being run, and those whom it held
  /// back run. Returns whether it took part; unknown workers are no fault (death is noticed more than once).
  bool leave(std::uint64_t worker);
  /// Its table goes: nobody takes part any more, and all who wait are dropped without being run.
  void close();

  /// Whether a worker at `clock` may go on now. With nobody taking part everyone may.
  bool may_proceed(std::uint64_t clock) const;

  /// Runs `resume` at once if `worker` may go on at `clock`, else when it may: waiters run by ascending
  /// clock, and in order of arrival within one clock. kNotFound, without keeping `resume`, if the worker
  /// takes no part. Waiting at a clock is also reaching it: wait() implies advance(worker, clock).
  Result<void> wait(std::uint64_t worker, std::uint64_t clock, UniqueFunction<void()> resume);

  std::size_t workers() const { return clocks_.size(); }
  std::size_t waiting() const { return waiters_.size(); }
  std::uint64_t minimum_clock() const { return ordered_.empty() ? 0 : *ordered_.begin(); }
  /// How often wait() had to defer, for the report of what bounded staleness costs.
  std::uint64_t deferred() const { return deferred_; }

 private:
  struct WaiterKey {
    std::uint64_t clock;
    std::uint64_t arrival;
    friend auto operator<=>(const WaiterKey&, const WaiterKey&) = default;
  };
  struct Waiter {
    std::uint64_t worker;
    UniqueFunction<void()> resume;
  };
  void set_clock(std::uint64_t worker, std::uint64_t clock);
  void release();

  std::uint64_t bound_;
  std::map<std::uint64_t, std::uint64_t> clocks_;  // worker -> clock
  std::multiset<std::uint64_t> ordered_;           // the same clocks
  std::map<WaiterKey, Waiter> waiters_;
  std::uint64_t arrivals_ = 0;
  std::uint64_t deferred_ = 0;
  bool releasing_ = false;
};

}  // namespace troupe::shards
