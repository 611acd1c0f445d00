// Layers of dense models: to the GPU's versions, or row by row on the host.
#include "troupe/kernels/dense.hpp"

#include <algorithm>

#include "gelu.hpp"
#include "gpu_dense.hpp"
#include "host_dense.hpp"
#include "host_rows.hpp"

namespace troupe::kernels {
namespace {

/// Calls visit(x, out) for each row.
template <class Visit>
void for_rows(Element element, const void* x, std::int64_t rows, std::int64_t columns, void* out,
              const Visit& visit) {
  HostRows from(element, x, columns);
  HostRows to(element, out, columns);
  for (std::int64_t r = 0; r < rows; ++r) {
    visit(from.read(r), to.begin_write(r));
    to.end_write(r);
  }
}

}  // namespace

Launch softmax_cross_entropy(Place place, Element element, const void* logits, const std::int64_t* labels,
                             std::int64_t rows, std::int64_t columns, float scale, float* losses,
                             void* gradients) {
  if (place.on_gpu())
    return gpu::softmax_cross_entropy(place, element, logits, labels, rows, columns, scale, losses,
                                      gradients);
  HostRows from(element, logits, columns);
  HostRows to(element, gradients, columns);
  for (std::int64_t r = 0; r < rows; ++r) {
    const bool counts = labels[r] >= 0;
    float* const out = gradients ? to.begin_write(r) : nullptr;
    losses[r] = counts ? host::cross_entropy_row(from.read(r), columns, labels[r], scale, out) : 0.0F;
    if (!gradients) continue;
    if (!counts) std::fill_n(out, columns, 0.0F);
    to.end_write(r);
  }
  return {};
}

Launch layer_norm(Place place, Element element, const void* x, std::int64_t rows, std::int64_t columns,
                  const float* gain, const float* shift, float epsilon, void* out, float* means,
                  float* deviations) {
  if (place.on_gpu())
    return gpu::layer_norm(place, element, x, rows, columns, gain, shift, epsilon, out, means, deviations);
  if (columns == 0) return {};
  std::int64_t row = 0;
  for_rows(element, x, rows, columns, out, [&](const float* from, float* to) {
    host::layer_norm_row(from, columns, gain, shift, epsilon, to, means + row, deviations + row);
    ++row;
  });
  return {};
}

std::size_t column_workspace(Place place, std::int64_t columns) {
  return place.on_gpu() ? gpu::column_workspace(place, columns) : 0;
}

Launch layer_norm_backward(Place place, Element element, const void* x, const void* out_gradients,
                           std::int64_t rows, std::int64_t columns, const float* gain, const float* means,
                           const float* deviations, void* x_gradients, float* gain_gradients,
                           float* shift_gradients, void* workspace) {
  if (place.on_gpu()) {
    return gpu::layer_norm_backward(place, element, x, out_gradients, rows, columns, gain, means, deviations,
                                    x_gradients, gain_gradients, shift_gradients, workspace);
  }
  std::fill_n(gain_gradients, columns, 0.0F);
  std::fill_n(shift_gradients, columns, 0.0F);
  if (columns == 0) return {};
  HostRows values(element, x, columns);
  std::int64_t row = 0;
  for_rows(element, out_gradients, rows, columns, x_gradients, [&](const float* given, float* to) {
    host::layer_norm_backward_row(values.read(row), given, columns, gain, means[row], deviations[row], to,
                                  gain_gradients, shift_gradients);
    ++row;
  });
  return {};
}

Launch add_bias(Place place, Element element, const void* x, const float* bias, std::int64_t rows,
                std::int64_t columns, void* out) {
  if (place.on_gpu()) return gpu::add_bias(place, element, x, bias, rows, columns, out);
  for_rows(element, x, rows, columns, out,
           [&](const float* from, float* to) { host::add_row(from, bias, nullptr, columns, to); });
  return {};
}

Launch column_sums(Place place, Element element, const void* x, std::int64_t rows, std::int64_t columns,
                   float* out, void* workspace) {
  if (place.on_gpu()) return gpu::column_sums(place, element, x, rows, columns, out, workspace);
  std::fill_n(out, columns, 0.0F);
  if (element == Element::kFloat32) {
    host::add_column_sums(static_cast<const float*>(x), rows, columns, out);
  } else {
    HostRows from(element, x, columns);
    for (std::int64_t r = 0; r < rows; ++r) host::add_column_sums(from.read(r), 1, columns, out);
  }
  return {};
}

Launch gelu(Place place, Element element, const void* x, const float* bias, std::int64_t rows,
            std::int64_t columns, void* out, GeluKind kind) {
  if (place.on_gpu()) return gpu::gelu(place, element, x, bias, rows, columns, out, kind);
  for_rows(element, x, rows, columns, out, [&](const float* from, float* to) {
    if (kind == GeluKind::kTanh) return host::gelu_tanh_row(from, bias, columns, to);
    for (std::int64_t j = 0; j < columns; ++j) to[j] = gelu_of(from[j] + (bias ? bias[j] : 0.0F));
  });
  return {};
}

Launch gelu_backward(Place place, Element element, const void* x, const float* bias,
                     const void* out_gradients, std::int64_t rows, std::int64_t columns, void* x_gradients,
                     GeluKind kind) {
  if (place.on_gpu())
    return gpu::gelu_backward(place, element, x, bias, out_gradients, rows, columns, x_gradients, kind);
  HostRows values(element, x, columns);
  std::int64_t row = 0;
  for_rows(element, out_gradients, rows, columns, x_gradients, [&](const float* given, float* to) {
    const float* const from = values.read(row++);
    if (kind == GeluKind::kTanh) return host::gelu_tanh_backward_row(from, bias, given, columns, to);
    for (std::int64_t j = 0; j < columns; ++j)
      to[j] = given[j] * gelu_slope(from[j] + (bias ? bias[j] : 0.0F));
  });
  return {};
}

}  // namespace troupe::kernels
