#pragma once

#include <cstdint>
#include <utility>

#include <troupe/runtime/clock.hpp>

namespace troupe {

/// Lets through some lines of a log at once, then one each pause: whoever errs again and again must not fill
/// it.
class LogRate {
 public:
  LogRate(int at_once, Duration pause) : at_once_(at_once), left_(at_once), pause_(pause) {}

  /// Whether a line may be written now; if not it is counted.
  bool may_write(TimePoint now) {
    const std::int64_t earned = (now - since_) / pause_;
    if (earned > 0) {
      left_ = earned >= at_once_ - left_ ? at_once_ : left_ + static_cast<int>(earned);
      since_ = now;
    }
    if (left_ == 0) {
      ++untold_;
      return false;
    }
    --left_;
    return true;
  }
  /// How many were not written since this was asked last.
  std::uint64_t take_untold() { return std::exchange(untold_, 0); }

 private:
  int at_once_;
  int left_;
  Duration pause_;
  TimePoint since_{};
  std::uint64_t untold_ = 0;
};

}  // namespace troupe
