#pragma once

#include <cstdint>

#include <troupe/runtime/tensor.hpp>

/// Numbers of a row between float32 and the type that a table keeps them in.
namespace troupe::shards {

/// Of two bytes: float16 or bfloat16.
inline bool is_half(DType dtype) {
  return dtype == DType::kFloat16 || dtype == DType::kBFloat16;
}

/// Precondition: is_half(). Exact.
void widen(DType from, const void* numbers, std::uint64_t count, float* to);
/// Precondition: is_half(). To the nearest, ties to even; what is too large becomes the type's largest
/// number.
void narrow(DType to, const float* numbers, std::uint64_t count, void* out);
/// The largest number of the type.
float largest_of(DType dtype);

}  // namespace troupe::shards
