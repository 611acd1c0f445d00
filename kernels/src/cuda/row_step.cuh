#pragma once

#include "cuda/device.cuh"
#include "rules.hpp"

/// One row's optimizer step by a group of lanes.
namespace troupe::kernels::gpu {

/// Vectors of four of a row that a lane may hold in registers: rows of up to kWarp * 4 * this many elements.
constexpr int kHeldAtMost = 4;
constexpr std::int64_t kHeldRow = std::int64_t{kWarp} * 4 * kHeldAtMost;

/// The facts of a row whose scalar moves; the same in each lane. `squares`: of this lane's part of the
/// gradient.
template <Rule rule>
__device__ RowFacts move_scalar(const Numbers& numbers, float* scalar, float squares, std::int64_t dim,
                                int lane, int lanes, unsigned mask) {
  constexpr bool kScalar = state_of(rule).scalar;
  float value = kScalar ? *scalar : 0.0F;
  if constexpr (counts_steps(rule)) value += 1.0F;
  if constexpr (rule == Rule::kRowwiseAdagrad)
    value += group_sum(squares, lanes, mask) / static_cast<float>(dim);
  __syncwarp(mask);  // all have read it
  if constexpr (kScalar) {
    if (lane == 0) *scalar = value;
  }
  RowFacts facts = facts_at<rule>(numbers, value);
  if constexpr (rule == Rule::kRowwiseAdagrad) facts.scale = numbers.n[0] / (sqrtf(value) + numbers.n[1]);
  return facts;
}

/// The step of row `row` with a gradient in registers: lane l has the four elements from (h * lanes + l) * 4
/// on in gradient[h].
template <Rule rule, int held>
__device__ void step_held_row(const Numbers& numbers, const RowTable& table, std::uint64_t row,
                              const Floats<4> (&gradient)[held], int lane, int lanes, unsigned mask) {
  constexpr StateShape kState = state_of(rule);
  const std::int64_t dim = table.dim;
  const std::int64_t weights = static_cast<std::int64_t>(row) * table.weight_stride;
  float* const state = table.state + static_cast<std::int64_t>(row) * table.state_stride;
  Floats<4> w[held], a[held], b[held];
  float squares = 0;
#pragma unroll
  for (int h = 0; h < held; ++h) {
    const std::int64_t at = (std::int64_t{h} * lanes + lane) * 4;
    if (at >= dim) break;
    w[h] = load<4>(table.element, table.weights, weights + at);
    if constexpr (kState.vectors > 0) a[h] = load_floats<4>(state, at);
    if constexpr (kState.vectors > 1) b[h] = load_floats<4>(state, dim + at);
#pragma unroll
    for (int k = 0; k < 4; ++k) squares += gradient[h].v[k] * gradient[h].v[k];
  }
  RowFacts facts = move_scalar<rule>(numbers, state + kState.vectors * dim, squares, dim, lane, lanes, mask);
  float weight_norm = 0;
  float update_norm = 0;
#pragma unroll
  for (int h = 0; h < held; ++h) {
    if ((std::int64_t{h} * lanes + lane) * 4 >= dim) break;
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      step_element<rule>(numbers, facts, gradient[h].v[k], w[h].v[k], a[h].v[k], b[h].v[k]);
      if constexpr (rule == Rule::kLamb) {
        const float u = lamb_update(numbers, facts, w[h].v[k], a[h].v[k], b[h].v[k]);
        update_norm += u * u;
        weight_norm += w[h].v[k] * w[h].v[k];
      }
    }
  }
  if constexpr (rule == Rule::kLamb) {
    const double weight_sum = group_sum(static_cast<double>(weight_norm), lanes, mask);
    const double update_sum = group_sum(static_cast<double>(update_norm), lanes, mask);
    facts.scale = lamb_scale(numbers, weight_sum, update_sum);
  }
#pragma unroll
  for (int h = 0; h < held; ++h) {
    const std::int64_t at = (std::int64_t{h} * lanes + lane) * 4;
    if (at >= dim) break;
    if constexpr (rule == Rule::kLamb) {
#pragma unroll
      for (int k = 0; k < 4; ++k)
        w[h].v[k] -= facts.scale * lamb_update(numbers, facts, w[h].v[k], a[h].v[k], b[h].v[k]);
    }
    store<4>(table.element, table.weights, weights + at, w[h]);
    if constexpr (kState.vectors > 0) store_floats<4>(state, at, a[h]);
    if constexpr (kState.vectors > 1) store_floats<4>(state, dim + at, b[h]);
  }
}

/// The same for rows of any length and place, by a warp, an element a lane at a time.
template <Rule rule>
__device__ void step_any_row(const Numbers& numbers, const RowTable& table, std::uint64_t row,
                             const float* __restrict__ gradient, int lane) {
  constexpr StateShape kState = state_of(rule);
  constexpr unsigned kAll = 0xFFFFFFFFU;
  const std::int64_t dim = table.dim;
  const std::int64_t weights = static_cast<std::int64_t>(row) * table.weight_stride;
  float* const state = table.state + static_cast<std::int64_t>(row) * table.state_stride;
  float squares = 0;
  if constexpr (rule == Rule::kRowwiseAdagrad)
    for (std::int64_t j = lane; j < dim; j += kWarp) squares += gradient[j] * gradient[j];
  RowFacts facts = move_scalar<rule>(numbers, state + kState.vectors * dim, squares, dim, lane, kWarp, kAll);
  float weight_norm = 0;
  float update_norm = 0;
  for (std::int64_t j = lane; j < dim; j += kWarp) {
    Floats<1> w = load<1>(table.element, table.weights, weights + j);
    float a = kState.vectors > 0 ? state[j] : 0.0F;
    float b = kState.vectors > 1 ? state[dim + j] : 0.0F;
    step_element<rule>(numbers, facts, gradient[j], w.v[0], a, b);
    if constexpr (rule == Rule::kLamb) {
      const float u = lamb_update(numbers, facts, w.v[0], a, b);
      update_norm += u * u;
      weight_norm += w.v[0] * w.v[0];
    } else {
      store<1>(table.element, table.weights, weights + j, w);
    }
    if constexpr (kState.vectors > 0) state[j] = a;
    if constexpr (kState.vectors > 1) state[dim + j] = b;
  }
  if constexpr (rule == Rule::kLamb) {
    const double weight_sum = group_sum(static_cast<double>(weight_norm), kWarp, kAll);
    const double update_sum = group_sum(static_cast<double>(update_norm), kWarp, kAll);
    const float scale = lamb_scale(numbers, weight_sum, update_sum);
    for (std::int64_t j = lane; j < dim; j += kWarp) {
      Floats<1> w = load<1>(table.element, table.weights, weights + j);
      w.v[0] -= scale * lamb_update(numbers, facts, w.v[0], state[j], state[dim + j]);
      store<1>(table.element, table.weights, weights + j, w);
    }
  }
}

/// Whether a table's rows can be taken by step_held_row().
inline bool can_be_held(const RowTable& table, const StateShape& state, const float* gradients) {
  if (table.dim % 4 != 0 || table.dim > kHeldRow || table.weight_stride % 4 != 0) return false;
  if (!aligned(table.weights, 4 * size_of(table.element)) || !aligned(gradients, 16)) return false;
  return state.vectors == 0 || (table.state_stride % 4 == 0 && aligned(table.state, 16));
}

}  // namespace troupe::kernels::gpu
