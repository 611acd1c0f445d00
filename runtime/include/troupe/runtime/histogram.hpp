#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>
#include <span>
#include <vector>

#include <troupe/runtime/result.hpp>

namespace troupe {

/// Counts of non-negative integers (latencies in ns, staleness in updates) in buckets whose width is 1/32
/// of the power of two below them: values under 64 are exact, larger ones within 1.6 %. 15 KiB, no
/// allocation. One thread; merge those of several.
class Histogram {
 public:
  void record(std::uint64_t value, std::uint64_t times = 1) {
    counts_[bucket_of(value)] += times;
    count_ += times;
    sum_ += static_cast<double>(value) * static_cast<double>(times);
    min_ = std::min(min_, value);
    max_ = std::max(max_, value);
  }
  void merge(const Histogram& other);
  void clear() { *this = Histogram(); }

  std::uint64_t count() const { return count_; }
  double sum() const { return sum_; }
  double mean() const { return count_ == 0 ? 0.0 : sum_ / static_cast<double>(count_); }
  std::uint64_t min() const { return count_ == 0 ? 0 : min_; }  ///< exact
  std::uint64_t max() const { return max_; }                    ///< exact
  /// The value that `percent` (0 to 100) of all are not above; 0 if there are none.
  std::uint64_t percentile(double percent) const;

  struct Bucket {
    std::uint64_t low = 0;   ///< smallest value in it
    std::uint64_t high = 0;  ///< largest value in it
    std::uint64_t count = 0;
  };
  /// Those that are not empty, in rising order: for drawing.
  std::vector<Bucket> buckets() const;

  /// A few words and one for each bucket that is not empty.
  std::vector<std::uint64_t> serialise() const;
  /// Checks all of it, since it may come from a peer. kInvalidArgument.
  static Result<Histogram> deserialise(std::span<const std::uint64_t> words);

 private:
  static constexpr int kSubBits = 5;
  static constexpr std::size_t kSubBuckets = std::size_t{1} << kSubBits;
  static constexpr std::size_t kBuckets = (64 - kSubBits + 1) * kSubBuckets;

  static std::size_t bucket_of(std::uint64_t value) {
    const int shift = std::max(static_cast<int>(std::bit_width(value)) - kSubBits - 1, 0);
    return (static_cast<std::size_t>(shift) << kSubBits) + static_cast<std::size_t>(value >> shift);
  }
  static std::uint64_t low_of(std::size_t bucket);
  static std::uint64_t high_of(std::size_t bucket) {
    return bucket + 1 == kBuckets ? UINT64_MAX : low_of(bucket + 1) - 1;
  }

  std::array<std::uint64_t, kBuckets> counts_{};
  std::uint64_t count_ = 0;
  double sum_ = 0.0;
  std::uint64_t min_ = UINT64_MAX;
  std::uint64_t max_ = 0;
};

}  // namespace troupe
