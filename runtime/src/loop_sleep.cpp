// How a loop sleeps.
#include <sched.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <span>

#include "loop_parts.hpp"

namespace troupe {
namespace {

constexpr Duration kSleepWithoutEventFd = std::chrono::milliseconds(1);
constexpr Duration kForever{-1};

}  // namespace

Duration Loop::sleep_bound(TimePoint until) {
  const TimePoint end = std::min(until, timers_.next_due());
  Duration bound = end == TimePoint::never() ? kForever : std::max(end - refresh_now(), Duration::zero());
  const bool deaf = std::any_of(sources_.begin(), sources_.end(),
                                [](Source* source) { return source && source->event_fd() < 0; });
  if (deaf) bound = bound < Duration::zero() ? kSleepWithoutEventFd : std::min(bound, kSleepWithoutEventFd);
  return bound;
}

// Sleeps with the turn given up, so that others can take it at once. False, with the turn kept, if a
// source has something already.
bool Loop::sleep_without_turn() {
  if (!arm_sources() || !ready_.empty()) return false;
  const Duration bound = sleep_bound(TimePoint::never());
  ++stats_.sleeps;
  spending_ = Spent::kAsleep;
  home_.store(Home::kAsleep);
  give_turn();
  std::atomic_thread_fence(std::memory_order_seq_cst);  // what post() relies on; giving the turn has none
  if (inbox_->empty() && !stopping_.load()) {
    std::array<epoll_event, 64> events{};
    poller_->wait(events, bound);  // the descriptors are asked again once we have the turn
  }
  home_.store(Home::kAwake);
  return true;
}

// Sleeps with the turn kept: who wants it kicks us. Two threads never sleep in the epoll set, because
// one would take the kick that was meant for the other.
void Loop::sleep_with_turn(TimePoint until) {
  if (home_.load() == Home::kAsleep) {
    poller_->kick();
    sched_yield();
    return;
  }
  if (!arm_sources() || !ready_.empty()) return;
  const Duration bound = sleep_bound(until);
  std::array<epoll_event, 64> events{};
  int count = 0;
  slept_ = true;
  owner_asleep_.store(true);
  if (inbox_->empty() && !arrived_.load()) {
    ++stats_.sleeps;
    spending_ = Spent::kAsleep;
    count = poller_->wait(events, bound);
  }
  owner_asleep_.store(false);
  refresh_now();
  const int did = poller_->dispatch(std::span(events).first(static_cast<std::size_t>(count)), *this);
  stats_.events += static_cast<std::uint64_t>(did);
}

}  // namespace troupe
