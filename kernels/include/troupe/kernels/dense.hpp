#pragma once

#include <cstddef>
#include <cstdint>

#include <troupe/kernels/place.hpp>

/// Layers of dense models, on the host or on a GPU: forward and backward, on matrices [rows, columns] without
/// gaps. Activations and their gradients are of an Element; parameters, their gradients and losses are
/// float32, and so is all arithmetic. What is summed over rows is summed in an order that depends on the
/// sizes alone. Outputs may be the input of the same type and shape, where that is said. Fastest where
/// columns is a multiple of 4 and all begin at multiples of 16 bytes.
namespace troupe::kernels {

/// losses[r] = log(sum_j exp(logits[r, j])) - logits[r, labels[r]]; gradients[r, j] = scale *
/// (softmax(logits[r])[j]
/// - (j == labels[r])), unless `gradients` is null; it may be `logits`. A row whose label is below 0 counts
/// for nothing: its loss and gradients are 0. Labels are below `columns`.
Launch softmax_cross_entropy(Place place, Element element, const void* logits, const std::int64_t* labels,
                             std::int64_t rows, std::int64_t columns, float scale, float* losses,
                             void* gradients);

/// out[r, j] = (x[r, j] - mean_r) * deviation_r * gain[j] + shift[j] (Ba, Kiros, Hinton 2016), with
/// deviation_r = 1 / sqrt(variance_r + epsilon); both go to means[rows] and deviations[rows] for the way
/// back. `out` may be x.
Launch layer_norm(Place place, Element element, const void* x, std::int64_t rows, std::int64_t columns,
                  const float* gain, const float* shift, float epsilon, void* out, float* means,
                  float* deviations);

/// Bytes that column_sums() and layer_norm_backward() need on a GPU; 0 on the host.
std::size_t column_workspace(Place place, std::int64_t columns);

/// From the gradients of layer_norm()'s `out`: those of x, which may be `out_gradients`, and of gain and
/// shift.
Launch layer_norm_backward(Place place, Element element, const void* x, const void* out_gradients,
                           std::int64_t rows, std::int64_t columns, const float* gain, const float* means,
                           const float* deviations, void* x_gradients, float* gain_gradients,
                           float* shift_gradients, void* workspace);

/// out[r, j] = x[r, j] + bias[j]; `out` may be x.
Launch add_bias(Place place, Element element, const void* x, const float* bias, std::int64_t rows,
                std::int64_t columns, void* out);

/// out[j] = the sum of x[r, j] over the rows: a bias' gradient.
Launch column_sums(Place place, Element element, const void* x, std::int64_t rows, std::int64_t columns,
                   float* out, void* workspace);

/// u * Phi(u), or its approximation u / 2 * (1 + tanh(sqrt(2 / pi) * (u + 0.044715 u^3))), which GPT-2 has
/// (Hendrycks and Gimpel 2016).
enum class GeluKind : std::uint8_t { kExact, kTanh };

/// out[r, j] = GELU(x[r, j] + bias[j]); a null bias is zeros. `out` may be x.
Launch gelu(Place place, Element element, const void* x, const float* bias, std::int64_t rows,
            std::int64_t columns, void* out, GeluKind kind = GeluKind::kExact);

/// From the gradients of gelu()'s `out`: those of x, which may be `out_gradients`.
Launch gelu_backward(Place place, Element element, const void* x, const float* bias,
                     const void* out_gradients, std::int64_t rows, std::int64_t columns, void* x_gradients,
                     GeluKind kind = GeluKind::kExact);

}  // namespace troupe::kernels
