#include <troupe/shards/clock_policy.hpp>

#include <algorithm>
#include <cassert>
#include <string>
#include <utility>
#include <vector>

#include <troupe/runtime/raised.hpp>

namespace troupe::shards {
namespace {

Error not_taking_part(std::uint64_t worker) {
  return {Code::kNotFound, "worker " + std::to_string(worker) + " takes no part in this table: join first"};
}

std::uint64_t bound_of(const Consistency& mode) {
  const auto* bounded = std::get_if<BoundedStaleness>(&mode);
  return bounded != nullptr ? bounded->bound : UINT64_MAX;
}

std::uint64_t quorum_of(const Consistency& mode) {
  const auto* some = std::get_if<KOfN>(&mode);
  return some != nullptr ? some->k : UINT64_MAX;
}

LatePushes late_of(const Consistency& mode) {
  const auto* some = std::get_if<KOfN>(&mode);
  return some != nullptr ? some->late : LatePushes::kDrop;
}

template <class T>
T take_front(std::deque<T>& queue) {
  T front = std::move(queue.front());
  queue.pop_front();
  return front;
}

}  // namespace

ClockPolicy::ClockPolicy(const Consistency& mode)
    : in_rounds_(shards::in_rounds(mode)),
      bound_(bound_of(mode)),
      quorum_(quorum_of(mode)),
      late_(late_of(mode)) {}

// ---- Workers ------------------------------------------------------------------------------------

std::uint64_t ClockPolicy::join(std::uint64_t worker) {
  const auto [at, joined] = clocks_.try_emplace(worker, 0);
  if (!joined) return at->second;
  at->second = in_rounds_ ? round_ + (begun_ ? 1 : 0) : minimum_clock();
  const std::uint64_t clock = at->second;
  ordered_.insert(clock);
  settle();
  return clock;
}

Result<void> ClockPolicy::advance(std::uint64_t worker, std::uint64_t clock) {
  if (!clocks_.contains(worker)) return not_taking_part(worker);
  set_clock(worker, clock);
  settle();
  return {};
}

bool ClockPolicy::leave(std::uint64_t worker) {
  const auto found = clocks_.find(worker);
  if (found == clocks_.end()) return false;
  ordered_.erase(ordered_.find(found->second));
  clocks_.erase(found);
  told_.erase(worker);
  // What a waiter owns may call back as it goes, so it goes last.
  std::vector<Waiter> dropped;
  for (auto waiter = waiters_.begin(); waiter != waiters_.end();) {
    if (waiter->second.worker == worker) {
      dropped.push_back(std::move(waiter->second));
      waiter = waiters_.erase(waiter);
    } else {
      ++waiter;
    }
  }
  if (in_rounds_) left_.push_back(worker);
  settle();
  return true;
}

std::uint64_t ClockPolicy::open_clock() const {
  if (in_rounds_) return rounds_done_;
  const std::uint64_t minimum = minimum_clock();
  return ordered_.empty() || minimum > UINT64_MAX - bound_ ? UINT64_MAX : minimum + bound_;
}

bool ClockPolicy::may_proceed(std::uint64_t clock) const {
  return clock <= open_clock();
}

Result<void> ClockPolicy::wait(std::uint64_t worker, std::uint64_t clock, UniqueFunction<void()> resume) {
  if (!clocks_.contains(worker)) return not_taking_part(worker);
  set_clock(worker, clock);
  if (!may_proceed(clock)) ++deferred_;
  waiters_.emplace(WaiterKey{clock, arrivals_++}, Waiter{worker, std::move(resume)});
  settle();
  return {};
}

void ClockPolicy::set_clock(std::uint64_t worker, std::uint64_t clock) {
  std::uint64_t& present = clocks_.at(worker);
  if (clock <= present) return;
  ordered_.erase(ordered_.find(present));
  ordered_.insert(clock);
  present = clock;
}

// A function that runs may call again; the outermost release() then finds what it freed. One that throws
// leaves the others waiting for the next release().
void ClockPolicy::release() {
  if (releasing_) return;
  const Raised releasing(releasing_);
  for (;;) {
    if (!to_tell_.empty()) {
      Offer offer = take_front(to_tell_);
      offer.told(offer.verdict);
    } else if (!waiters_.empty() && may_proceed(waiters_.begin()->first.clock)) {
      auto node = waiters_.extract(waiters_.begin());
      if (node.key().clock >= round_) begun_ = true;
      node.mapped().resume();
    } else {
      return;
    }
  }
}

/// Brings everything to where the clocks and offers allow.
void ClockPolicy::settle() {
  if (in_rounds_) decide();
  release();
}

void ClockPolicy::close() {
  clocks_.clear();
  ordered_.clear();
  told_.clear();
  left_.clear();
  // Last, as in leave().
  const auto waiting = std::exchange(waiters_, {});
  const auto offers = std::exchange(offers_, {});
  const auto orders = std::exchange(orders_, {});
  const auto to_tell = std::exchange(to_tell_, {});
}

// ---- Rounds -------------------------------------------------------------------------------------

void ClockPolicy::decide() {
  while (quorum()) decide_round();
  // Nobody is left who could push for this round, and nobody has: those who wait begin where they are.
  if (!offers_.empty() || ordered_.empty() || *ordered_.begin() <= round_) return;
  round_ = *ordered_.begin();
  begun_ = false;
  if (orders_.empty()) {
    rounds_done_ = round_;
  } else {
    orders_.back().rounds_done = round_;
  }
}

/// Whether round_ has its pushes: k of them, or those of all who take part in it.
bool ClockPolicy::quorum() const {
  if (offers_.empty()) return false;
  if (offers_.size() >= quorum_) return true;
  return std::all_of(clocks_.begin(), clocks_.end(), [this](const auto& worker) {
    return worker.second > round_ || offers_.contains(worker.first);
  });
}

ClockPolicy::Ordered& ClockPolicy::append(std::uint64_t rounds_done) {
  orders_.push_back({});
  orders_.back().order.number = ++order_number_;
  orders_.back().rounds_done = rounds_done;
  return orders_.back();
}

void ClockPolicy::decide_round() {
  Ordered& decided = append(round_ + 1);
  double samples = 0;
  for (const auto& [worker, offer] : offers_) samples += static_cast<double>(offer.samples);
  for (auto& [worker, offer] : offers_) {
    decided.order.take.push_back(
        {offer.push, static_cast<float>(static_cast<double>(offer.samples) / samples)});
    offer.verdict = {.applied = true, .lost = false, .staleness = 0, .next_clock = round_ + 1};
    if (const auto at = clocks_.find(worker); at != clocks_.end()) {
      told_[worker] = {offer.push.sequence, offer.verdict};
      set_clock(worker, round_ + 1);
    }
    decided.offers.push_back(std::move(offer));
  }
  offers_.clear();
  decided.order.left = std::exchange(left_, {});
  ++round_;
  begun_ = false;
}

/// Its worker goes on with the round that is open.
void ClockPolicy::decide_late(Offer offer, std::uint64_t clock) {
  const std::uint64_t late = round_ - clock;
  Ordered& decided = append(orders_.empty() ? rounds_done_ : orders_.back().rounds_done);
  offer.verdict = {
      .applied = late_ == LatePushes::kScale, .lost = false, .staleness = late, .next_clock = round_};
  if (offer.verdict.applied) {
    decided.order.take.push_back({offer.push, 1.0F});
    decided.order.rate_scale = 1.0F / (1.0F + static_cast<float>(late));
  } else {
    decided.order.forget.push_back(offer.push);
  }
  told_[offer.push.worker] = {offer.push.sequence, offer.verdict};
  set_clock(offer.push.worker, round_);
  decided.offers.push_back(std::move(offer));
}

/// Whether this push has been offered before; whoever repeats it takes the place of who did.
bool ClockPolicy::repeat(const PushName& push, UniqueFunction<void(const Verdict&)>& told) {
  if (const auto open = offers_.find(push.worker); open != offers_.end() && open->second.push == push) {
    open->second.told = std::move(told);
    return true;
  }
  for (Ordered& ordered : orders_) {
    for (Offer& offer : ordered.offers) {
      if (offer.push != push) continue;
      offer.told = std::move(told);
      return true;
    }
  }
  const auto known = told_.find(push.worker);
  if (known == told_.end() || known->second.first != push.sequence) return false;
  to_tell_.push_back({.push = push, .samples = 0, .verdict = known->second.second, .told = std::move(told)});
  return true;
}

Result<void> ClockPolicy::offer(PushName push, std::uint64_t clock, std::uint64_t samples,
                                UniqueFunction<void(const Verdict&)> told) {
  const auto at = clocks_.find(push.worker);
  if (at == clocks_.end()) return not_taking_part(push.worker);
  const std::string who = "worker " + std::to_string(push.worker);
  if (!in_rounds_) return Error{Code::kFailedPrecondition, "this table has no rounds to push for"};
  if (samples == 0)
    return Error{Code::kInvalidArgument,
                 who + " pushed for 0 samples, expected 1 or more: they are its weight"};
  if (repeat(push, told)) {
    release();
    return {};
  }
  if (clock > round_ || (clock == round_ && at->second > round_)) {
    return Error{Code::kFailedPrecondition, who + " pushed for round " + std::to_string(clock) +
                                                ", which has not come: round " + std::to_string(round_) +
                                                " is open"};
  }
  Offer offer{.push = push, .samples = samples, .verdict = {}, .told = std::move(told)};
  if (clock < round_) {
    decide_late(std::move(offer), clock);
  } else if (!offers_.try_emplace(push.worker, std::move(offer)).second) {
    return Error{Code::kFailedPrecondition,
                 who + " has pushed for round " + std::to_string(clock) + " already"};
  }
  if (clock == round_) begun_ = true;
  settle();
  return {};
}

void ClockPolicy::lose_offers() {
  const auto lose = [this](Offer& offer) {
    const auto at = clocks_.find(offer.push.worker);
    offer.verdict = {.applied = false,
                     .lost = true,
                     .staleness = 0,
                     .next_clock = at == clocks_.end() ? round_ : at->second};
    if (at != clocks_.end()) told_[offer.push.worker] = {offer.push.sequence, offer.verdict};
  };
  for (Ordered& ordered : orders_)
    for (Offer& offer : ordered.offers) lose(offer);
  for (auto& [worker, offer] : offers_) {
    lose(offer);
    to_tell_.push_back(std::move(offer));
  }
  offers_.clear();
  settle();
}

void ClockPolicy::carried_out() {
  assert(!orders_.empty());
  Ordered done = take_front(orders_);
  rounds_done_ = std::max(rounds_done_, done.rounds_done);
  for (Offer& offer : done.offers) to_tell_.push_back(std::move(offer));
  settle();
}

}  // namespace troupe::shards
