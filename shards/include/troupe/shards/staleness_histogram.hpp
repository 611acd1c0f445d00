#pragma once

#include <array>
#include <cstdint>
#include <span>

namespace troupe::shards {

/// Counts of observed staleness, exact below kExact and one bucket for all above. A plain value.
class StalenessHistogram {
 public:
  static constexpr std::uint64_t kExact = 1024;

  void add(std::uint64_t staleness);
  void merge(const StalenessHistogram& other);
  /// counts()[s] for s < kExact; the last element counts everything from kExact on.
  std::span<const std::uint64_t> counts() const { return counts_; }
  std::uint64_t total() const { return total_; }
  std::uint64_t sum() const { return sum_; }
  double mean() const;
  std::uint64_t maximum() const { return maximum_; }
  /// The least staleness that at least `fraction` (0..1) of the pushes did not exceed; maximum() if that
  /// lies past the exact counts; 0 if there were none.
  std::uint64_t percentile(double fraction) const;
  /// A histogram that came over the wire. `counts` may be shorter than kExact + 1 (the rest is 0); what is
  /// past that goes into the last bucket.
  static StalenessHistogram restore(std::span<const std::uint64_t> counts, std::uint64_t sum,
                                    std::uint64_t maximum);

 private:
  std::array<std::uint64_t, kExact + 1> counts_{};
  std::uint64_t total_ = 0;
  std::uint64_t sum_ = 0;
  std::uint64_t maximum_ = 0;
};

}  // namespace troupe::shards
