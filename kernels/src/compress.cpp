// Vectors made smaller: to the GPU's versions, or plain loops for the host, which say what both do.
#include "troupe/kernels/compress.hpp"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <vector>

#include "gpu_compress.hpp"
#include "quantum.hpp"

namespace troupe::kernels {

Launch quantize(Place place, const float* x, float* error, std::int64_t n, std::int64_t block,
                std::int8_t* values, float* scales) {
  assert(block > 0);
  if (place.on_gpu()) return gpu::quantize(place, x, error, n, block, values, scales);
  for (std::int64_t first = 0; first < n; first += block) {
    const std::int64_t end = std::min(n, first + block);
    float most = 0;
    for (std::int64_t i = first; i < end; ++i)
      most = std::max(most, std::abs(error ? x[i] + error[i] : x[i]));
    const float scale = most / kSteps;
    const float inverse = inverse_of(scale);
    scales[first / block] = scale;
    for (std::int64_t i = first; i < end; ++i) {
      const float value = error ? x[i] + error[i] : x[i];
      values[i] = quantum(value, inverse);
      if (error) error[i] = value - static_cast<float>(values[i]) * scale;
    }
  }
  return {};
}

Launch dequantize(Place place, const std::int8_t* values, const float* scales, std::int64_t n,
                  std::int64_t block, bool add, float* out) {
  assert(block > 0);
  if (place.on_gpu()) return gpu::dequantize(place, values, scales, n, block, add, out);
  for (std::int64_t i = 0; i < n; ++i) {
    const float value = static_cast<float>(values[i]) * scales[i / block];
    out[i] = add ? out[i] + value : value;
  }
  return {};
}

std::size_t largest_workspace(Place place, std::int64_t n) {
  return place.on_gpu() ? gpu::largest_workspace(n) : 0;
}

Launch select_largest(Place place, const float* x, float* error, std::int64_t n, std::int64_t k,
                      float* values, std::uint32_t* positions, void* workspace) {
  assert(k >= 0 && k <= n && n < (std::int64_t{1} << 32));
  if (place.on_gpu()) return gpu::select_largest(place, x, error, n, k, values, positions, workspace);
  std::vector<float> all(x, x + n);
  for (std::int64_t i = 0; error && i < n; ++i) all[static_cast<std::size_t>(i)] += error[i];
  std::vector<std::uint32_t> order(static_cast<std::size_t>(n));
  for (std::size_t i = 0; i < order.size(); ++i) order[i] = static_cast<std::uint32_t>(i);
  const auto middle = order.begin() + k;
  std::nth_element(order.begin(), k < n ? middle : order.end(), order.end(),
                   [&](std::uint32_t a, std::uint32_t b) {
                     const float left = std::abs(all[a]);
                     const float right = std::abs(all[b]);
                     return left != right ? left > right : a < b;
                   });
  std::sort(order.begin(), middle);
  if (error) std::copy(all.begin(), all.end(), error);
  for (std::int64_t j = 0; j < k; ++j) {
    const std::uint32_t at = order[static_cast<std::size_t>(j)];
    values[j] = all[at];
    positions[j] = at;
    if (error) error[at] = 0;
  }
  return {};
}

Launch add_selected(Place place, const float* values, const std::uint32_t* positions, std::int64_t k,
                    float* out) {
  if (place.on_gpu()) return gpu::add_selected(place, values, positions, k, out);
  for (std::int64_t j = 0; j < k; ++j) out[positions[j]] += values[j];
  return {};
}

}  // namespace troupe::kernels
