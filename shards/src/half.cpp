#include <troupe/shards/half.hpp>

#include <limits>

#include <troupe/kernels/cast.hpp>

namespace troupe::shards {

void widen(DType from, const void* numbers, std::uint64_t count, float* to) {
  const auto n = static_cast<std::int64_t>(count);
  if (from == DType::kFloat16) {
    kernels::float16_to_float32(static_cast<const std::uint16_t*>(numbers), n, to);
  } else {
    kernels::bfloat16_to_float32(static_cast<const std::uint16_t*>(numbers), n, to);
  }
}

void narrow(DType to, const float* numbers, std::uint64_t count, void* out) {
  const auto n = static_cast<std::int64_t>(count);
  if (to == DType::kFloat16) {
    kernels::float32_to_float16(numbers, n, static_cast<std::uint16_t*>(out));
  } else {
    kernels::float32_to_bfloat16(numbers, n, static_cast<std::uint16_t*>(out));
  }
}

float largest_of(DType dtype) {
  constexpr float kLargestFloat16 = 65504;
  constexpr float kLargestBFloat16 = 0x1.fep127F;
  if (dtype == DType::kFloat16) return kLargestFloat16;
  return dtype == DType::kBFloat16 ? kLargestBFloat16 : std::numeric_limits<float>::max();
}

}  // namespace troupe::shards
