// Layers of dense models: to the GPU's versions, or plain loops for the host.
#include "troupe/kernels/dense.hpp"

#include <algorithm>
#include <cmath>
#include <vector>

#include "gelu.hpp"
#include "gpu_dense.hpp"
#include "host_row.hpp"

namespace troupe::kernels {
namespace {

using Row = std::vector<float>;

Row row_at(Element element, const void* base, std::int64_t row, std::int64_t columns) {
  Row values(static_cast<std::size_t>(columns));
  HostRow(element, const_cast<void*>(base), row * columns).read(columns, values.data());
  return values;
}

void put_row(Element element, void* base, std::int64_t row, const Row& values) {
  const auto columns = static_cast<std::int64_t>(values.size());
  HostRow(element, base, row * columns).write(values.data(), columns);
}

}  // namespace

Launch softmax_cross_entropy(Place place, Element element, const void* logits, const std::int64_t* labels,
                             std::int64_t rows, std::int64_t columns, float scale, float* losses,
                             void* gradients) {
  if (place.on_gpu())
    return gpu::softmax_cross_entropy(place, element, logits, labels, rows, columns, scale, losses,
                                      gradients);
  for (std::int64_t r = 0; r < rows; ++r) {
    Row row = row_at(element, logits, r, columns);
    const float most = *std::max_element(row.begin(), row.end());
    double sum = 0;
    for (const float x : row) sum += std::exp(double{x} - double{most});
    const double log_sum = double{most} + std::log(sum);
    const std::int64_t label = labels[r];
    losses[r] = label < 0 ? 0.0F : static_cast<float>(log_sum - double{row[static_cast<std::size_t>(label)]});
    if (!gradients) continue;
    for (float& x : row) x = label < 0 ? 0.0F : scale * static_cast<float>(std::exp(double{x} - log_sum));
    if (label >= 0) row[static_cast<std::size_t>(label)] -= scale;
    put_row(element, gradients, r, row);
  }
  return {};
}

Launch layer_norm(Place place, Element element, const void* x, std::int64_t rows, std::int64_t columns,
                  const float* gain, const float* shift, float epsilon, void* out, float* means,
                  float* deviations) {
  if (place.on_gpu())
    return gpu::layer_norm(place, element, x, rows, columns, gain, shift, epsilon, out, means, deviations);
  for (std::int64_t r = 0; r < rows && columns > 0; ++r) {
    Row row = row_at(element, x, r, columns);
    double sum = 0;
    for (const float value : row) sum += double{value};
    const double mean = sum / static_cast<double>(columns);
    double squares = 0;
    for (const float value : row) squares += (double{value} - mean) * (double{value} - mean);
    means[r] = static_cast<float>(mean);
    deviations[r] =
        static_cast<float>(1 / std::sqrt(squares / static_cast<double>(columns) + double{epsilon}));
    for (std::size_t j = 0; j < row.size(); ++j)
      row[j] = (row[j] - means[r]) * deviations[r] * gain[j] + shift[j];
    put_row(element, out, r, row);
  }
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
  for (std::int64_t r = 0; r < rows && columns > 0; ++r) {
    Row normal = row_at(element, x, r, columns);
    Row gradients = row_at(element, out_gradients, r, columns);
    double sum = 0;
    double along = 0;
    for (std::size_t j = 0; j < normal.size(); ++j) {
      normal[j] = (normal[j] - means[r]) * deviations[r];
      gain_gradients[j] += gradients[j] * normal[j];
      shift_gradients[j] += gradients[j];
      gradients[j] *= gain[j];
      sum += double{gradients[j]};
      along += double{gradients[j]} * double{normal[j]};
    }
    const auto mean = static_cast<float>(sum / static_cast<double>(columns));
    const auto slope = static_cast<float>(along / static_cast<double>(columns));
    for (std::size_t j = 0; j < normal.size(); ++j)
      gradients[j] = deviations[r] * (gradients[j] - mean - normal[j] * slope);
    put_row(element, x_gradients, r, gradients);
  }
  return {};
}

Launch add_bias(Place place, Element element, const void* x, const float* bias, std::int64_t rows,
                std::int64_t columns, void* out) {
  if (place.on_gpu()) return gpu::add_bias(place, element, x, bias, rows, columns, out);
  for (std::int64_t r = 0; r < rows; ++r) {
    Row row = row_at(element, x, r, columns);
    for (std::size_t j = 0; j < row.size(); ++j) row[j] += bias[j];
    put_row(element, out, r, row);
  }
  return {};
}

Launch column_sums(Place place, Element element, const void* x, std::int64_t rows, std::int64_t columns,
                   float* out, void* workspace) {
  if (place.on_gpu()) return gpu::column_sums(place, element, x, rows, columns, out, workspace);
  std::vector<double> sums(static_cast<std::size_t>(columns));
  for (std::int64_t r = 0; r < rows; ++r) {
    const Row row = row_at(element, x, r, columns);
    for (std::size_t j = 0; j < row.size(); ++j) sums[j] += double{row[j]};
  }
  std::transform(sums.begin(), sums.end(), out, [](double sum) { return static_cast<float>(sum); });
  return {};
}

Launch gelu(Place place, Element element, const void* x, const float* bias, std::int64_t rows,
            std::int64_t columns, void* out) {
  if (place.on_gpu()) return gpu::gelu(place, element, x, bias, rows, columns, out);
  for (std::int64_t r = 0; r < rows; ++r) {
    Row row = row_at(element, x, r, columns);
    for (std::size_t j = 0; j < row.size(); ++j) row[j] = gelu_of(row[j] + (bias ? bias[j] : 0.0F));
    put_row(element, out, r, row);
  }
  return {};
}

Launch gelu_backward(Place place, Element element, const void* x, const float* bias,
                     const void* out_gradients, std::int64_t rows, std::int64_t columns, void* x_gradients) {
  if (place.on_gpu())
    return gpu::gelu_backward(place, element, x, bias, out_gradients, rows, columns, x_gradients);
  for (std::int64_t r = 0; r < rows; ++r) {
    const Row row = row_at(element, x, r, columns);
    Row gradients = row_at(element, out_gradients, r, columns);
    for (std::size_t j = 0; j < row.size(); ++j) gradients[j] *= gelu_slope(row[j] + (bias ? bias[j] : 0.0F));
    put_row(element, x_gradients, r, gradients);
  }
  return {};
}

}  // namespace troupe::kernels
