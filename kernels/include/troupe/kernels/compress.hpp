#pragma once

#include <cstddef>
#include <cstdint>

#include <troupe/kernels/place.hpp>

/// Vectors made smaller before they travel, on the host or on a GPU. What is left out can be kept in `error`,
/// and is added to the next (error feedback; Seide, Fu, Droppo, Li, Yu 2014). Numbers are finite.
namespace troupe::kernels {

/// How many scales `n` numbers in blocks of `block` have.
constexpr std::int64_t scales_for(std::int64_t n, std::int64_t block) {
  return (n + block - 1) / block;
}

/// values[i] = (x[i] + error[i]) / scale of its block, to the nearest whole number, ties to even, the scale
/// being the block's largest absolute value / 127; error[i] = what that leaves out. A null error is zeros and
/// not kept. x[n], values[n], scales[scales_for(n, block)]; block above 0: a row's length, or some hundred.
Launch quantize(Place place, const float* x, float* error, std::int64_t n, std::int64_t block,
                std::int8_t* values, float* scales);

/// out[i] = values[i] * scale of its block, or that added to out[i].
Launch dequantize(Place place, const std::int8_t* values, const float* scales, std::int64_t n,
                  std::int64_t block, bool add, float* out);

/// Bytes that select_largest() needs on a GPU, 8-byte aligned; 0 on the host.
std::size_t largest_workspace(Place place, std::int64_t n);

/// The k of x[i] + error[i] with the largest absolute value, of equal ones those that come first, in the
/// order of i: values[j], and their i at positions[j]. error[i] becomes 0 for them, and x[i] + error[i] for
/// the others; a null error is zeros and not kept. 0 <= k <= n < 2^32.
Launch select_largest(Place place, const float* x, float* error, std::int64_t n, std::int64_t k,
                      float* values, std::uint32_t* positions, void* workspace);

/// out[positions[j]] += values[j] for j < k; positions are distinct.
Launch add_selected(Place place, const float* values, const std::uint32_t* positions, std::int64_t k,
                    float* out);

}  // namespace troupe::kernels
