// Vectors made smaller. The largest are found by their bits, eight at a time from the top: a histogram of
// those that agree with what is known so far says the next eight of the smallest that is selected. Then each
// tile counts, one block adds up, and each tile writes what is its own.
#include "cuda/device.cuh"
#include "gpu_compress.hpp"
#include "quantum.hpp"

namespace troupe::kernels::gpu {
namespace {

constexpr int kWarps = kBlock / kWarp;
constexpr int kBins = 256;
constexpr int kPasses = 4;
constexpr int kEach = 8;  // elements of a thread
constexpr std::int64_t kTile = std::int64_t{kBlock} * kEach;
constexpr int kMostBlocks = 1056;
constexpr std::int64_t kWarpTakes = 512;

/// Of one selection: the known bits of the smallest that is selected, and how many with these are.
struct Selection {
  unsigned histogram[kPasses][kBins];
  unsigned known;
  unsigned wanted;
};

__device__ __forceinline__ float sum_at(const float* x, const float* error, std::int64_t i) {
  return error ? x[i] + error[i] : x[i];
}

__device__ __forceinline__ unsigned size_bits(float x) {
  return __float_as_uint(x) & 0x7FFFFFFFU;
}

/// A block of numbers for each group of `lanes` threads, which are a warp or a block.
template <int lanes>
__global__ void __launch_bounds__(kBlock)
    quantize_kernel(const float* __restrict__ x, float* __restrict__ error, std::int64_t n,
                    std::int64_t block, std::int8_t* __restrict__ values, float* __restrict__ scales) {
  __shared__ float shared[kWarps];
  constexpr int kGroups = kBlock / lanes;
  const int lane = static_cast<int>(threadIdx.x) % lanes;
  const std::int64_t group = std::int64_t{blockIdx.x} * kGroups + threadIdx.x / lanes;
  const std::int64_t first = group * block;
  const std::int64_t end = first + block < n ? first + block : n;
  float most = 0;
  for (std::int64_t i = first + lane; i < end; i += lanes) most = fmaxf(most, fabsf(sum_at(x, error, i)));
  for (int step = kWarp / 2; step > 0; step /= 2)
    most = fmaxf(most, __shfl_xor_sync(0xFFFFFFFFU, most, step));
  if constexpr (lanes > kWarp) {
    if (threadIdx.x % kWarp == 0) shared[threadIdx.x / kWarp] = most;
    __syncthreads();
    for (int w = 0; w < kWarps; ++w) most = fmaxf(most, shared[w]);
  }
  if (first >= n) return;
  const float scale = most / kSteps;
  const float inverse = inverse_of(scale);
  if (lane == 0) scales[group] = scale;
  for (std::int64_t i = first + lane; i < end; i += lanes) {
    const float value = sum_at(x, error, i);
    const std::int8_t q = quantum(value, inverse);
    values[i] = q;
    if (error) error[i] = value - static_cast<float>(q) * scale;
  }
}

__global__ void __launch_bounds__(kBlock)
    dequantize_kernel(const std::int8_t* __restrict__ values, const float* __restrict__ scales,
                      std::int64_t n, std::int64_t block, bool add, float* __restrict__ out) {
  const std::int64_t step = std::int64_t{gridDim.x} * kBlock;
  for (std::int64_t i = std::int64_t{blockIdx.x} * kBlock + threadIdx.x; i < n; i += step) {
    const float value = static_cast<float>(values[i]) * scales[i / block];
    out[i] = add ? out[i] + value : value;
  }
}

__global__ void begin_kernel(Selection* selection, unsigned k) {
  for (int i = static_cast<int>(threadIdx.x); i < kPasses * kBins; i += kBlock)
    selection->histogram[i / kBins][i % kBins] = 0;
  if (threadIdx.x == 0) {
    selection->known = 0;
    selection->wanted = k;
  }
}

__global__ void __launch_bounds__(kBlock)
    count_bits_kernel(const float* __restrict__ x, const float* __restrict__ error, std::int64_t n, int pass,
                      Selection* selection) {
  __shared__ unsigned bins[kBins];
  for (int b = static_cast<int>(threadIdx.x); b < kBins; b += kBlock) bins[b] = 0;
  __syncthreads();
  const int shift = 24 - 8 * pass;
  const unsigned known = pass == 0 ? 0 : selection->known >> (shift + 8);
  const std::int64_t step = std::int64_t{gridDim.x} * kBlock;
  for (std::int64_t i = std::int64_t{blockIdx.x} * kBlock + threadIdx.x; i < n; i += step) {
    const unsigned bits = size_bits(sum_at(x, error, i));
    if (pass == 0 || bits >> (shift + 8) == known) atomicAdd(&bins[(bits >> shift) % kBins], 1U);
  }
  __syncthreads();
  for (int b = static_cast<int>(threadIdx.x); b < kBins; b += kBlock)
    if (bins[b] != 0) atomicAdd(&selection->histogram[pass][b], bins[b]);
}

/// The bin in which the smallest that is selected lies, counted from the top. One block of kBins threads.
__global__ void __launch_bounds__(kBins) next_bits_kernel(int pass, Selection* selection) {
  static_assert(kBins == kBlock);
  __shared__ unsigned above[kBins];  // how many lie in bins above, this one counted
  const int bin = static_cast<int>(threadIdx.x);
  const unsigned own = selection->histogram[pass][bin];
  const unsigned wanted = selection->wanted;
  above[bin] = own;
  __syncthreads();
  for (int step = 1; step < kBins; step *= 2) {
    const unsigned more = bin + step < kBins ? above[bin + step] : 0;
    __syncthreads();
    above[bin] += more;
    __syncthreads();
  }
  // With none wanted, the topmost bin of all: nothing is larger, and none of its own is taken.
  const bool here = wanted == 0 ? bin == kBins - 1 : above[bin] >= wanted && above[bin] - own < wanted;
  if (!here) return;
  selection->known |= static_cast<unsigned>(bin) << (24 - 8 * pass);
  selection->wanted = wanted == 0 ? 0 : wanted - (above[bin] - own);
}

/// What a block's threads have before this one, and all together at *sum; two counts, 16 bits each.
__device__ unsigned before_in_block(unsigned own, unsigned* shared, unsigned* sum) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  unsigned up_to = own;
  for (int step = 1; step < kWarp; step *= 2) {
    const unsigned more = __shfl_up_sync(0xFFFFFFFFU, up_to, step);
    if (lane >= step) up_to += more;
  }
  if (lane == kWarp - 1) shared[warp] = up_to;
  __syncthreads();
  unsigned before = up_to - own;
  unsigned all = 0;
  for (int w = 0; w < kWarps; ++w) {
    if (w < warp) before += shared[w];
    all += shared[w];
  }
  *sum = all;
  return before;
}

/// Larger ones in the lower half, equal ones in the upper.
__device__ __forceinline__ unsigned kind_of(unsigned bits, unsigned known) {
  return bits > known ? 1U : bits == known ? 1U << 16 : 0U;
}

/// counts[tile]: how many of the tile are larger, and counts[tiles + tile] equal.
__global__ void __launch_bounds__(kBlock)
    count_tiles_kernel(const float* __restrict__ x, const float* __restrict__ error, std::int64_t n,
                       const Selection* __restrict__ selection, unsigned* __restrict__ counts) {
  __shared__ unsigned shared[kWarps];
  const std::int64_t first = std::int64_t{blockIdx.x} * kTile + std::int64_t{threadIdx.x} * kEach;
  const unsigned known = selection->known;
  unsigned own = 0;
  for (int e = 0; e < kEach; ++e)
    if (first + e < n) own += kind_of(size_bits(sum_at(x, error, first + e)), known);
  unsigned sum = 0;
  before_in_block(own, shared, &sum);
  if (threadIdx.x != 0) return;
  counts[blockIdx.x] = sum & 0xFFFFU;
  counts[gridDim.x + blockIdx.x] = sum >> 16;
}

/// Each count becomes what all tiles before have. One block; `which` 0: larger, 1: equal.
__global__ void __launch_bounds__(kBlock) add_up_tiles_kernel(unsigned* counts, std::int64_t tiles) {
  __shared__ unsigned shared[kWarps];
  for (int which = 0; which < 2; ++which) {
    unsigned so_far = 0;
    for (std::int64_t first = 0; first < tiles; first += kBlock) {
      const std::int64_t tile = first + threadIdx.x;
      unsigned* const count = counts + which * tiles + tile;
      const unsigned own = tile < tiles ? *count : 0;
      unsigned sum = 0;
      const unsigned before = before_in_block(own, shared, &sum);
      if (tile < tiles) *count = so_far + before;
      so_far += sum;
      __syncthreads();  // `shared` is used again
    }
  }
}

__global__ void __launch_bounds__(kBlock)
    take_kernel(const float* __restrict__ x, float* error, std::int64_t n,
                const Selection* __restrict__ selection, const unsigned* __restrict__ counts,
                float* __restrict__ values, std::uint32_t* __restrict__ positions) {
  __shared__ unsigned shared[kWarps];
  const std::int64_t first = std::int64_t{blockIdx.x} * kTile + std::int64_t{threadIdx.x} * kEach;
  const unsigned known = selection->known;
  const unsigned wanted = selection->wanted;
  float all[kEach];
  unsigned own = 0;
#pragma unroll
  for (int e = 0; e < kEach; ++e) {
    all[e] = first + e < n ? sum_at(x, error, first + e) : 0;
    if (first + e < n) own += kind_of(size_bits(all[e]), known);
  }
  unsigned sum = 0;
  const unsigned before = before_in_block(own, shared, &sum);
  unsigned larger = counts[blockIdx.x] + (before & 0xFFFFU);
  unsigned equal = counts[gridDim.x + blockIdx.x] + (before >> 16);
#pragma unroll
  for (int e = 0; e < kEach; ++e) {
    if (first + e >= n) return;
    const unsigned kind = kind_of(size_bits(all[e]), known);
    const bool taken = kind == 1U || (kind != 0U && equal < wanted);
    if (taken) {
      const unsigned at = larger + (equal < wanted ? equal : wanted);
      values[at] = all[e];
      positions[at] = static_cast<std::uint32_t>(first + e);
    }
    if (error) error[first + e] = taken ? 0.0F : all[e];
    larger += kind & 0xFFFFU;
    equal += kind >> 16;
  }
}

__global__ void __launch_bounds__(kBlock)
    add_selected_kernel(const float* __restrict__ values, const std::uint32_t* __restrict__ positions,
                        std::int64_t k, float* __restrict__ out) {
  const std::int64_t j = std::int64_t{blockIdx.x} * kBlock + threadIdx.x;
  if (j < k) out[positions[j]] += values[j];
}

unsigned blocks_for(std::int64_t n) {
  return static_cast<unsigned>(std::min<std::int64_t>(ceil_div(n, kTile), kMostBlocks));
}

}  // namespace

Launch quantize(Place place, const float* x, float* error, std::int64_t n, std::int64_t block,
                std::int8_t* values, float* scales) {
  if (n == 0) return {};
  const OnDevice here(place);
  const std::int64_t groups = scales_for(n, block);
  if (block <= kWarpTakes)
    quantize_kernel<kWarp><<<static_cast<unsigned>(ceil_div(groups, kWarps)), kBlock, 0, stream_of(place)>>>(
        x, error, n, block, values, scales);
  else
    quantize_kernel<kBlock>
        <<<static_cast<unsigned>(groups), kBlock, 0, stream_of(place)>>>(x, error, n, block, values, scales);
  return launched("quantize");
}

Launch dequantize(Place place, const std::int8_t* values, const float* scales, std::int64_t n,
                  std::int64_t block, bool add, float* out) {
  if (n == 0) return {};
  const OnDevice here(place);
  dequantize_kernel<<<blocks_for(n), kBlock, 0, stream_of(place)>>>(values, scales, n, block, add, out);
  return launched("dequantize");
}

std::size_t largest_workspace(std::int64_t n) {
  return sizeof(Selection) + 2 * sizeof(unsigned) * static_cast<std::size_t>(ceil_div(n, kTile));
}

Launch select_largest(Place place, const float* x, float* error, std::int64_t n, std::int64_t k,
                      float* values, std::uint32_t* positions, void* workspace) {
  if (n == 0) return {};
  const OnDevice here(place);
  const cudaStream_t stream = stream_of(place);
  auto* const selection = static_cast<Selection*>(workspace);
  auto* const counts = reinterpret_cast<unsigned*>(selection + 1);
  const std::int64_t tiles = ceil_div(n, kTile);
  begin_kernel<<<1, kBlock, 0, stream>>>(selection, static_cast<unsigned>(k));
  for (int pass = 0; pass < kPasses; ++pass) {
    count_bits_kernel<<<blocks_for(n), kBlock, 0, stream>>>(x, error, n, pass, selection);
    next_bits_kernel<<<1, kBins, 0, stream>>>(pass, selection);
  }
  const auto grid = static_cast<unsigned>(tiles);
  count_tiles_kernel<<<grid, kBlock, 0, stream>>>(x, error, n, selection, counts);
  add_up_tiles_kernel<<<1, kBlock, 0, stream>>>(counts, tiles);
  take_kernel<<<grid, kBlock, 0, stream>>>(x, error, n, selection, counts, values, positions);
  return launched("select_largest");
}

Launch add_selected(Place place, const float* values, const std::uint32_t* positions, std::int64_t k,
                    float* out) {
  if (k == 0) return {};
  const OnDevice here(place);
  add_selected_kernel<<<static_cast<unsigned>(ceil_div(k, kBlock)), kBlock, 0, stream_of(place)>>>(
      values, positions, k, out);
  return launched("add_selected");
}

}  // namespace troupe::kernels::gpu
