#pragma once

#include "troupe/kernels/dropout.hpp"

/// The GPU's side of dropout.hpp.
namespace troupe::kernels::gpu {

Launch drop(Place place, Element element, const void* x, std::int64_t n, Dropout dropout, void* out);

Launch add_residual(Place place, Element element, const void* residual, const void* x, const float* bias,
                    std::int64_t rows, std::int64_t columns, Dropout dropout, void* out);

}  // namespace troupe::kernels::gpu
