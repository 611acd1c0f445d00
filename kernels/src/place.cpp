// The functions that take a Place: to the GPU's versions, or plain loops for the host, which say what both
// do.
#include <algorithm>
#include <cassert>
#include <cmath>
#include <numeric>
#include <vector>

#include "gpu_kernels.hpp"
#include "host_row.hpp"
#include "rules.hpp"
#include "troupe/kernels/dedup.hpp"
#include "troupe/kernels/elementwise.hpp"
#include "troupe/kernels/gather.hpp"

namespace troupe::kernels {
namespace {

HostRow row_of(Element element, const void* base, std::int64_t stride, std::uint64_t row) {
  return {element, const_cast<void*>(base), static_cast<std::int64_t>(row) * stride};
}

template <Rule rule>
void step_vector(const Numbers& numbers, RowFacts facts, const float* gradients, std::int64_t n,
                 float* weights, float* a, float* b) {
  constexpr StateShape kState = state_of(rule);
  float none_a = 0;
  float none_b = 0;
  double weight_norm = 0;
  double update_norm = 0;
  for (std::int64_t j = 0; j < n; ++j) {
    float& state_a = kState.vectors > 0 ? a[j] : none_a;
    float& state_b = kState.vectors > 1 ? b[j] : none_b;
    step_element<rule>(numbers, facts, gradients[j], weights[j], state_a, state_b);
    if constexpr (rule == Rule::kLamb) {
      const double u = lamb_update(numbers, facts, weights[j], state_a, state_b);
      update_norm += u * u;
      weight_norm += double{weights[j]} * weights[j];
    }
  }
  if constexpr (rule == Rule::kLamb) {
    const float scale = lamb_scale(numbers, weight_norm, update_norm);
    for (std::int64_t j = 0; j < n; ++j)
      weights[j] -= scale * lamb_update(numbers, facts, weights[j], a[j], b[j]);
  }
}

/// The facts of a row whose scalar is `scalar`, which moves.
template <Rule rule>
RowFacts move_scalar(const Numbers& numbers, const float* gradient, std::int64_t n, float& scalar) {
  RowFacts facts = facts_at<rule>(numbers, counts_steps(rule) ? ++scalar : 0.0F);
  if constexpr (rule == Rule::kRowwiseAdagrad) {
    scalar += squared_l2_norm(gradient, n) / static_cast<float>(n);
    facts.scale = numbers.n[0] / (std::sqrt(scalar) + numbers.n[1]);
  }
  return facts;
}

template <Rule rule>
void update_host_rows(const Numbers& numbers, const RowTable& table, const std::uint64_t* rows,
                      const float* gradients, std::int64_t count) {
  constexpr StateShape kState = state_of(rule);
  const std::int64_t dim = table.dim;
  std::vector<float> weights(static_cast<std::size_t>(dim));
  float none = 0;
  for (std::int64_t i = 0; i < count; ++i) {
    if (rows[i] == kNoRow) continue;
    const HostRow row = row_of(table.element, table.weights, table.weight_stride, rows[i]);
    float* const state = kState.vectors > 0 || kState.scalar
                             ? table.state + static_cast<std::int64_t>(rows[i]) * table.state_stride
                             : nullptr;
    float& scalar = kState.scalar ? state[kState.vectors * dim] : none;
    const RowFacts facts = move_scalar<rule>(numbers, gradients + i * dim, dim, scalar);
    row.read(dim, weights.data());
    step_vector<rule>(numbers, facts, gradients + i * dim, dim, weights.data(), state,
                      kState.vectors > 1 ? state + dim : nullptr);
    row.write(weights.data(), dim);
  }
}

}  // namespace

Launch gather_rows(Place place, Element element, const void* base, std::int64_t stride,
                   const std::uint64_t* indices, std::int64_t count, std::int64_t dim, float* out) {
  if (place.on_gpu()) return gpu::gather_rows(place, element, base, stride, indices, count, dim, out);
  for (std::int64_t i = 0; i < count; ++i) {
    if (indices[i] == kNoRow)
      fill(0.0F, dim, out + i * dim);
    else
      row_of(element, base, stride, indices[i]).read(dim, out + i * dim);
  }
  return {};
}

Launch gather_pooled(Place place, Element element, const void* base, std::int64_t stride,
                     const std::uint64_t* indices, const std::int64_t* offsets, std::int64_t bags,
                     std::int64_t dim, Pooling pooling, float* out) {
  if (place.on_gpu())
    return gpu::gather_pooled(place, element, base, stride, indices, offsets, bags, dim, pooling, out);
  std::vector<float> row(static_cast<std::size_t>(dim));
  for (std::int64_t b = 0; b < bags; ++b) {
    float* const sum = out + b * dim;
    fill(0.0F, dim, sum);
    for (std::int64_t i = offsets[b]; i < offsets[b + 1]; ++i) {
      row_of(element, base, stride, indices[i]).read(dim, row.data());
      add(sum, row.data(), dim, sum);
    }
    const std::int64_t rows = offsets[b + 1] - offsets[b];
    if (pooling == Pooling::kMean && rows > 1) scale(sum, dim, 1.0F / static_cast<float>(rows), sum);
  }
  return {};
}

Launch cast(Place place, Element from_element, const void* from, Element to_element, void* to,
            std::int64_t n) {
  if (place.on_gpu()) return gpu::cast(place, from_element, from, to_element, to, n);
  constexpr std::int64_t kPiece = 1024;
  float piece[kPiece];
  for (std::int64_t i = 0; i < n; i += kPiece) {
    const std::int64_t count = n - i < kPiece ? n - i : kPiece;
    HostRow(from_element, const_cast<void*>(from), i).read(count, piece);
    HostRow(to_element, to, i).write(piece, count);
  }
  return {};
}

Launch squared_norm(Place place, const float* x, std::int64_t n, double* out, void* workspace) {
  if (place.on_gpu()) return gpu::squared_norm(place, x, n, out, workspace);
  double sum = 0;
  for (std::int64_t i = 0; i < n; ++i) sum += double{x[i]} * x[i];
  *out = sum;
  return {};
}

Launch clip_to_norm(Place place, float* x, std::int64_t n, const double* squared, float max_norm) {
  assert(max_norm > 0);
  if (place.on_gpu()) return gpu::clip_to_norm(place, x, n, squared, max_norm);
  const double norm = std::sqrt(*squared);
  if (std::isfinite(norm) && norm > max_norm) scale(x, n, static_cast<float>(max_norm / norm), x);
  return {};
}

std::size_t sort_rows_workspace(Place place, std::int64_t count, std::int64_t row_count) {
  return place.on_gpu() ? gpu::sort_rows_workspace(place, count, row_count) : 0;
}

Launch sort_rows(Place place, const std::uint64_t* rows, std::int64_t count, std::int64_t row_count,
                 std::uint32_t* sorted, std::uint32_t* positions, void* workspace,
                 std::size_t workspace_bytes) {
  assert(row_count < std::int64_t{1} << 32 && count < std::int64_t{1} << 31);
  if (place.on_gpu())
    return gpu::sort_rows(place, rows, count, row_count, sorted, positions, workspace, workspace_bytes);
  std::iota(positions, positions + count, 0U);
  std::stable_sort(positions, positions + count,
                   [rows](std::uint32_t a, std::uint32_t b) { return rows[a] < rows[b]; });
  for (std::int64_t k = 0; k < count; ++k) sorted[k] = static_cast<std::uint32_t>(rows[positions[k]]);
  return {};
}

Launch update_rows(Place place, const Step& step, const RowTable& table, const std::uint64_t* rows,
                   const float* gradients, std::int64_t count) {
  if (place.on_gpu()) return gpu::update_rows(place, step, table, rows, gradients, count);
  const Numbers numbers = numbers_of(step);
  for_rule(step.rule, [&]<Rule rule>() { update_host_rows<rule>(numbers, table, rows, gradients, count); });
  return {};
}

std::size_t update_rows_summed_workspace(Place place, const Step& step, const RowTable& table,
                                         std::int64_t row_count, const float* gradients, std::int64_t count) {
  return place.on_gpu() ? gpu::update_rows_summed_workspace(place, step, table, row_count, gradients, count)
                        : 0;
}

Launch update_rows_summed(Place place, const Step& step, const RowTable& table, std::int64_t row_count,
                          const std::uint64_t* rows, const float* gradients, std::int64_t count,
                          void* workspace, std::size_t workspace_bytes) {
  assert(row_count < std::int64_t{1} << 32 && count < std::int64_t{1} << 31);
  if (place.on_gpu()) {
    return gpu::update_rows_summed(place, step, table, row_count, rows, gradients, count, workspace,
                                   workspace_bytes);
  }
  Dedup dedup;
  const Dedup::Result keys = dedup.run({rows, static_cast<std::size_t>(count)});
  const auto unique = static_cast<std::int64_t>(keys.unique.size());
  std::vector<float> sums(keys.unique.size() * static_cast<std::size_t>(table.dim));
  segment_sum(gradients, keys.inverse.data(), count, table.dim, sums.data(), unique);
  return update_rows(place, step, table, keys.unique.data(), sums.data(), unique);
}

Launch dense_step(Place place, const Step& step, std::span<const DenseTensor> tensors, std::int64_t number,
                  void* workspace) {
  assert(number >= 1);
  if (place.on_gpu()) return gpu::dense_step(place, step, tensors, number, workspace);
  const Numbers numbers = numbers_of(step);
  for_rule(step.rule, [&]<Rule rule>() {
    for (const DenseTensor& each : tensors) {
      float before = static_cast<float>(number - 1);
      float& scalar = rule == Rule::kRowwiseAdagrad ? each.state[0][0] : before;
      if (each.n == 0) continue;
      const RowFacts facts = move_scalar<rule>(numbers, each.gradients, each.n, scalar);
      step_vector<rule>(numbers, facts, each.gradients, each.n, each.weights, each.state[0], each.state[1]);
    }
  });
  return {};
}

}  // namespace troupe::kernels
