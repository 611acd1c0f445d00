#pragma once

#include <cstdint>

#include "troupe/kernels/dense.hpp"

/// The host's side of dense.hpp and attention.hpp, on rows of float32. Outputs may be inputs.
namespace troupe::kernels::host {

/// The loss of one row, whose label is one of its columns; its gradients, unless they are null.
float cross_entropy_row(const float* logits, std::int64_t columns, std::int64_t label, float scale,
                        float* gradients);

/// One row; its mean and deviation go to *mean and *deviation.
void layer_norm_row(const float* x, std::int64_t columns, const float* gain, const float* shift,
                    float epsilon, float* out, float* mean, float* deviation);
/// Adds to the gradients of gain and shift.
void layer_norm_backward_row(const float* x, const float* out_gradients, std::int64_t columns,
                             const float* gain, float mean, float deviation, float* x_gradients,
                             float* gain_gradients, float* shift_gradients);

/// out += the sum over rows of x [rows, columns].
void add_column_sums(const float* x, std::int64_t rows, std::int64_t columns, float* out);

/// out = x + bias + residual, without those that are null.
void add_row(const float* x, const float* bias, const float* residual, std::int64_t columns, float* out);

void gelu_tanh_row(const float* x, const float* bias, std::int64_t columns, float* out);
void gelu_tanh_backward_row(const float* x, const float* bias, const float* out_gradients,
                            std::int64_t columns, float* x_gradients);

/// out = exp(x - shift), over n; 0 for the rest up to `columns`.
void shifted_exponentials(const float* x, std::int64_t n, std::int64_t columns, float shift, float* out);
/// out = scale * weights * (x - along)
void attention_slopes(const float* weights, const float* x, std::int64_t n, float along, float scale,
                      float* out);

}  // namespace troupe::kernels::host
