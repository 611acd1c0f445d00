// Waiting without driving: the thread that drives asks for those who only want to be told.

#include <algorithm>
#include <cassert>
#include <exception>

#include "loop_parts.hpp"

namespace troupe {

bool Loop::begin_and_be_told(const std::function<void()>& begin, const std::function<bool()>& done,
                             Duration timeout) {
  const TimePoint deadline = clock_.now() + timeout;
  if (!try_take_turn()) {
    Waiter self;
    if (wait_for_turn(self, deadline) != Wait::kGranted) return false;
  }
  refresh_now();
  {
    const Context own(*this, OnBehalf::of(*this));
    only_borrowed_ = true;
    try {
      begin();
    } catch (...) {
      only_borrowed_ = false;
      give_turn_back();
      throw;
    }
    only_borrowed_ = false;
  }
  give_turn_back();
  return wait_told(done, deadline);
}

bool Loop::wait_told(const std::function<bool()>& done, TimePoint deadline) {
  assert(!in_turn() && "who has the turn would wait for itself");
  constexpr Duration kLongest = std::chrono::seconds(1);  // what a wait is given at once: no overflow
  Told self{.done = &done};
  std::unique_lock lock(told_mutex_);
  told_.push_back(&self);
  telling_.store(true);
  lock.unlock();
  post([] {});  // it may be done already: whoever drives asks at the end of a round
  lock.lock();
  while (!self.is_done) {
    const Duration left = deadline == TimePoint::never() ? kLongest : deadline - clock_.now();
    if (left <= Duration::zero()) break;
    self.wake.wait_for(lock, std::min(left, kLongest));
  }
  std::erase(told_, &self);
  if (told_.empty()) telling_.store(false);
  if (self.failed) std::rethrow_exception(self.failed);
  return self.is_done;
}

// At the end of a round.
void Loop::tell() {
  const std::lock_guard lock(told_mutex_);
  for (Told* each : told_) {
    if (each->is_done) continue;
    try {
      each->is_done = (*each->done)();
    } catch (...) {  // the waiter's own
      each->failed = std::current_exception();
      each->is_done = true;
    }
    if (!each->is_done) continue;
    each->wake.notify_one();
  }
}

}  // namespace troupe
