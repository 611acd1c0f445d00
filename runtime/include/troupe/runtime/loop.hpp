#pragma once

#include <array>
#include <atomic>
#include <cassert>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include <troupe/runtime/clock.hpp>
#include <troupe/runtime/loop_options.hpp>
#include <troupe/runtime/process.hpp>
#include <troupe/runtime/result.hpp>
#include <troupe/runtime/source.hpp>
#include <troupe/runtime/task.hpp>
#include <troupe/runtime/timer.hpp>

namespace troupe {

/// One thread's worth of work: polls sources, watches descriptors, runs timers and tasks.
///
/// At any moment at most one thread drives a loop (it "has the turn"); everything that belongs to the
/// loop needs no lock. The turn moves: usually the thread in run() has it, and a thread that waits for
/// something (wait_until) takes it over and does the work itself, so that no thread switch lies between
/// it and its answer. See docs/thread-model.md.
///
/// What is called by it (tasks, timers, sources, descriptor handlers) should not throw. If it does the
/// exception ends there and is reported (LoopOptions::on_exception), because whoever drives the loop at that
/// moment has nothing to do with it.
class Loop {
 public:
  /// What its time went into.
  enum class Spent : std::uint8_t {
    kBusy,     ///< rounds that did something, and handlers
    kPolling,  ///< rounds that found nothing to do
    kAsleep,   ///< in epoll; in simulations: until something happens
    kAbsent,   ///< no thread drove it, or for too short a time to be told apart
  };
  struct Stats {
    std::uint64_t rounds = 0;         ///< polls of all sources
    std::uint64_t events = 0;         ///< events, timers and tasks handled
    std::uint64_t sleeps = 0;         ///< times it slept in epoll
    std::uint64_t exceptions = 0;     ///< that handlers of it threw
    std::array<Duration, 4> spent{};  ///< by Spent; together all time since it was made, up to now()
    Duration time(Spent what) const { return spent[static_cast<std::size_t>(what)]; }
  };

  explicit Loop(Clock& clock, LoopOptions options = {});
  ~Loop();
  Loop(const Loop&) = delete;
  Loop& operator=(const Loop&) = delete;

  // ---- Any thread -------------------------------------------------------------------------------
  Clock& clock() const { return clock_; }
  /// Whether this is a child, by fork(), of the process in which it was made. Then it is dead: waits end at
  /// once and find nothing done, tasks are not run, its destructor touches nothing that the parent has too.
  bool is_forked() const { return process_.left(); }
  /// Runs `task` on the loop soon. Tasks of one thread run in order. Tasks posted after the loop's
  /// last round are destroyed unrun with the loop.
  void post(Task task);
  /// Runs `task` at once if this thread has the turn or can have it without waiting, else posts it.
  void run_or_post(Task task);
  /// Runs `task` at once, with the turn, if this thread has it or can have it without waiting; false: it
  /// was not run. What it throws is the caller's.
  bool run_if_free(const std::function<void()>& task);
  /// Makes run() return soon, after one last round; if no run() is on, the next one returns so.
  void stop();
  /// Whether the calling thread has the turn.
  bool in_turn() const { return owner_.load(std::memory_order_relaxed) == std::this_thread::get_id(); }

  /// Drives the loop until `done()` is true or `deadline` has passed; returns done(). `done` is called
  /// with the turn held only, by whichever thread has it; it must be cheap and must not call the loop.
  /// What it throws is thrown here. From inside the loop it nests.
  bool wait_until(const std::function<bool()>& done, TimePoint deadline);
  /// Runs `begin` with the turn, then waits as wait_until() does, no longer than `timeout` in all: for
  /// work whose end is waited for. If the turn is not to be had in time, `begin` is not run and the answer
  /// is false. What `begin` throws is thrown here.
  bool begin_and_wait(const std::function<void()>& begin, const std::function<bool()>& done,
                      Duration timeout);
  /// Waits as wait_until() does, but never drives: some other thread must. Not from inside the loop.
  bool wait_told(const std::function<bool()>& done, TimePoint deadline);
  /// Drives the loop on this thread until stop(), lending the turn to threads in wait_until().
  void run();

  /// Holds the turn while it lives, waiting for it if another thread drives just now: for calling
  /// loop-only functions from any thread. Nests.
  class Turn {
   public:
    explicit Turn(Loop& loop);
    ~Turn();
    Turn(const Turn&) = delete;
    Turn& operator=(const Turn&) = delete;

   private:
    Loop& loop_;
    bool nested_;
  };

  /// While it lives, what this thread does with the turn of `loop`, when it takes that from outside, is done
  /// under this context(): for work that belongs to somebody and goes on beside the loop. Nests.
  class OnBehalf {
   public:
    OnBehalf(Loop& loop, void* context) : loop_(loop), context_(context), outer_(std::exchange(top_, this)) {}
    ~OnBehalf() { top_ = outer_; }
    OnBehalf(const OnBehalf&) = delete;
    OnBehalf& operator=(const OnBehalf&) = delete;
    /// The context that this thread has so; null if there is none.
    static void* of(const Loop& loop) {
      for (const OnBehalf* each = top_; each; each = each->outer_)
        if (&each->loop_ == &loop) return each->context_;
      return nullptr;
    }

   private:
    Loop& loop_;
    void* context_;
    OnBehalf* outer_;
    static inline constinit thread_local OnBehalf* top_ = nullptr;
  };

  // ---- With the turn only -----------------------------------------------------------------------
  /// In whose name the present work is done: means something only to the layer that set it. Null in what
  /// the loop itself begins (events, timers, tasks), also while a handler waits in the middle of its work.
  void* context() const { return context_; }
  /// Sets context() while it lives. Nests.
  class Context {
   public:
    Context(Loop& loop, void* context) : loop_(loop), outer_(std::exchange(loop.context_, context)) {}
    ~Context() { loop_.context_ = outer_; }
    Context(const Context&) = delete;
    Context& operator=(const Context&) = delete;

   private:
    Loop& loop_;
    void* outer_;
  };
  /// The thread that has the turn only borrows it, and is to run nothing of others': see LoopOptions::help.
  bool only_borrowed() const { return only_borrowed_; }
  /// One round without waiting: sources, due timers, ready tasks. Returns how much was done.
  int poll();
  /// The time at which the present round began (at most a few microseconds old while nothing
  /// happens; as old as the running handler otherwise).
  TimePoint now() const { return now_; }
  /// Reads the clock and makes that now().
  TimePoint refresh_now() {
    refresh_due_ = false;
    now_is_fresh_ = true;
    refreshed_at_ = processor_ticks();
    const TimePoint before = std::exchange(now_, clock_.now());
    stats_.spent[static_cast<std::size_t>(std::exchange(spending_, Spent::kPolling))] += now_ - before;
    return now_;
  }
  /// now(), refreshed if that was not done within the last microseconds (5 at most): for who comes with one
  /// short piece of work after another.
  TimePoint recent_now() {
    constexpr std::uint64_t kRecent = 4096;
    const std::uint64_t ticks = processor_ticks();
    if (!ticks_tell_time_ || ticks - refreshed_at_ >= kRecent) return refresh_now();
    now_is_fresh_ = true;
    return now_;
  }
  /// The time, as refresh_now(), but without reading the clock if that was done just now.
  TimePoint fresh_now() {
    if (std::exchange(now_is_fresh_, false)) return now_;
    spending_ = Spent::kBusy;  // who asks is at work
    return refresh_now();
  }
  /// Runs `task` in this round or the next, after what is ready already.
  void defer(Task task);
  void schedule(TimerNode& node, TimePoint due) {
    assert_turn();
    timers_.schedule(node, due);
  }
  void schedule_after(TimerNode& node, Duration delay) { schedule(node, clock_.now() + delay); }
  void cancel(TimerNode& node) {
    assert_turn();
    timers_.cancel(node);
  }
  TimePoint next_timer() const { return timers_.next_due(); }
  /// Whether there is a ready or posted task.
  bool has_tasks() const;
  void add_source(Source& source);
  void remove_source(Source& source);
  /// Calls `handler` when `fd` has one of `events` (level-triggered). One handler a descriptor;
  /// watching again changes the events. The loop does not own either.
  Result<void> watch(int fd, std::uint32_t events, FdHandler& handler);
  void unwatch(int fd);
  const Stats& stats() const { return stats_; }
  /// For who calls what others have given it, in a catch (...): the present exception is reported, as one
  /// that `who` ("a continuation") threw, and ends here.
  void report_exception(std::string_view who) noexcept;

 private:
  struct Inbox;
  struct Poller;
  struct Waiter;
  struct Told;
  enum class Wait : std::uint8_t { kWaiting, kGranted, kDone, kTimedOut };
  /// What the thread in run() does. "Parked" and "waiting" it stands aside for helpers; see park().
  enum class Home : std::uint8_t { kAbsent, kAwake, kAsleep, kParked, kWaiting };

  // The turn (loop_turn.cpp).
  bool try_take_turn();
  void take_turn();
  void give_turn();
  /// Gives the turn up after other than driving: run()'s thread should go on at once.
  void give_turn_back();
  bool hand_over(bool to_exclusive);
  bool ask_waiters();
  void tell();
  bool begin_and_be_told(const std::function<void()>& begin, const std::function<bool()>& done,
                         Duration timeout);
  Wait wait_for_turn(Waiter& self, TimePoint deadline);
  Wait taken_by(Waiter& self);
  Wait block(Waiter& self, TimePoint deadline);
  void remove(Waiter& waiter);
  void wake_driver();
  void wake_home();
  void park(std::uint64_t& helped_seen);

  // Driving (loop.cpp).
  bool help(const std::function<void()>* begin, const std::function<bool()>& done, TimePoint deadline);
  bool drive(const std::function<bool()>& done, TimePoint deadline, bool nested);
  Wait lend_turn(const std::function<bool()>& done, TimePoint deadline, bool nested);
  void idle_with_turn(Duration idle_for, TimePoint until);
  void drive_home(std::uint64_t helped_seen);
  int poll_sources();
  int fire_timers();
  int run_tasks();
  int poll_descriptors(Duration timeout);
  bool arm_sources();
  /// How long to sleep in epoll: until the next timer or `until`.
  Duration sleep_bound(TimePoint until);
  bool sleep_without_turn();
  void sleep_with_turn(TimePoint until);
  static void drop(Task task);
  void leave_behind();
  void assert_turn() const { assert(in_turn() && "this function of a Loop needs the turn"); }

  const HomeProcess process_;
  Clock& clock_;
  const bool ticks_tell_time_;  // of clock_
  const LoopOptions options_;

  // With the turn only.
  void* context_ = nullptr;
  bool only_borrowed_ = false;
  TimePoint now_;
  bool now_is_fresh_ = false;        // nothing has run since now_ was found good enough
  bool refresh_due_ = false;         // the next round begins by reading the clock
  std::uint64_t refreshed_at_ = 0;   // processor_ticks() when the clock was read
  Spent spending_ = Spent::kAbsent;  // the time since now_
  TimePoint descriptors_polled_at_;
  TimePoint polled_at_;  // by run_if_free()
  TimerWheel timers_;
  std::vector<Source*> sources_;  // null: removed while poll() is on its way through
  bool sources_removed_ = false;
  int poll_depth_ = 0;
  int idle_rounds_ = 0;
  bool slept_ = false;  // whether a helper slept since it took the turn
  std::deque<Task> ready_;
  Stats stats_;
  TimePoint exception_told_at_;
  std::unique_ptr<Poller> poller_;

  std::unique_ptr<Inbox> inbox_;
  // The turn: the id of the thread that has it. Taken by compare-exchange while nobody else wants it;
  // else it is handed to the first in `waiters_`, which `turn_` guards.
  std::atomic<std::thread::id> owner_{};
  std::atomic<bool> owner_asleep_{false};  // the owner sleeps in epoll, or is about to
  std::atomic<int> wanting_turn_{0};       // threads in `waiters_`
  std::atomic<bool> arrived_{false};       // a waiter came since serve_waiters()
  std::atomic<std::uint64_t> helped_{0};   // turns taken by wait_until()
  std::atomic<Home> home_{Home::kAbsent};
  std::atomic<bool> stopping_{false};
  std::atomic<bool> telling_{false};  // somebody is in wait_told()
  std::mutex turn_;
  std::vector<Waiter*> waiters_;
  std::mutex told_mutex_;
  std::vector<Told*> told_;
  std::condition_variable home_wake_;
};

}  // namespace troupe
