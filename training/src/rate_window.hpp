#pragma once

#include <cstdint>
#include <deque>
#include <utility>

namespace troupe::training {

/// How fast a count grows, over its last seconds. Plain state.
class RateWindow {
 public:
  /// Looks back over `seconds`; over what there is at the beginning.
  explicit RateWindow(double seconds = 3) : seconds_(seconds) {}

  /// The count at a time, which must not go back. Points closer than a tenth of a second are taken as one.
  void add(double at_seconds, std::uint64_t count) {
    if (!points_.empty() && at_seconds - points_.back().first < 0.1) return;
    points_.emplace_back(at_seconds, count);
    while (points_.size() > 2 && points_.back().first - points_[1].first >= seconds_) points_.pop_front();
  }

  /// 0 with fewer than two points.
  double per_second() const {
    if (points_.size() < 2) return 0;
    const auto& [first_at, first] = points_.front();
    const auto& [last_at, last] = points_.back();
    return static_cast<double>(last - first) / (last_at - first_at);
  }

 private:
  double seconds_;
  std::deque<std::pair<double, std::uint64_t>> points_;
};

}  // namespace troupe::training
