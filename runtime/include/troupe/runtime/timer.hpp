#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include <troupe/runtime/clock.hpp>
#include <troupe/runtime/task.hpp>

namespace troupe {

class TimerWheel;

/// Something that wants to be called at a time: embed or derive, then Loop::schedule(). Destroying a
/// scheduled node cancels it. Loop only.
class TimerNode {
 public:
  TimerNode() = default;
  TimerNode(const TimerNode&) = delete;
  TimerNode& operator=(const TimerNode&) = delete;
  virtual ~TimerNode();

  bool scheduled() const { return wheel_ != nullptr; }
  TimePoint due() const { return due_; }

 protected:
  /// Called on the loop at or after `due`; the node is no longer scheduled and may be scheduled again,
  /// or destroyed, from inside.
  virtual void on_timer() = 0;

 private:
  friend class TimerWheel;
  TimePoint due_{};
  TimerWheel* wheel_ = nullptr;
  TimerNode* previous_ = nullptr;
  TimerNode* next_ = nullptr;
  std::uint16_t slot_ = 0;
};

/// A TimerNode that runs a task.
class Timer final : public TimerNode {
 public:
  Timer() = default;
  explicit Timer(Task task) : task_(std::move(task)) {}
  void set(Task task) { task_ = std::move(task); }

 private:
  void on_timer() override { task_(); }
  Task task_;
};

/// A hierarchical timing wheel (Varghese and Lauck 1987, scheme 7): 7 levels of 64 slots, one tick
/// being 1,024 ns, so that scheduling and cancelling cost a few nanoseconds however many timers there
/// are. A timer fires at the first advance() at or after its exact due time, never before; timers due
/// in one tick fire in the order of their due times. One advance() fires 512 at most, the next ones the rest.
class TimerWheel {
 public:
  explicit TimerWheel(TimePoint now);
  ~TimerWheel();
  TimerWheel(const TimerWheel&) = delete;
  TimerWheel& operator=(const TimerWheel&) = delete;

  /// (Re)schedules `node`; a due time in the past fires at the next advance().
  void schedule(TimerNode& node, TimePoint due);
  void cancel(TimerNode& node);
  /// Fires what is due at `now`; returns how many. A timer scheduled from inside for a time not after
  /// `now` fires in the next advance(), so that a timer that reschedules itself cannot starve the loop.
  int advance(TimePoint now) { return now < quiet_until_ ? 0 : advance_to(now); }
  /// The exact due time of the earliest timer, never() if there is none. O(timers in one slot).
  TimePoint next_due() const;
  bool empty() const { return count_ == 0; }

 private:
  static constexpr int kLevels = 7;
  static constexpr int kSlots = 64;

  static constexpr std::size_t kFarSlot = kLevels * kSlots;  // later than the wheel reaches
  static constexpr std::size_t kFiringSlot = kFarSlot + 1;   // due, about to be called

  int advance_to(TimePoint now);
  void link(TimerNode& node);
  void append(TimerNode& node, std::size_t slot);
  void detach(TimerNode& node);
  void relink_all(std::size_t slot);
  void collect_due(TimePoint now);
  bool step_to_next_slot(std::uint64_t last);
  bool wheel_is_empty() const;

  std::array<TimerNode*, kFiringSlot + 1> slots_{};  // heads of circular lists
  std::array<std::uint64_t, kLevels> occupied_{};    // one bit a slot
  std::uint64_t tick_ = 0;                           // up to here slots have been looked at
  TimePoint quiet_until_{};                          // no slot that holds something begins earlier
  std::size_t count_ = 0;
  std::vector<TimerNode*> due_;  // scratch of collect_due()
};

}  // namespace troupe
