#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "mix.hpp"
#include "troupe/kernels/initial.hpp"

#ifdef __CUDACC__
#define TROUPE_INITIAL_BOTH __host__ __device__ inline
#else
#define TROUPE_INITIAL_BOTH inline
#endif

/// One weight at a time. Whoever includes this is compiled without fused multiply-adds: all that is done here
/// is then rounded as IEEE 754 says, on whatever machine, which the logarithms and sines of a library are
/// not.
///
/// A row's random numbers are SplitMix64's (Steele, Lea, Flood 2014) from a start that mixes seed and key, so
/// each column's number can be had by itself.
namespace troupe::kernels {

constexpr std::uint64_t kGolden = 0x9E3779B97F4A7C15U;

/// Where a row's numbers begin.
TROUPE_INITIAL_BOTH std::uint64_t random_start(std::uint64_t seed, std::uint64_t key) {
  return mix_bits(mix_bits(seed + kGolden) ^ key);
}

/// Number `index` of a row, in [0, 1), of 53 bits.
TROUPE_INITIAL_BOTH double random_unit(std::uint64_t start, std::uint64_t index) {
  const std::uint64_t bits = mix_bits(start + (index + 1) * kGolden) >> 11U;
  return static_cast<double>(bits) * 0x1p-53;
}

/// The natural logarithm of x in [2^-53, 1], to some units in the last place: of the mantissa by the series
/// of artanh, log m = 2 (s + s^3 / 3 + ...), s = (m - 1) / (m + 1), which is at most 0.172.
TROUPE_INITIAL_BOTH double log_of_unit(double x) {
  std::uint64_t bits;
  std::memcpy(&bits, &x, sizeof(bits));
  int exponent = static_cast<int>(bits >> 52U) - 1023;
  bits = (bits & 0xFFFFFFFFFFFFFU) | (std::uint64_t{1023} << 52U);
  double m;
  std::memcpy(&m, &bits, sizeof(m));
  if (m > 1.4142135623730951) {
    m *= 0.5;
    ++exponent;
  }
  const double s = (m - 1) / (m + 1);
  const double square = s * s;
  constexpr double kSeries[] = {1.0 / 21, 1.0 / 19, 1.0 / 17, 1.0 / 15, 1.0 / 13, 1.0 / 11,
                                1.0 / 9,  1.0 / 7,  1.0 / 5,  1.0 / 3,  1.0};
  double sum = 0;
  for (const double each : kSeries) sum = sum * square + each;
  return exponent * 0.6931471805599453 + 2 * s * sum;
}

struct SineCosine {
  double sine;
  double cosine;
};

/// Of 2 pi u, u in [0, 1): by the series around the nearest quarter of the circle.
TROUPE_INITIAL_BOTH SineCosine around_circle(double u) {
  int quarter = static_cast<int>(u * 4);
  if (u * 4 - quarter >= 0.5) ++quarter;
  const double x = (u - quarter * 0.25) * 6.283185307179586;
  const double square = x * x;
  constexpr double kCosine[] = {1.0 / 20922789888000,
                                -1.0 / 87178291200,
                                1.0 / 479001600,
                                -1.0 / 3628800,
                                1.0 / 40320,
                                -1.0 / 720,
                                1.0 / 24,
                                -1.0 / 2,
                                1.0};
  constexpr double kSine[] = {1.0 / 355687428096000,
                              -1.0 / 1307674368000,
                              1.0 / 6227020800,
                              -1.0 / 39916800,
                              1.0 / 362880,
                              -1.0 / 5040,
                              1.0 / 120,
                              -1.0 / 6,
                              1.0};
  double sine = 0;
  double cosine = 0;
  for (const double each : kCosine) cosine = cosine * square + each;
  for (const double each : kSine) sine = sine * square + each;
  sine *= x;
  switch (quarter & 3) {
    case 0:
      return {sine, cosine};
    case 1:
      return {cosine, -sine};
    case 2:
      return {-sine, -cosine};
    default:
      return {-cosine, sine};
  }
}

/// Column `column` of the row whose numbers begin at `start`.
TROUPE_INITIAL_BOTH float initial_value(const Initial& initial, std::uint64_t start, std::uint64_t column) {
  const double a = initial.a;
  const double b = initial.b;
  if (initial.kind == Initial::Kind::kUniform) {
    const auto value = static_cast<float>(a + (b - a) * random_unit(start, column));
    // Rounding to float may reach the end, which does not belong to the range.
    if (initial.a < initial.b && !(value < initial.b)) return std::nextafter(initial.b, initial.a);
    return value;
  }
  if (initial.kind == Initial::Kind::kNormal) {
    // Box and Muller 1958: a pair of columns from a pair of numbers.
    const std::uint64_t pair = column & ~std::uint64_t{1};
    const double radius = b * std::sqrt(-2 * log_of_unit(1 - random_unit(start, pair)));
    const SineCosine at = around_circle(random_unit(start, pair + 1));
    return static_cast<float>(a + radius * (column == pair ? at.cosine : at.sine));
  }
  return 0.0F;
}

}  // namespace troupe::kernels
