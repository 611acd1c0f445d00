#include <troupe/runtime/loop.hpp>

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <optional>
#include <string>

#include "loop_parts.hpp"

namespace troupe {
namespace {

/// How long after a poll the next short turn polls again.
constexpr Duration kPollAgain = std::chrono::microseconds(2);
/// ... while something is held back, whose end are system calls.
constexpr Duration kPollHolding = std::chrono::microseconds(10);
/// ... by a thread whose pieces follow one another without pause: who sends what is held does so when it is
/// much.
constexpr Duration kPollHoldingMany = std::chrono::microseconds(50);

constexpr Duration kDescriptorsEvery = std::chrono::microseconds(200);
constexpr int kIdleRoundsPerClockRead = 8;

}  // namespace

Loop::Loop(Clock& clock, LoopOptions options)
    : clock_(clock),
      ticks_tell_time_(clock.is_real() && processor_ticks_tell_time()),
      options_(std::move(options)),
      now_(clock.now()),
      descriptors_polled_at_(now_),
      timers_(now_),
      exception_told_at_(now_),
      poller_(std::make_unique<Poller>()),
      inbox_(std::make_unique<Inbox>()) {}

Loop::~Loop() {
  if (is_forked()) {
    leave_behind();
    return;
  }
  assert(owner_.load() == std::thread::id{} && home_.load() == Home::kAbsent && waiters_.empty());
  // What tasks own may call the loop while it is destroyed, even post again.
  owner_.store(std::this_thread::get_id());
  while (has_tasks()) {
    inbox_->take_all(ready_);
    while (!ready_.empty()) {
      const Task task = std::move(ready_.front());
      ready_.pop_front();
    }
  }
}

// What it holds may not be destroyed here: destructors would end calls, and answer peers, that are the
// parent's.
void Loop::drop(Task task) {
  [[maybe_unused]] const auto* left = new Task(std::move(task));
}

// A condition variable waits, when it is destroyed, for threads that the child does not have.
void Loop::leave_behind() {
  (void)inbox_.release();
  (void)poller_.release();
  [[maybe_unused]] const auto* left = new std::deque<Task>(std::move(ready_));
  new (&home_wake_) std::condition_variable;
}

// The poster pushes, then reads owner_ (and owner_asleep_ or home_). A driver that goes to sleep first says
// so in owner_, owner_asleep_ or home_, then reads the inbox. All of it is sequentially consistent: either
// the driver sees the task, or the poster sees that somebody has to be woken. Who gives the turn without
// going to sleep may miss a task: see give_turn().
void Loop::post(Task task) {
  if (is_forked()) [[unlikely]]
    return drop(std::move(task));
  inbox_->push(std::move(task));
  wake_driver();
}

void Loop::run_or_post(Task task) {
  bool taken = false;
  const auto run = [&] {
    taken = true;
    Task first = std::move(task);
    try {
      first();
    } catch (...) {
      report_exception("a task");  // as if it had been posted
    }
  };
  if (!run_if_free(std::ref(run)) && !taken) post(std::move(task));
}

bool Loop::run_if_free(const std::function<void()>& task) {
  if (is_forked()) [[unlikely]]
    return false;
  if (in_turn()) {
    task();
    return true;
  }
  if (!options_.help) return false;
  void* const behalf = OnBehalf::of(*this);
  // Work on somebody's behalf is not posted, for then it would be done on nobody's.
  if (behalf)
    take_turn();
  else if (!try_take_turn())
    return false;
  const TimePoint now = recent_now();
  HeldBack& held = poller_->held;
  const bool burst = held.is_burst(now) && home_.load(std::memory_order_relaxed) != Home::kAbsent;
  if (!inbox_->empty()) run_tasks();  // those posted before by this thread come first
  try {
    const Context own(*this, behalf);
    const HeldBack::Scope may(held, burst ? HeldBack::May::kAll : HeldBack::May::kNothing);
    task();
  } catch (...) {
    give_turn_back();
    throw;
  }
  // Somebody who begins one call after another shall not pay for a poll with each.
  // Simulated time stands still meanwhile.
  const bool any_held = held.any();
  const Duration may_wait = !any_held ? kPollAgain : held.is_dense() ? kPollHoldingMany : kPollHolding;
  if (now - polled_at_ >= may_wait || options_.idle) {
    polled_at_ = now;
    poll();
    if (any_held) polled_at_ = refresh_now();  // from the end of it, which has taken system calls
  } else if (!ready_.empty()) {
    run_tasks();
  }
  give_turn_back();
  return true;
}

void Loop::stop() {
  if (is_forked()) return;
  stopping_.store(true);
  wake_home();
}

bool Loop::wait_until(const std::function<bool()>& done, TimePoint deadline) {
  if (is_forked()) [[unlikely]]
    return false;
  if (in_turn()) return drive(done, deadline, true);
  if (!options_.help) return wait_told(done, deadline);
  if (!try_take_turn()) {
    Waiter self{.done = &done};
    const Wait outcome = wait_for_turn(self, deadline);
    if (self.failed) std::rethrow_exception(self.failed);
    if (outcome != Wait::kGranted) return outcome == Wait::kDone;
  }
  refresh_now();
  return help(nullptr, done, deadline);
}

bool Loop::begin_and_wait(const std::function<void()>& begin, const std::function<bool()>& done,
                          Duration timeout) {
  if (is_forked()) [[unlikely]]
    return false;
  if (in_turn()) {
    const TimePoint deadline = recent_now() + timeout;
    begin();
    return drive(done, deadline, true);
  }
  if (!options_.help) return begin_and_be_told(begin, done, timeout);
  if (try_take_turn()) {
    const TimePoint deadline = recent_now() + timeout;
    return help(&begin, done, deadline);
  }
  const TimePoint deadline = clock_.now() + timeout;
  Waiter self;
  if (wait_for_turn(self, deadline) != Wait::kGranted) return false;
  refresh_now();
  return help(&begin, done, deadline);
}

// Drives for a thread other than run()'s, which has just got the turn.
bool Loop::help(const std::function<void()>* begin, const std::function<bool()>& done, TimePoint deadline) {
  // What run()'s thread needs to see at once it sees in owner_.
  helped_.store(helped_.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
  if (home_.load() == Home::kAsleep) poller_->kick();  // it parks now, instead of waking for our answer
  slept_ = false;
  const std::uint64_t rounds = stats_.rounds;
  bool finished = false;
  try {
    if (begin) {
      const Context own(*this, OnBehalf::of(*this));
      (*begin)();
    }
    finished = drive(done, deadline, false);
  } catch (...) {  // of `begin` or `done`: the caller's
    if (in_turn()) {
      spending_ = Spent::kAbsent;
      give_turn();
      wake_home();
    }
    throw;
  }
  if (!in_turn()) return finished;
  // Call after call that is answered at once keeps run()'s thread away, so the rest is looked after here.
  if (stats_.rounds == rounds) poll();
  if (!ready_.empty()) run_tasks();
  const bool tell_home = slept_ || !ready_.empty();
  spending_ = Spent::kAbsent;
  give_turn();
  // Asleep still: one of our own looks at the descriptors has taken the kick that was meant for it, and our
  // polls have disarmed the sources it sleeps on.
  const Home home = home_.load();
  if (tell_home || home == Home::kAsleep || home == Home::kWaiting) wake_home();
  return finished;
}

void Loop::run() {
  if (is_forked()) return;
  assert(home_.load() == Home::kAbsent && "a loop runs on one thread at a time");
  home_.store(Home::kAwake);
  std::uint64_t helped_seen = helped_.load();
  while (!stopping_.load()) {
    bool taken = false;
    for (int attempt = 0; attempt < 64 && helped_.load() == helped_seen && !taken; ++attempt) {
      taken = try_take_turn();
      if (!taken) spin_pause();  // perhaps it is only borrowed
    }
    if (taken) {
      try {
        drive_home(helped_seen);
      } catch (...) {  // of LoopOptions::idle
        if (in_turn()) give_turn();
        home_.store(Home::kAbsent);
        throw;
      }
    } else {
      park(helped_seen);
    }
  }
  if (try_take_turn()) {
    refresh_now();
    poll();  // what was posted before stop() has run
    give_turn();
  }
  home_.store(Home::kAbsent);
  stopping_.store(false);
  if (poller_->held.any_now() && try_take_turn()) {  // by who saw us here just before
    poller_->held.flush();
    give_turn();
  }
}

// Rounds of the thread in run(), until there is a reason to let go of the turn: somebody wants it, the
// core or the thread is given away, or stop(). Called with the turn, returns without.
void Loop::drive_home(std::uint64_t helped_seen) {
  TimePoint idle_since = refresh_now();
  bool was_busy = false;
  while (!stopping_.load(std::memory_order_relaxed) && wanting_turn_.load(std::memory_order_relaxed) == 0) {
    if (poll() > 0) {
      was_busy = true;
      continue;
    }
    if (std::exchange(was_busy, false)) idle_since = now_;
    if (options_.idle) {
      spending_ = Spent::kAsleep;
      options_.idle(timers_.next_due());
      refresh_now();
      continue;
    }
    const Duration idle_for = now_ - idle_since;
    if (idle_for < options_.yield_after && idle_for < options_.spin) {
      if (sources_.empty()) spin_pause();
      continue;
    }
    // Who gets the core meanwhile may want the turn too.
    if (idle_for < options_.spin) {
      give_turn();
      sched_yield();
    } else if (!sleep_without_turn()) {
      continue;
    }
    if (helped_.load() != helped_seen || !try_take_turn()) return;
    refresh_now();
    if (idle_for >= options_.spin) {
      descriptors_polled_at_ = kLongAgo;
      idle_since = now_;
    }
  }
  give_turn();
}

// Rounds until `done` or `deadline`, beginning with the turn. Returns with the turn if nested, else
// perhaps without it: when it was lent to another thread and that one, or the next, found it done.
bool Loop::drive(const std::function<bool()>& done, TimePoint deadline, bool nested) {
  // Also for those to whom the turn is lent. Only a nested one has a context to put aside, and has the turn
  // when it puts it back.
  std::optional<Context> none;
  std::optional<HeldBack::Scope> nothing;  // whoever the turn is lent to may keep it for long
  if (nested) {
    none.emplace(*this, nullptr);
    nothing.emplace(poller_->held, HeldBack::May::kNothing);
  }
  assert(!context_);
  TimePoint idle_since = now_;
  bool was_busy = false;
  poller_->held.note_wait();
  while (!done()) {
    const int did = poll();
    if (done()) return true;
    if (now_ >= deadline) return false;
    if (wanting_turn_.load(std::memory_order_relaxed) > 0 && ask_waiters()) {
      const Wait outcome = lend_turn(done, deadline, nested);
      if (outcome != Wait::kGranted) return outcome == Wait::kDone;
      was_busy = true;  // whoever had it may have done what is waited for
      continue;
    }
    if (did > 0) {
      was_busy = true;
      continue;
    }
    if (std::exchange(was_busy, false)) idle_since = now_;
    if (options_.idle) {
      spending_ = Spent::kAsleep;
      options_.idle(std::min(deadline, timers_.next_due()));
      refresh_now();
    } else {
      idle_with_turn(now_ - idle_since, deadline);
    }
  }
  return true;
}

// To the first that needs the turn itself; waits until it is ours again, or nobody needs us any more.
Loop::Wait Loop::lend_turn(const std::function<bool()>& done, TimePoint deadline, bool nested) {
  if (!hand_over(true)) return Wait::kGranted;
  Waiter self{.done = &done, .nested = nested};
  const Wait outcome = wait_for_turn(self, deadline);
  if (self.failed) std::rethrow_exception(self.failed);
  if (outcome == Wait::kGranted) refresh_now();
  return outcome;
}

void Loop::idle_with_turn(Duration idle_for, TimePoint until) {
  if (idle_for >= options_.spin) {
    sleep_with_turn(until);
  } else if (idle_for >= options_.yield_after) {
    sched_yield();
  } else if (sources_.empty()) {
    spin_pause();
  }
}

int Loop::poll() {
  assert_turn();
  const Context none(*this, nullptr);
  ++stats_.rounds;
  if (refresh_due_) refresh_now();
  now_is_fresh_ = false;
  HeldBack& held = poller_->held;
  held.flush();
  const HeldBack::Scope may(held, HeldBack::May::kAfterFirst);
  int did = poll_sources();
  did += fire_timers();
  did += run_tasks();
  if (!poller_->watched.empty() && now_ - descriptors_polled_at_ >= kDescriptorsEvery) {
    did += poll_descriptors(Duration::zero());
  }
  held.flush();
  if (telling_.load(std::memory_order_relaxed)) [[unlikely]]
    tell();
  if (did > 0) spending_ = Spent::kBusy;
  if (did > 0 || ++idle_rounds_ >= kIdleRoundsPerClockRead) {
    // Not now: who waits for what was just done shall go on with it first.
    idle_rounds_ = 0;
    refresh_due_ = true;
  }
  stats_.events += static_cast<std::uint64_t>(did);
  now_is_fresh_ = false;  // handlers may have read the clock long before the next that asks
  return did;
}

int Loop::poll_sources() {
  int did = 0;
  ++poll_depth_;
  for (std::size_t i = 0; i < sources_.size(); ++i) {  // handlers may add and remove
    if (!sources_[i]) continue;
    try {
      did += sources_[i]->poll();
    } catch (...) {
      report_exception("a source");
      ++did;
    }
  }
  if (--poll_depth_ == 0 && sources_removed_) {
    std::erase(sources_, nullptr);
    sources_removed_ = false;
  }
  return did;
}

/// The wheel goes on where it was with the next round: one that always throws shall not keep this one.
int Loop::fire_timers() {
  try {
    return timers_.advance(now_);
  } catch (...) {
    report_exception("a timer");
    return 1;
  }
}

int Loop::run_tasks() {
  inbox_->take_all(ready_);
  int did = 0;
  // Only those that are ready now: a task that defers another one must not starve the rest. A task
  // that waits runs the following ones from inside.
  for (std::size_t left = ready_.size(); left > 0 && !ready_.empty(); --left) {
    Task task = std::move(ready_.front());
    ready_.pop_front();
    try {
      task();
    } catch (...) {
      report_exception("a task");
    }
    ++did;
  }
  return did;
}

int Loop::poll_descriptors(Duration timeout) {
  std::array<epoll_event, 64> events{};
  const int count = poller_->wait(events, timeout);
  descriptors_polled_at_ = now_;
  return poller_->dispatch(std::span(events).first(static_cast<std::size_t>(count)), *this);
}

bool Loop::arm_sources() {
  poller_->held.flush();
  return std::all_of(sources_.begin(), sources_.end(), [this](Source* source) {
    try {
      return !source || source->arm();
    } catch (...) {
      report_exception("arming a source");
      return false;
    }
  });
}

void Loop::defer(Task task) {
  assert_turn();
  ready_.push_back(std::move(task));
}

bool Loop::has_tasks() const {
  return !ready_.empty() || !inbox_->empty();
}

}  // namespace troupe
