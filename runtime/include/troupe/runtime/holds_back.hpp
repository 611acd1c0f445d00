#pragma once

namespace troupe {

class HeldBack;

/// A Source that may hold back for a little what it is to send, so that more goes with it, is one of these,
/// too. With the turn only.
class HoldsBack {
 public:
  HoldsBack() = default;
  HoldsBack(const HoldsBack&) = delete;
  HoldsBack& operator=(const HoldsBack&) = delete;
  /// Sends what has been held back. Called soon after hold_back() was true: before the next round's polls, at
  /// the end of the present one, or, if nobody drives the loop any more, by the thread in Loop::run() within
  /// some hundred microseconds.
  virtual void flush() = 0;
  /// Whether what is to be sent just now may wait: it is sent by a task or timer of which the round has more,
  /// or by a thread that begins one short piece of work after another (Loop::run_if_free). `first`: nothing
  /// was sent to the same peer since the last round, so that of the only task's it does not wait. False while
  /// it is not one of a loop's sources.
  bool hold_back(bool first);

 protected:
  virtual ~HoldsBack() = default;

 private:
  friend class HeldBack;
  HeldBack* held_back_ = nullptr;
};

}  // namespace troupe
