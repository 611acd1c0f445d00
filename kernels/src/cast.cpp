#include "troupe/kernels/cast.hpp"

#include <bit>

namespace troupe::kernels {
namespace {

constexpr std::uint32_t kSign = 0x80000000U;
constexpr std::uint32_t kInfinity = 0x7f800000U;

float widen16(std::uint16_t half) {
  const std::uint32_t rest = half & 0x7fffU;
  // Exponent and fraction in float32's places are 2^-112 of the number, subnormal ones too.
  const float number = std::bit_cast<float>(rest << 13) * 0x1p112F;
  const std::uint32_t bits =
      rest >= 0x7c00U ? kInfinity | (rest << 13) : std::bit_cast<std::uint32_t>(number);
  return std::bit_cast<float>(bits | (static_cast<std::uint32_t>(half) & 0x8000U) << 16);
}

std::uint16_t narrow16(float number) {
  const auto bits = std::bit_cast<std::uint32_t>(number);
  const std::uint32_t size = bits & ~kSign;
  // Normal: the exponent's bias goes from 127 to 15; half of the last place, or just below it, rounds.
  std::uint32_t half = (size - (112U << 23) + 0xfffU + ((size >> 13) & 1U)) >> 13;
  // Subnormal: adding 1/2 leaves multiples of 2^-24, rounded, in the last places.
  const float sum = std::bit_cast<float>(size) + 0.5F;
  half = size < 0x38800000U ? std::bit_cast<std::uint32_t>(sum) - 0x3f000000U : half;
  half = size >= 0x477ff000U ? 0x7bffU : half;  // would round to infinity
  half = size > kInfinity ? 0x7e00U : half;
  return static_cast<std::uint16_t>(half | (bits & kSign) >> 16);
}

std::uint16_t narrow_bfloat16(float number) {
  const auto bits = std::bit_cast<std::uint32_t>(number);
  const std::uint32_t size = bits & ~kSign;
  std::uint32_t half = (size + 0x7fffU + ((size >> 16) & 1U)) >> 16;
  half = half >= 0x7f80U ? 0x7f7fU : half;
  half = size > kInfinity ? 0x7fc0U : half;
  return static_cast<std::uint16_t>(half | (bits & kSign) >> 16);
}

}  // namespace

void float16_to_float32(const std::uint16_t* from, std::int64_t n, float* to) {
  for (std::int64_t i = 0; i < n; ++i) to[i] = widen16(from[i]);
}

void bfloat16_to_float32(const std::uint16_t* from, std::int64_t n, float* to) {
  for (std::int64_t i = 0; i < n; ++i)
    to[i] = std::bit_cast<float>(static_cast<std::uint32_t>(from[i]) << 16);
}

void float32_to_float16(const float* from, std::int64_t n, std::uint16_t* to) {
  for (std::int64_t i = 0; i < n; ++i) to[i] = narrow16(from[i]);
}

void float32_to_bfloat16(const float* from, std::int64_t n, std::uint16_t* to) {
  for (std::int64_t i = 0; i < n; ++i) to[i] = narrow_bfloat16(from[i]);
}

}  // namespace troupe::kernels
