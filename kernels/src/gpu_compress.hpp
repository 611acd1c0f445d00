#pragma once

#include <cstddef>
#include <cstdint>

#include "troupe/kernels/compress.hpp"

/// The GPU's side of compress.hpp.
namespace troupe::kernels::gpu {

Launch quantize(Place place, const float* x, float* error, std::int64_t n, std::int64_t block,
                std::int8_t* values, float* scales);
Launch dequantize(Place place, const std::int8_t* values, const float* scales, std::int64_t n,
                  std::int64_t block, bool add, float* out);
std::size_t largest_workspace(std::int64_t n);
Launch select_largest(Place place, const float* x, float* error, std::int64_t n, std::int64_t k,
                      float* values, std::uint32_t* positions, void* workspace);
Launch add_selected(Place place, const float* values, const std::uint32_t* positions, std::int64_t k,
                    float* out);

}  // namespace troupe::kernels::gpu
