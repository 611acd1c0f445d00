#pragma once

#include <cstdint>

/// Between float32 and the two formats of 16 bits, as bits: IEEE binary16 and bfloat16. Rounding is to the
/// nearest, ties to even. Every function may be called from any thread at once; outputs must not overlap
/// inputs.
namespace troupe::kernels {

void float16_to_float32(const std::uint16_t* from, std::int64_t n, float* to);
void bfloat16_to_float32(const std::uint16_t* from, std::int64_t n, float* to);

/// What is too large for the format becomes its largest number, of the same sign: 65504 for float16. NaN
/// stays NaN.
void float32_to_float16(const float* from, std::int64_t n, std::uint16_t* to);
void float32_to_bfloat16(const float* from, std::int64_t n, std::uint16_t* to);

}  // namespace troupe::kernels
