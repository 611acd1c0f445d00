#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include <troupe/runtime/clock.hpp>
#include <troupe/runtime/holds_back.hpp>

namespace troupe {

class Source;

/// What the sources of a loop hold back so that more goes with it, and that it goes in time.
///
/// Within a round, what is held back goes at the round's end. A thread that begins one short piece of work
/// after another (Loop::run_if_free) leaves it behind: its next piece polls if that is due, and so does its
/// wait for what it has begun. If it does neither, run()'s thread comes: it is awake, or asleep and woken, or
/// stands aside. Then it looks often as long as there is something new at each look, and takes the turn for
/// what it has seen twice.
class HeldBack {
 public:
  enum class May : std::uint8_t { kNothing, kAfterFirst, kAll };

  // ---- With the turn ----------------------------------------------------------------------------
  void add(Source& source);
  void remove(Source& source);
  bool hold_back(bool first) {
    if (may_ == May::kNothing || (may_ == May::kAfterFirst && first)) return false;
    // Sequentially consistent: run()'s thread looks at it after it has said that it stands aside.
    if (!any()) changes_.fetch_add(1);
    return true;
  }
  bool any() const { return changes_.load(std::memory_order_relaxed) % 2 == 1; }
  void flush() {
    if (any()) flush_all();
  }
  /// Whether the piece of work that a thread begins at `now` is one of many.
  bool is_burst(TimePoint now) {
    const Duration pause = now - std::exchange(last_begun_, now);
    brisk_ = pause <= kBriskPause ? brisk_ + 1 : 0;
    // Now and then one comes after a write, or after what a poll has done: that counts for four.
    if (pause <= kDensePause)
      dense_ = std::min(dense_ + 1, kMostDense);
    else
      dense_ = pause <= kBriskPause ? dense_ - std::min(dense_, 4U) : 0;
    return brisk_ >= kManyBrisk;
  }
  /// Whether many have followed one another without pause, and without a wait.
  bool is_dense() const { return dense_ >= kMostDense / 2; }
  /// A thread begins to wait for what it has begun.
  void note_wait() { dense_ = 0; }

  /// Sets what may be held back while it lives. Nests.
  class Scope {
   public:
    Scope(HeldBack& held, May may) : held_(held), before_(std::exchange(held.may_, may)) {}
    ~Scope() { held_.may_ = before_; }
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;

   private:
    HeldBack& held_;
    const May before_;
  };

  // ---- Without it -------------------------------------------------------------------------------
  /// Whether there is something, for who has said before what it is about to do.
  bool any_now() const { return changes_.load() % 2 == 1; }
  /// Whether run()'s thread looks so often that it need not be woken.
  bool is_watched() const { return watched_.load(); }
  /// run()'s thread stands aside, for `step` or until it is notified. True: something has been held back for
  /// a whole look, and nobody has the turn. `seen`: 0 when it begins to stand aside.
  bool stand_aside(std::unique_lock<std::mutex>& lock, std::condition_variable& wake, Duration step,
                   const std::atomic<std::thread::id>& owner, std::uint64_t& seen);
  void end_watch() { watched_.store(false); }

 private:
  static constexpr Duration kBriskPause = std::chrono::microseconds(100);
  static constexpr unsigned kManyBrisk = 4;
  static constexpr Duration kDensePause = std::chrono::microseconds(4);  // `now` may lag by 2
  static constexpr unsigned kMostDense = 128;

  void flush_all();

  std::vector<HoldsBack*> holders_;
  May may_ = May::kNothing;
  TimePoint last_begun_;
  unsigned brisk_ = 0;                     // pieces of work, each soon after the one before
  unsigned dense_ = 0;                     // ... at once after it, less those that were not
  std::atomic<std::uint64_t> changes_{0};  // odd: something is held back
  std::atomic<bool> watched_{false};
};

}  // namespace troupe
