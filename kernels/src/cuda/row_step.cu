// Optimizer steps on rows that come once each.
#include "cuda/row_step.cuh"
#include "gpu_kernels.hpp"

namespace troupe::kernels::gpu {
namespace {

template <Rule rule, int held>
__global__ void __launch_bounds__(kBlock)
    held_rows_kernel(Numbers numbers, RowTable table, const std::uint64_t* __restrict__ rows,
                     const float* __restrict__ gradients, std::int64_t count, int lanes) {
  const std::int64_t thread = std::int64_t{blockIdx.x} * kBlock + threadIdx.x;
  const std::int64_t i = thread / lanes;
  const int lane = static_cast<int>(thread % lanes);
  const std::uint64_t row = i < count ? rows[i] : kNoRow;
  if (row == kNoRow) return;  // a whole group
  Floats<4> gradient[held];
#pragma unroll
  for (int h = 0; h < held; ++h) {
    const std::int64_t at = (std::int64_t{h} * lanes + lane) * 4;
    if (at < table.dim) gradient[h] = load_floats<4>(gradients, i * table.dim + at);
  }
  step_held_row<rule, held>(numbers, table, row, gradient, lane, lanes, group_mask(lanes));
}

template <Rule rule>
__global__ void __launch_bounds__(kBlock)
    any_rows_kernel(Numbers numbers, RowTable table, const std::uint64_t* __restrict__ rows,
                    const float* __restrict__ gradients, std::int64_t count) {
  const std::int64_t i = (std::int64_t{blockIdx.x} * kBlock + threadIdx.x) / kWarp;
  const std::uint64_t row = i < count ? rows[i] : kNoRow;
  if (row == kNoRow) return;  // a whole warp
  step_any_row<rule>(numbers, table, row, gradients + i * table.dim, static_cast<int>(threadIdx.x % kWarp));
}

}  // namespace

Launch update_rows(Place place, const Step& step, const RowTable& table, const std::uint64_t* rows,
                   const float* gradients, std::int64_t count) {
  if (count == 0 || table.dim == 0) return {};
  const OnDevice here(place);
  const Numbers numbers = numbers_of(step);
  const cudaStream_t stream = stream_of(place);
  if (!can_be_held(table, state_of(step.rule), gradients)) {
    const auto blocks = static_cast<unsigned>(ceil_div(count * kWarp, kBlock));
    for_rule(step.rule, [&]<Rule rule>() {
      any_rows_kernel<rule><<<blocks, kBlock, 0, stream>>>(numbers, table, rows, gradients, count);
    });
    return launched("update_rows");
  }
  const int lanes = lanes_for(table.dim, 4);
  const auto blocks = static_cast<unsigned>(ceil_div(count * lanes, kBlock));
  for_rule(step.rule, [&]<Rule rule>() {
    if (table.dim <= kWarp * 4)
      held_rows_kernel<rule, 1><<<blocks, kBlock, 0, stream>>>(numbers, table, rows, gradients, count, lanes);
    else
      held_rows_kernel<rule, kHeldAtMost>
          <<<blocks, kBlock, 0, stream>>>(numbers, table, rows, gradients, count, lanes);
  });
  return launched("update_rows");
}

}  // namespace troupe::kernels::gpu
