#pragma once

#include <cstddef>
#include <cstdint>

#include "troupe/kernels/dense.hpp"

/// The GPU's side of dense.hpp.
namespace troupe::kernels::gpu {

Launch softmax_cross_entropy(Place place, Element element, const void* logits, const std::int64_t* labels,
                             std::int64_t rows, std::int64_t columns, float scale, float* losses,
                             void* gradients);

Launch layer_norm(Place place, Element element, const void* x, std::int64_t rows, std::int64_t columns,
                  const float* gain, const float* shift, float epsilon, void* out, float* means,
                  float* deviations);

std::size_t column_workspace(Place place, std::int64_t columns);

Launch layer_norm_backward(Place place, Element element, const void* x, const void* out_gradients,
                           std::int64_t rows, std::int64_t columns, const float* gain, const float* means,
                           const float* deviations, void* x_gradients, float* gain_gradients,
                           float* shift_gradients, void* workspace);

Launch add_bias(Place place, Element element, const void* x, const float* bias, std::int64_t rows,
                std::int64_t columns, void* out);

Launch column_sums(Place place, Element element, const void* x, std::int64_t rows, std::int64_t columns,
                   float* out, void* workspace);

Launch gelu(Place place, Element element, const void* x, const float* bias, std::int64_t rows,
            std::int64_t columns, void* out, GeluKind kind);

Launch gelu_backward(Place place, Element element, const void* x, const float* bias,
                     const void* out_gradients, std::int64_t rows, std::int64_t columns, void* x_gradients,
                     GeluKind kind);

}  // namespace troupe::kernels::gpu
