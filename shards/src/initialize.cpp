// A row's random numbers are SplitMix64's (Steele, Lea, Flood 2014) from a start that mixes seed and key,
// so each column's number can be had by itself.
#include <algorithm>
#include <cmath>
#include <numbers>

#include <troupe/shards/table_spec.hpp>

#include "hashing.hpp"

namespace troupe::shards {
namespace {

constexpr std::uint64_t kGolden = 0x9e3779b97f4a7c15U;

class RowRandom {
 public:
  RowRandom(std::uint64_t seed, std::uint64_t key) : start_(mix64(mix64(seed + kGolden) ^ key)) {}
  std::uint64_t at(std::uint64_t index) const { return mix64(start_ + (index + 1) * kGolden); }
  /// In [0, 1).
  double unit(std::uint64_t index) const { return static_cast<double>(at(index) >> 11) * 0x1p-53; }

 private:
  std::uint64_t start_;
};

void uniform_row(const Uniform& range, const RowRandom& random, std::uint64_t dim, float* out) {
  const double low = range.low;
  const double width = double{range.high} - low;
  // Rounding to float may reach the end, which does not belong to the range.
  const float most = range.low < range.high ? std::nextafter(range.high, range.low) : range.low;
  for (std::uint64_t j = 0; j < dim; ++j) {
    out[j] = std::min(static_cast<float>(low + width * random.unit(j)), most);
  }
}

// Box and Muller 1958: a pair of columns from a pair of numbers.
void normal_row(const Normal& normal, const RowRandom& random, std::uint64_t dim, float* out) {
  for (std::uint64_t j = 0; j < dim; j += 2) {
    const double radius = normal.stddev * std::sqrt(-2 * std::log(1 - random.unit(j)));
    const double angle = 2 * std::numbers::pi * random.unit(j + 1);
    out[j] = static_cast<float>(normal.mean + radius * std::cos(angle));
    if (j + 1 < dim) out[j + 1] = static_cast<float>(normal.mean + radius * std::sin(angle));
  }
}

}  // namespace

void initialize_row(const TableSpec& spec, std::uint64_t key, float* out) {
  const RowRandom random(spec.seed, key);
  if (const auto* uniform = std::get_if<Uniform>(&spec.initializer)) {
    uniform_row(*uniform, random, spec.dim, out);
  } else if (const auto* normal = std::get_if<Normal>(&spec.initializer)) {
    normal_row(*normal, random, spec.dim, out);
  } else {
    std::fill_n(out, spec.dim, 0.0F);
  }
}

}  // namespace troupe::shards
