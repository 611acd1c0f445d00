// Attention: to the GPU's versions, or plain loops for the host, row by row.
#include "troupe/kernels/attention.hpp"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <vector>

#include "gpu_attention.hpp"
#include "host_row.hpp"

namespace troupe::kernels {
namespace {

using Floats = std::vector<float>;

double dot(const float* x, const float* y, std::int64_t n) {
  double sum = 0;
  for (std::int64_t i = 0; i < n; ++i) sum += double{x[i]} * double{y[i]};
  return sum;
}

/// One head of one sequence: where its rows lie, and they themselves as float32.
struct Head {
  const Attention& shape;
  std::int64_t sequence;
  std::int64_t head;

  std::int64_t first(std::int64_t t, std::int64_t stride) const {
    return (sequence * shape.length + t) * stride + head * shape.width;
  }
  Floats read(const void* base, std::int64_t stride) const {
    Floats rows(static_cast<std::size_t>(shape.length * shape.width));
    for (std::int64_t t = 0; t < shape.length; ++t)
      HostRow(shape.element, const_cast<void*>(base), first(t, stride))
          .read(shape.width, rows.data() + t * shape.width);
    return rows;
  }
  void write(void* base, std::int64_t stride, const Floats& rows) const {
    for (std::int64_t t = 0; t < shape.length; ++t)
      HostRow(shape.element, base, first(t, stride)).write(rows.data() + t * shape.width, shape.width);
  }
  /// How many positions t attends to.
  std::int64_t seen(std::int64_t t) const { return shape.causal ? t + 1 : shape.length; }
};

template <class Each>
void for_heads(const Attention& shape, const Each& each) {
  for (std::int64_t s = 0; s < shape.sequences; ++s)
    for (std::int64_t h = 0; h < shape.heads; ++h)
      each(Head{shape, s, h}, (s * shape.heads + h) * shape.length);
}

}  // namespace

Launch attention(Place place, const Attention& shape, const void* queries, const void* keys,
                 const void* values, void* out, float* log_sums) {
  assert(shape.stride >= shape.heads * shape.width && shape.out_stride >= shape.heads * shape.width);
  if (place.on_gpu()) {
    gpu::AttentionParts parts;
    parts.queries = queries;
    parts.keys = keys;
    parts.values = values;
    return gpu::attention(place, shape, parts, out, log_sums);
  }
  const std::int64_t width = shape.width;
  for_heads(shape, [&](const Head& head, std::int64_t at) {
    const Floats q = head.read(queries, shape.stride);
    const Floats k = head.read(keys, shape.stride);
    const Floats v = head.read(values, shape.stride);
    Floats result(q.size(), 0.0F);
    std::vector<double> weights;
    for (std::int64_t t = 0; t < shape.length; ++t) {
      weights.clear();
      for (std::int64_t u = 0; u < head.seen(t); ++u)
        weights.push_back(double{shape.scale} * dot(q.data() + t * width, k.data() + u * width, width));
      const double most = *std::max_element(weights.begin(), weights.end());
      double sum = 0;
      for (double& weight : weights) sum += weight = std::exp(weight - most);
      log_sums[at + t] = static_cast<float>(most + std::log(sum));
      for (std::size_t u = 0; u < weights.size(); ++u)
        for (std::int64_t j = 0; j < width; ++j)
          result[static_cast<std::size_t>(t * width + j)] +=
              static_cast<float>(weights[u] / sum) *
              v[u * static_cast<std::size_t>(width) + static_cast<std::size_t>(j)];
    }
    head.write(out, shape.out_stride, result);
  });
  return {};
}

std::size_t attention_workspace(const Attention& shape) {
  return sizeof(float) * static_cast<std::size_t>(shape.sequences * shape.heads * shape.length);
}

Launch attention_backward(Place place, const Attention& shape, const void* queries, const void* keys,
                          const void* values, const void* out, const void* out_gradients,
                          const float* log_sums, void* query_gradients, void* key_gradients,
                          void* value_gradients, void* workspace) {
  if (place.on_gpu()) {
    return gpu::attention_backward(place, shape,
                                   {queries, keys, values, out, out_gradients, log_sums, query_gradients,
                                    key_gradients, value_gradients, static_cast<float*>(workspace)});
  }
  const std::int64_t width = shape.width;
  for_heads(shape, [&](const Head& head, std::int64_t at) {
    const Floats q = head.read(queries, shape.stride);
    const Floats k = head.read(keys, shape.stride);
    const Floats v = head.read(values, shape.stride);
    const Floats o = head.read(out, shape.out_stride);
    const Floats given = head.read(out_gradients, shape.out_stride);
    Floats dq(q.size(), 0.0F);
    Floats dk(q.size(), 0.0F);
    Floats dv(q.size(), 0.0F);
    for (std::int64_t t = 0; t < shape.length; ++t) {
      const float* const g = given.data() + t * width;
      const double along = dot(o.data() + t * width, g, width);
      for (std::int64_t u = 0; u < head.seen(t); ++u) {
        const double score = double{shape.scale} * dot(q.data() + t * width, k.data() + u * width, width);
        const auto weight = static_cast<float>(std::exp(score - double{log_sums[at + t]}));
        const auto slope = static_cast<float>(double{shape.scale} * double{weight} *
                                              (dot(g, v.data() + u * width, width) - along));
        for (std::int64_t j = 0; j < width; ++j) {
          const auto mine = static_cast<std::size_t>(t * width + j);
          const auto theirs = static_cast<std::size_t>(u * width + j);
          dv[theirs] += weight * g[j];
          dq[mine] += slope * k[theirs];
          dk[theirs] += slope * q[mine];
        }
      }
    }
    head.write(query_gradients, shape.stride, dq);
    head.write(key_gradients, shape.stride, dk);
    head.write(value_gradients, shape.stride, dv);
  });
  return {};
}

}  // namespace troupe::kernels
