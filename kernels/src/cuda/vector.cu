// Long vectors: casts, norms and what is clipped to them.
#include "cuda/device.cuh"
#include "gpu_kernels.hpp"

namespace troupe::kernels::gpu {
namespace {

constexpr int kNormBlocks = static_cast<int>(kNormWorkspaceBytes / sizeof(double));
constexpr std::int64_t kThreadsAtMost = std::int64_t{1} << 30;

/// Blocks for a loop over `n` things that goes on by the whole grid.
unsigned blocks_for(std::int64_t n) {
  return static_cast<unsigned>(ceil_div(std::min(n, kThreadsAtMost), kBlock));
}

template <int width>
__global__ void __launch_bounds__(kBlock)
    cast_kernel(Element from_element, const void* __restrict__ from, Element to_element,
                void* __restrict__ to, std::int64_t n) {
  const std::int64_t step = std::int64_t{gridDim.x} * kBlock;
  for (std::int64_t i = std::int64_t{blockIdx.x} * kBlock + threadIdx.x; i < n / width; i += step)
    store<width>(to_element, to, i * width, load<width>(from_element, from, i * width));
}

__device__ double block_sum(double value) {
  __shared__ double warps[kBlock / kWarp];
  value = group_sum(value, kWarp, 0xFFFFFFFFU);
  if (threadIdx.x % kWarp == 0) warps[threadIdx.x / kWarp] = value;
  __syncthreads();
  double sum = 0;
  if (threadIdx.x == 0)
    for (int i = 0; i < kBlock / kWarp; ++i) sum += warps[i];
  return sum;  // of thread 0
}

__global__ void __launch_bounds__(kBlock)
    norm_parts_kernel(const float* __restrict__ x, std::int64_t n, bool fours, double* __restrict__ parts) {
  const std::int64_t step = std::int64_t{gridDim.x} * kBlock;
  std::int64_t i = std::int64_t{blockIdx.x} * kBlock + threadIdx.x;
  double sum = 0;
  if (fours) {
    for (; i < n / 4; i += step) {
      const Floats<4> four = load_floats<4>(x, i * 4);
      // Four squares of float32 lose nothing that counts: the sum over them is in double precision.
#pragma unroll
      for (int k = 0; k < 4; ++k) sum += static_cast<double>(four.v[k]) * static_cast<double>(four.v[k]);
    }
    i = n / 4 * 4 + std::int64_t{blockIdx.x} * kBlock + threadIdx.x;
  }
  for (; i < n; i += step) sum += static_cast<double>(x[i]) * static_cast<double>(x[i]);
  sum = block_sum(sum);
  if (threadIdx.x == 0) parts[blockIdx.x] = sum;
}

__global__ void __launch_bounds__(kBlock)
    norm_total_kernel(const double* __restrict__ parts, int count, double* __restrict__ out) {
  double sum = 0;
  for (int i = static_cast<int>(threadIdx.x); i < count; i += kBlock) sum += parts[i];
  sum = block_sum(sum);
  if (threadIdx.x == 0) *out = sum;
}

__global__ void __launch_bounds__(kBlock) clip_kernel(float* __restrict__ x, std::int64_t n, bool fours,
                                                      const double* __restrict__ squared, float max_norm) {
  const double norm = sqrt(*squared);
  if (!isfinite(norm) || norm <= static_cast<double>(max_norm)) return;
  const auto factor = static_cast<float>(static_cast<double>(max_norm) / norm);
  const std::int64_t step = std::int64_t{gridDim.x} * kBlock;
  std::int64_t i = std::int64_t{blockIdx.x} * kBlock + threadIdx.x;
  if (fours) {
    for (; i < n / 4; i += step) {
      Floats<4> four = load_floats<4>(x, i * 4);
#pragma unroll
      for (float& each : four.v) each *= factor;
      store_floats<4>(x, i * 4, four);
    }
    i = n / 4 * 4 + std::int64_t{blockIdx.x} * kBlock + threadIdx.x;
  }
  for (; i < n; i += step) x[i] *= factor;
}

}  // namespace

Launch cast(Place place, Element from_element, const void* from, Element to_element, void* to,
            std::int64_t n) {
  if (n == 0) return {};
  const OnDevice here(place);
  if (n % 4 == 0 && aligned(from, 4 * size_of(from_element)) && aligned(to, 4 * size_of(to_element)))
    cast_kernel<4><<<blocks_for(n / 4), kBlock, 0, stream_of(place)>>>(from_element, from, to_element, to, n);
  else
    cast_kernel<1><<<blocks_for(n), kBlock, 0, stream_of(place)>>>(from_element, from, to_element, to, n);
  return launched("cast");
}

Launch squared_norm(Place place, const float* x, std::int64_t n, double* out, void* workspace) {
  const OnDevice here(place);
  auto* const parts = static_cast<double*>(workspace);
  // As many blocks as n asks for, whatever the device: the sum's order depends on n alone.
  const int blocks = static_cast<int>(std::clamp<std::int64_t>(ceil_div(n, kBlock * 4), 1, kNormBlocks));
  norm_parts_kernel<<<blocks, kBlock, 0, stream_of(place)>>>(x, n, aligned(x, 16), parts);
  if (Launch first = launched("squared_norm"); !first.ok()) return first;
  norm_total_kernel<<<1, kBlock, 0, stream_of(place)>>>(parts, blocks, out);
  return launched("squared_norm");
}

Launch clip_to_norm(Place place, float* x, std::int64_t n, const double* squared, float max_norm) {
  if (n == 0) return {};
  const OnDevice here(place);
  clip_kernel<<<blocks_for(ceil_div(n, 4)), kBlock, 0, stream_of(place)>>>(x, n, aligned(x, 16), squared,
                                                                           max_norm);
  return launched("clip_to_norm");
}

}  // namespace troupe::kernels::gpu
