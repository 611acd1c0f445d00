#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <set>
#include <utility>
#include <vector>

#include <troupe/runtime/result.hpp>
#include <troupe/runtime/task.hpp>
#include <troupe/shards/table_spec.hpp>

namespace troupe::shards {

/// A push as its worker numbers it.
struct PushName {
  std::uint64_t worker = 0;
  std::uint64_t sequence = 0;
  friend auto operator<=>(const PushName&, const PushName&) = default;
};

/// What every shard of a table is to do with the pushes that it has been given: one step with the weighted
/// sum of some, and others forgotten. A table's orders are numbered from 1 on and carried out one after the
/// other.
struct StepOrder {
  struct Part {
    PushName push;
    float weight = 1;
    friend bool operator==(const Part&, const Part&) = default;
  };
  std::uint64_t number = 0;
  std::vector<Part> take;           ///< in the order of their workers; empty: no step
  float rate_scale = 1;             ///< times the learning rate
  std::vector<PushName> forget;     ///< came too late
  std::vector<std::uint64_t> left;  ///< workers of whom no push is awaited any more
  friend bool operator==(const StepOrder&, const StepOrder&) = default;
};

/// What became of a push that was offered for a round.
struct Verdict {
  bool applied = false;          ///< false: it came too late and was dropped, or is lost
  bool lost = false;             ///< the table was restored before it was applied
  std::uint64_t staleness = 0;   ///< rounds that had been decided before it came, from its own on
  std::uint64_t next_clock = 0;  ///< of the worker: the round of its next batch
  friend bool operator==(const Verdict&, const Verdict&) = default;
};

/// Who may go on, and which pushes make a step, by the consistency of a table. One decides for a table, so
/// that all its shards count the same workers.
///
/// Asynchronous: everyone may. Bounded staleness: a worker at clock c may go on only if
/// c <= (least clock of those who take part) + bound; bound 0 is lock step, and the slowest never waits.
///
/// Synchronous and k of n: clocks are rounds. A worker at clock c may go on once all rounds below c have been
/// carried out. It pushes once for each round; a round is decided when all who take part in it have, or k of
/// them, and is one step with the mean of their gradients, weighted by samples. What comes for a round that
/// was decided before is late. A worker who joins takes part from the first round on that nobody has begun,
/// one who leaves is not waited for any more: the others go on either way.
///
/// State without threads: one loop owns it. Functions that it was given run inside its methods, last and when
/// its state is consistent again, so they may call it, but not destroy it.
class ClockPolicy {
 public:
  explicit ClockPolicy(const Consistency& mode);

  /// Whether pushes are gathered for rounds.
  bool in_rounds() const { return in_rounds_; }

  // ---- Workers

  /// `worker` takes part; returns the clock at which it begins, or the one it has if it takes part already.
  std::uint64_t join(std::uint64_t worker);
  /// `worker` has reached `clock` (has finished all its work below it). Runs the waiters that this frees. A
  /// clock not above the present one changes nothing, so repeats do no harm. kNotFound if it takes no part.
  Result<void> advance(std::uint64_t worker, std::uint64_t clock);
  /// `worker` has finished, left or died: its waiters are dropped without being run, and those whom it held
  /// back run. What it has offered counts. Returns whether it took part; unknown workers are no fault (death
  /// is noticed more than once).
  bool leave(std::uint64_t worker);
  /// Its table goes: nobody takes part any more, and all who wait or have offered are dropped without being
  /// run.
  void close();

  /// Whether a worker at `clock` may go on now.
  bool may_proceed(std::uint64_t clock) const;
  /// Runs `resume` at once if `worker` may go on at `clock`, else when it may: waiters run by ascending
  /// clock, and in order of arrival within one clock. kNotFound, without keeping `resume`, if the worker
  /// takes no part. Waiting at a clock is also reaching it: wait() implies advance(worker, clock).
  Result<void> wait(std::uint64_t worker, std::uint64_t clock, UniqueFunction<void()> resume);

  std::size_t workers() const { return clocks_.size(); }
  std::size_t waiting() const { return waiters_.size(); }
  /// Up to this clock nobody waits, now and ever after: the least clock of those who take part, with bounded
  /// staleness plus the bound; in rounds, the first that has not been carried out.
  std::uint64_t open_clock() const;
  /// Least clock of those who take part; 0 if there are none.
  std::uint64_t minimum_clock() const { return ordered_.empty() ? 0 : *ordered_.begin(); }
  /// How often wait() had to defer, for the report of what waiting costs.
  std::uint64_t deferred() const { return deferred_; }

  // ---- Rounds

  /// All shards have been given `worker`'s push for round `clock`. `told` runs once what is decided of it
  /// has been carried out. An offer that is repeated is told the same, and only the last to repeat it.
  /// kNotFound: takes no part. kInvalidArgument: no samples. kFailedPrecondition, keeping nothing: `clock`
  /// has not come yet, the worker has offered another push for it, or the table has no rounds.
  Result<void> offer(PushName push, std::uint64_t clock, std::uint64_t samples,
                     UniqueFunction<void(const Verdict&)> told);
  /// What the shards are to carry out now; null: nothing.
  const StepOrder* order() const { return orders_.empty() ? nullptr : &orders_.front().order; }
  /// All shards have carried out order(). Precondition: there is one.
  void carried_out();
  /// The shards have lost what they were given: all that was offered and not carried out is told that it is
  /// lost, and the open round begins anew.
  void lose_offers();
  /// The round that is open: the first that is not decided.
  std::uint64_t round() const { return round_; }

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
  struct Offer {
    PushName push;
    std::uint64_t samples = 0;
    Verdict verdict;
    UniqueFunction<void(const Verdict&)> told;
  };
  struct Ordered {
    StepOrder order;
    std::vector<Offer> offers;
    std::uint64_t rounds_done = 0;  // once it has been carried out
  };
  void set_clock(std::uint64_t worker, std::uint64_t clock);
  void release();
  void settle();
  void decide();
  bool quorum() const;
  void decide_round();
  void decide_late(Offer offer, std::uint64_t clock);
  bool repeat(const PushName& push, UniqueFunction<void(const Verdict&)>& told);
  Ordered& append(std::uint64_t rounds_done);

  const bool in_rounds_;
  const std::uint64_t bound_;  // UINT64_MAX: none
  const std::uint64_t quorum_;
  const LatePushes late_;
  std::map<std::uint64_t, std::uint64_t> clocks_;  // worker -> clock
  std::multiset<std::uint64_t> ordered_;           // the same clocks
  std::map<WaiterKey, Waiter> waiters_;
  std::uint64_t arrivals_ = 0;
  std::uint64_t deferred_ = 0;
  bool releasing_ = false;

  std::uint64_t round_ = 0;
  std::uint64_t rounds_done_ = 0;          // carried out
  bool begun_ = false;                     // somebody works at round_, or has offered for it
  std::map<std::uint64_t, Offer> offers_;  // for round_, by worker
  std::deque<Ordered> orders_;
  std::deque<Offer> to_tell_;  // carried out
  std::uint64_t order_number_ = 0;
  std::vector<std::uint64_t> left_;  // whom the next order of a round tells of
  std::map<std::uint64_t, std::pair<std::uint64_t, Verdict>>
      told_;  // worker -> last sequence, what became of it
};

}  // namespace troupe::shards
