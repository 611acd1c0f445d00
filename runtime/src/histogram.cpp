#include <troupe/runtime/histogram.hpp>

#include <cassert>
#include <cmath>

namespace troupe {
namespace {

constexpr std::size_t kHeaderWords = 3;  // smallest, largest, sum
constexpr int kCountBits = 48;           // of a bucket's word; the rest is its index

Error broken(const char* why) {
  return {Code::kInvalidArgument, std::string("not a histogram: ") + why};
}

}  // namespace

std::uint64_t Histogram::low_of(std::size_t bucket) {
  if (bucket < 2 * kSubBuckets) return bucket;
  const std::size_t shift = (bucket >> kSubBits) - 1;
  return static_cast<std::uint64_t>(bucket - (shift << kSubBits)) << shift;
}

void Histogram::merge(const Histogram& other) {
  for (std::size_t i = 0; i < kBuckets; ++i) counts_[i] += other.counts_[i];
  count_ += other.count_;
  sum_ += other.sum_;
  min_ = std::min(min_, other.min_);
  max_ = std::max(max_, other.max_);
}

std::uint64_t Histogram::percentile(double percent) const {
  if (count_ == 0) return 0;
  const double wanted = std::clamp(percent, 0.0, 100.0) / 100.0 * static_cast<double>(count_);
  const auto rank = std::max<std::uint64_t>(static_cast<std::uint64_t>(std::ceil(wanted)), 1);
  if (rank >= count_) return max_;
  std::uint64_t seen = 0;
  for (std::size_t i = 0; i < kBuckets; ++i) {
    seen += counts_[i];
    if (seen >= rank) return std::clamp(low_of(i) + (high_of(i) - low_of(i)) / 2, min_, max_);
  }
  return max_;
}

std::vector<Histogram::Bucket> Histogram::buckets() const {
  std::vector<Bucket> full;
  for (std::size_t i = 0; i < kBuckets; ++i) {
    if (counts_[i] > 0) full.push_back({low_of(i), high_of(i), counts_[i]});
  }
  return full;
}

std::vector<std::uint64_t> Histogram::serialise() const {
  std::vector<std::uint64_t> words{min_, max_, std::bit_cast<std::uint64_t>(sum_)};
  for (std::size_t i = 0; i < kBuckets; ++i) {
    assert(counts_[i] >> kCountBits == 0);
    if (counts_[i] > 0) words.push_back(static_cast<std::uint64_t>(i) << kCountBits | counts_[i]);
  }
  return words;
}

Result<Histogram> Histogram::deserialise(std::span<const std::uint64_t> words) {
  if (words.size() < kHeaderWords) return broken("too short");
  Histogram histogram;
  for (const std::uint64_t word : words.subspan(kHeaderWords)) {
    const std::uint64_t bucket = word >> kCountBits;
    const std::uint64_t count = word & ((std::uint64_t{1} << kCountBits) - 1);
    if (bucket >= kBuckets || count == 0 || histogram.counts_[bucket] > 0) return broken("a bad bucket");
    histogram.counts_[bucket] = count;
    histogram.count_ += count;
  }
  histogram.min_ = words[0];
  histogram.max_ = words[1];
  histogram.sum_ = std::bit_cast<double>(words[2]);
  const bool empty = histogram.count_ == 0;
  const bool bounds_fit = empty ? words[0] == UINT64_MAX && words[1] == 0
                                : words[0] <= words[1] && histogram.counts_[bucket_of(words[0])] > 0 &&
                                      histogram.counts_[bucket_of(words[1])] > 0;
  if (!bounds_fit || !std::isfinite(histogram.sum_) || histogram.sum_ < 0.0) {
    return broken("its summary does not fit its buckets");
  }
  return histogram;
}

}  // namespace troupe
