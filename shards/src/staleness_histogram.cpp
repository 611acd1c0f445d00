#include <troupe/shards/staleness_histogram.hpp>

#include <algorithm>
#include <cmath>

namespace troupe::shards {

void StalenessHistogram::add(std::uint64_t staleness) {
  ++counts_[std::min(staleness, kExact)];
  ++total_;
  sum_ += staleness;
  maximum_ = std::max(maximum_, staleness);
}

void StalenessHistogram::merge(const StalenessHistogram& other) {
  for (std::size_t i = 0; i < counts_.size(); ++i) counts_[i] += other.counts_[i];
  total_ += other.total_;
  sum_ += other.sum_;
  maximum_ = std::max(maximum_, other.maximum_);
}

double StalenessHistogram::mean() const {
  return total_ == 0 ? 0 : static_cast<double>(sum_) / static_cast<double>(total_);
}

std::uint64_t StalenessHistogram::percentile(double fraction) const {
  if (total_ == 0) return 0;
  const double wanted = std::ceil(std::clamp(fraction, 0.0, 1.0) * static_cast<double>(total_));
  const auto rank = std::clamp<std::uint64_t>(static_cast<std::uint64_t>(wanted), 1, total_);
  std::uint64_t seen = 0;
  for (std::uint64_t staleness = 0; staleness < kExact; ++staleness) {
    seen += counts_[staleness];
    if (seen >= rank) return staleness;
  }
  return maximum_;
}

StalenessHistogram StalenessHistogram::restore(std::span<const std::uint64_t> counts, std::uint64_t sum,
                                               std::uint64_t maximum) {
  StalenessHistogram histogram;
  for (std::size_t i = 0; i < counts.size(); ++i) {
    histogram.counts_[std::min<std::size_t>(i, kExact)] += counts[i];
    histogram.total_ += counts[i];
  }
  histogram.sum_ = sum;
  histogram.maximum_ = maximum;
  return histogram;
}

}  // namespace troupe::shards
