// Who drives: how the turn is taken, waited for, lent and given back.

#include <sched.h>

#include <algorithm>

#include "loop_parts.hpp"

namespace troupe {
namespace {

/// How often run()'s thread looks whether others still drive; less often while they do so without pause, for
/// looking takes the core from them: every millisecond would be the 99th percentile of calls over TCP. So
/// after they stop it is back within two of the longest steps.
constexpr Duration kParkStep = std::chrono::milliseconds(1);
constexpr Duration kLongestPark = std::chrono::milliseconds(4);
/// While one and the same thread drives, which wakes it when it leaves: hundreds of processes that wait for a
/// core would spend a third of it on looking.
constexpr Duration kLongestWait = std::chrono::milliseconds(32);
constexpr std::uint64_t kWithoutPause = 32;  // waits begun since it looked last
constexpr Duration kLongStep = std::chrono::milliseconds(500);

}  // namespace

bool Loop::try_take_turn() {
  std::thread::id nobody;
  return owner_.load(std::memory_order_relaxed) == nobody &&
         owner_.compare_exchange_strong(nobody, std::this_thread::get_id());
}

void Loop::take_turn() {
  if (try_take_turn()) return;
  Waiter self;
  wait_for_turn(self, TimePoint::never());
}

// Without a fence: it would wait until the message that the thread has just written has reached another
// core's cache. So a waiter that has raised wanting_turn_ just now may be overlooked, and sees itself that
// the turn is free (wait_for_turn). A task that was posted just now may be overlooked too, while run()'s
// thread stands aside: it looks every kLongestPark at least, and it is always told of a turn that was only
// borrowed.
void Loop::give_turn() {
  for (;;) {
    if (wanting_turn_.load(std::memory_order_relaxed) > 0 && hand_over(false)) return;
    owner_.store(std::thread::id{}, std::memory_order_release);
    if (wanting_turn_.load(std::memory_order_relaxed) == 0) break;
    if (!try_take_turn()) return;  // whoever has it now will hand it over
  }
  if (!inbox_->empty()) wake_home();
}

void Loop::give_turn_back() {
  spending_ = Spent::kAbsent;
  HeldBack& held = poller_->held;
  const bool any_held = held.any();
  give_turn();
  if (any_held) std::atomic_thread_fence(std::memory_order_seq_cst);
  const Home home = home_.load();
  // Who stands aside sees to what is held back, if only it looks often enough.
  const bool must_look = any_held && home == Home::kParked && !held.is_watched();
  if (home == Home::kAsleep || home == Home::kWaiting || must_look) wake_home();
  if (any_held && home == Home::kAbsent && try_take_turn()) {  // it has left since
    held.flush();
    give_turn();
  }
}

// Hands the turn, which this thread has, to the first waiter; or to the first that needs it itself.
bool Loop::hand_over(bool to_exclusive) {
  const std::lock_guard lock(turn_);
  const auto next = std::find_if(waiters_.begin(), waiters_.end(),
                                 [&](const Waiter* waiter) { return !to_exclusive || !waiter->done; });
  if (next == waiters_.end()) return false;
  Waiter& waiter = **next;
  remove(waiter);
  owner_.store(waiter.thread);
  waiter.finish(Wait::kGranted);
  return true;
}

// Asks for all others that wait, so that one driving thread serves every one of them and the turn need
// not go round. Returns whether somebody needs the turn itself.
bool Loop::ask_waiters() {
  arrived_.store(false);
  bool lend = false;
  const std::lock_guard lock(turn_);
  for (std::size_t i = 0; i < waiters_.size();) {
    Waiter& waiter = *waiters_[i];
    bool done = false;
    try {
      done = waiter.done && (*waiter.done)();
    } catch (...) {
      waiter.failed = std::current_exception();  // it is thrown where it is waited for
      done = true;
    }
    if (done && !waiter.nested) {
      remove(waiter);
      waiter.finish(Wait::kDone);
      continue;
    }
    if (done) waiter.done = nullptr;
    lend = lend || !waiter.done;
    ++i;
  }
  return lend;
}

// With turn_ locked. Nobody is left to be asked for: a driver may sleep, also if the one that came last is
// now the driver itself and so asks for nobody.
void Loop::remove(Waiter& waiter) {
  const auto found = std::find(waiters_.begin(), waiters_.end(), &waiter);
  if (found == waiters_.end()) return;
  waiters_.erase(found);
  wanting_turn_.fetch_sub(1);
  if (waiters_.empty()) arrived_.store(false);
}

Loop::Wait Loop::wait_for_turn(Waiter& self, TimePoint deadline) {
  {
    const std::lock_guard lock(turn_);
    waiters_.push_back(&self);
    wanting_turn_.fetch_add(1);
    arrived_.store(true);
    if (try_take_turn()) {
      remove(self);
      return Wait::kGranted;
    }
  }
  if (owner_asleep_.load()) poller_->kick();
  const TimePoint start = clock_.now();
  for (int spins = 1;; ++spins) {
    const Wait state = self.state.load(std::memory_order_acquire);
    if (state != Wait::kWaiting) return state;
    if (spins % 16 != 0) {
      spin_pause();
      continue;
    }
    if (try_take_turn()) return taken_by(self);
    const TimePoint now = clock_.now();
    if (now >= deadline || now - start >= options_.spin) return block(self, deadline);
    if (now - start >= options_.yield_after) sched_yield();
  }
}

// With the turn, which nobody has handed to us. Meanwhile somebody may have found done what we wait for.
Loop::Wait Loop::taken_by(Waiter& self) {
  {
    const std::lock_guard lock(turn_);
    remove(self);
  }
  const Wait state = self.state.load(std::memory_order_acquire);
  if (state == Wait::kWaiting) return Wait::kGranted;
  give_turn_back();
  return state;
}

Loop::Wait Loop::block(Waiter& self, TimePoint deadline) {
  std::unique_lock lock(turn_);
  self.blocked = true;
  for (Duration step = kParkStep;; step = kLongStep) {
    const Wait state = self.state.load(std::memory_order_acquire);
    if (state != Wait::kWaiting) return state;
    if (try_take_turn()) {
      lock.unlock();
      return taken_by(self);
    }
    const Duration left = deadline == TimePoint::never() ? kLongStep : deadline - clock_.now();
    if (left > Duration::zero()) {
      self.wake.wait_for(lock, std::min(left, step));
    } else if (self.nested) {
      self.done = nullptr;  // from now on it waits for the turn only
      deadline = TimePoint::never();
      arrived_.store(true);
      if (owner_asleep_.load()) poller_->kick();
    } else {
      remove(self);
      return Wait::kTimedOut;
    }
  }
}

void Loop::wake_driver() {
  if (owner_.load() == std::thread::id{}) {
    wake_home();
  } else if (owner_asleep_.load()) {
    poller_->kick();
  }
}

void Loop::wake_home() {
  switch (home_.load()) {
    case Home::kAsleep:
      poller_->kick();
      break;
    case Home::kParked:
    case Home::kWaiting: {
      const std::lock_guard lock(turn_);
      home_wake_.notify_one();
      break;
    }
    case Home::kAbsent:
    case Home::kAwake:
      break;
  }
}

// run()'s thread stands aside while other threads drive: a program that makes call after call shall
// neither wake it nor share a core with it. It comes back when no wait_until() began for a whole step,
// and at once when there are tasks but nobody to run them, or when the turn was only borrowed.
void Loop::park(std::uint64_t& helped_seen) {
  std::unique_lock lock(turn_);
  HeldBack& held = poller_->held;
  std::uint64_t held_seen = 0;
  std::uint64_t helped = helped_.load();
  bool borrowed = helped == helped_seen;
  Duration step = kParkStep;
  while (!stopping_.load()) {
    home_.store(borrowed ? Home::kWaiting : Home::kParked);
    const bool is_free = owner_.load() == std::thread::id{};
    if (is_free && (borrowed || !inbox_->empty())) break;
    // A helper that sleeps wakes us when it leaves.
    const Duration aside = owner_asleep_.load() ? kLongStep : step;
    if (held.stand_aside(lock, home_wake_, aside, owner_, held_seen)) break;
    const std::uint64_t before = std::exchange(helped, helped_.load());
    borrowed = helped == before;
    const bool without_pause = helped - before >= kWithoutPause;
    if (borrowed)
      step = std::min(2 * step, kLongestWait);
    else
      step = without_pause ? std::min(2 * step, kLongestPark) : kParkStep;
  }
  held.end_watch();
  helped_seen = helped;
  home_.store(Home::kAwake);
}

Loop::Turn::Turn(Loop& loop) : loop_(loop), nested_(loop.in_turn()) {
  if (nested_) return;
  if (loop_.is_forked()) [[unlikely]] {
    // Nobody drives it any more, and whoever had the turn does not exist here.
    loop_.owner_.store(std::this_thread::get_id());
    nested_ = true;
    return;
  }
  loop_.take_turn();
  loop_.context_ = OnBehalf::of(loop_);
  loop_.only_borrowed_ = !loop_.options_.help;
  loop_.refresh_now();
}

Loop::Turn::~Turn() {
  if (nested_) return;
  loop_.context_ = nullptr;
  loop_.only_borrowed_ = false;
  loop_.give_turn_back();
}

}  // namespace troupe
