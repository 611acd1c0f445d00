// Attention on tensor cores, after Dao 2023. A block has 64 rows of one head, a warp 16 of these, and goes
// through the others' tiles. On the way back one kernel has the queries' gradients, with queries as rows, and
// one those of keys and values, with keys as rows: products are done again instead of adding up in memory in
// an order that may change.
#include "cuda/device.cuh"
#include "cuda/tensor_core.cuh"
#include "dropped.hpp"
#include "gpu_attention.hpp"

namespace troupe::kernels::gpu {
namespace {

constexpr int kThreads = 128;
constexpr int kRows = 64;    // of a block
constexpr int kOwn = 16;     // of a warp
constexpr int kOthers = 32;  // of a tile that it goes through
constexpr int kAcross = kOthers / 8;
constexpr float kLog2E = 1.4426950408889634F;
constexpr float kLn2 = 0.6931471805599453F;

/// The head that a block has, and its first row.
struct Head {
  std::int64_t first_row;
  std::int64_t number;  // of the head's numbers in log_sums
  std::int64_t in;      // where the head begins in queries, keys, values
  std::int64_t out;
};

/// The longest rows first, so that no block begins a long one at the end.
__device__ __forceinline__ Head head_of(const Attention& shape, bool longest_last) {
  const std::int64_t tile = longest_last ? gridDim.x - 1 - blockIdx.x : blockIdx.x;
  const std::int64_t s = blockIdx.z;
  const std::int64_t h = blockIdx.y;
  return {tile * kRows, (s * shape.heads + h) * shape.length,
          s * shape.length * shape.stride + h * shape.width,
          s * shape.length * shape.out_stride + h * shape.width};
}

__device__ __forceinline__ const std::uint16_t* halves(const void* base, std::int64_t at) {
  return static_cast<const std::uint16_t*>(base) + at;
}

__device__ __forceinline__ int own_row() {
  return static_cast<int>(threadIdx.x) / kWarp * kOwn;
}

/// products[j] = this warp's rows of `left` times columns 8 j .. of the transpose of `right`.
template <Element element, int width>
__device__ __forceinline__ void multiply_rows(const SharedRows<width>& left, const SharedRows<width>& right,
                                              Accumulator (&products)[kAcross]) {
#pragma unroll
  for (auto& each : products) each = {};
#pragma unroll
  for (int c = 0; c < width; c += 16) {
    const LeftTile a = left.left(own_row(), c);
#pragma unroll
    for (int j = 0; j < kAcross; ++j)
      multiply_tiles<element>(products[j], a, right.right_transposed(j * 8, c));
  }
}

/// sums += factors times the rows of `right`.
template <Element element, int width>
__device__ __forceinline__ void add_products(const Accumulator (&factors)[kAcross],
                                             const SharedRows<width>& right, Accumulator (&sums)[width / 8]) {
#pragma unroll
  for (int j = 0; j < kAcross; j += 2) {
    const LeftTile a = left_of<element>(factors[j], factors[j + 1]);
#pragma unroll
    for (int c = 0; c < width / 8; ++c) multiply_tiles<element>(sums[c], a, right.right(j * 8, c * 8));
  }
}

/// Writes this warp's rows, each times its factor.
template <Element element, int width>
__device__ __forceinline__ void store_rows(void* base, std::int64_t at, std::int64_t stride,
                                           std::int64_t first, std::int64_t length,
                                           const Accumulator (&sums)[width / 8], float upper, float lower) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  auto* const to = static_cast<std::uint16_t*>(base) + at;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const std::int64_t row = first + own_row() + lane / 4 + half * 8;
    if (row >= length) continue;
    const float factor = half == 0 ? upper : lower;
#pragma unroll
    for (int c = 0; c < width / 8; ++c)
      *reinterpret_cast<unsigned*>(to + row * stride + c * 8 + lane % 4 * 2) =
          pack<element>(sums[c].v[2 * half] * factor, sums[c].v[2 * half + 1] * factor);
  }
}

/// Calls visit(value, which of the two rows, row, column) for a lane's part of products whose first row and
/// column are those of the head's.
template <class Visit>
__device__ __forceinline__ void for_products(Accumulator (&products)[kAcross], std::int64_t first_row,
                                             std::int64_t first_column, const Visit& visit) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
#pragma unroll
  for (int j = 0; j < kAcross; ++j)
#pragma unroll
    for (int e = 0; e < 4; ++e)
      visit(products[j].v[e], e / 2, first_row + own_row() + lane / 4 + e / 2 * 8,
            first_column + j * 8 + lane % 4 * 2 + e % 2);
}

/// The number, for dropout, of the weight of row `row` of a head for another.
__device__ __forceinline__ std::uint64_t weight_number(const Attention& shape, const Head& head,
                                                       std::int64_t row, std::int64_t other) {
  return static_cast<std::uint64_t>((head.number + row) * shape.length + other);
}

template <Element element, int width>
__global__ void __launch_bounds__(kThreads)
    forward_kernel(Attention shape, AttentionParts parts, Dropper dropper, void* out,
                   float* __restrict__ log_sums) {
  using Rows = SharedRows<width>;
  extern __shared__ __align__(16) std::uint16_t shared[];
  const Rows queries{shared};
  const Rows keys{shared + kRows * Rows::kStride};
  const Rows values{keys.at + kOthers * Rows::kStride};
  const Head head = head_of(shape, shape.causal);
  queries.template fill<kThreads>(halves(parts.queries, head.in), shape.stride, head.first_row, kRows,
                                  shape.length);
  const float factor = shape.scale * kLog2E;
  float most[2] = {-INFINITY, -INFINITY};
  float weights[2] = {};
  Accumulator sums[width / 8] = {};
  const std::int64_t past = head.first_row + kRows;
  const std::int64_t seen = shape.causal && past < shape.length ? past : shape.length;
  for (std::int64_t first = 0; first < seen; first += kOthers) {
    __syncthreads();  // the tiles are free
    keys.template fill<kThreads>(halves(parts.keys, head.in), shape.stride, first, kOthers, shape.length);
    values.template fill<kThreads>(halves(parts.values, head.in), shape.stride, first, kOthers, shape.length);
    __syncthreads();
    Accumulator scores[kAcross];
    multiply_rows<element, width>(queries, keys, scores);
    float larger[2] = {most[0], most[1]};
    for_products(scores, head.first_row, first,
                 [&](float& score, int half, std::int64_t row, std::int64_t column) {
                   const bool hidden = column >= shape.length || (shape.causal && column > row);
                   score = hidden ? -INFINITY : score * factor;
                   larger[half] = fmaxf(larger[half], score);
                 });
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      for (int step = 1; step < 4; step *= 2)
        larger[half] = fmaxf(larger[half], __shfl_xor_sync(0xFFFFFFFFU, larger[half], step));
      const float shrinks = exp2f(most[half] - larger[half]);
      most[half] = larger[half];
      weights[half] *= shrinks;
#pragma unroll
      for (auto& sum : sums) {
        sum.v[2 * half] *= shrinks;
        sum.v[2 * half + 1] *= shrinks;
      }
    }
    for_products(scores, head.first_row, first,
                 [&](float& score, int half, std::int64_t row, std::int64_t column) {
                   score = exp2f(score - most[half]);
                   weights[half] += score;
                   if (dropper.any()) score *= dropper.of(weight_number(shape, head, row, column));
                 });
    add_products<element, width>(scores, values, sums);
  }
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    for (int step = 1; step < 4; step *= 2)
      weights[half] += __shfl_xor_sync(0xFFFFFFFFU, weights[half], step);
    const std::int64_t row = head.first_row + own_row() + lane / 4 + half * 8;
    if (lane % 4 == 0 && row < shape.length)
      log_sums[head.number + row] = most[half] * kLn2 + logf(weights[half]);
  }
  store_rows<element, width>(out, head.out, shape.out_stride, head.first_row, shape.length, sums,
                             1 / weights[0], 1 / weights[1]);
}

template <Element element, int width>
__global__ void __launch_bounds__(kThreads)
    query_tiles_kernel(Attention shape, AttentionParts parts, Dropper dropper) {
  using Rows = SharedRows<width>;
  extern __shared__ __align__(16) std::uint16_t shared[];
  const Rows queries{shared};
  const Rows given{shared + kRows * Rows::kStride};
  const Rows keys{given.at + kRows * Rows::kStride};
  const Rows values{keys.at + kOthers * Rows::kStride};
  const Head head = head_of(shape, shape.causal);
  queries.template fill<kThreads>(halves(parts.queries, head.in), shape.stride, head.first_row, kRows,
                                  shape.length);
  given.template fill<kThreads>(halves(parts.out_gradients, head.out), shape.out_stride, head.first_row,
                                kRows, shape.length);
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  float log_sums[2] = {};
  float along[2] = {};
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const std::int64_t row = head.first_row + own_row() + lane / 4 + half * 8;
    if (row >= shape.length) continue;
    log_sums[half] = parts.log_sums[head.number + row];
    along[half] = parts.along[head.number + row];
  }
  Accumulator sums[width / 8] = {};
  const std::int64_t past = head.first_row + kRows;
  const std::int64_t seen = shape.causal && past < shape.length ? past : shape.length;
  for (std::int64_t first = 0; first < seen; first += kOthers) {
    __syncthreads();
    keys.template fill<kThreads>(halves(parts.keys, head.in), shape.stride, first, kOthers, shape.length);
    values.template fill<kThreads>(halves(parts.values, head.in), shape.stride, first, kOthers, shape.length);
    __syncthreads();
    Accumulator weights[kAcross];
    Accumulator slopes[kAcross];
    multiply_rows<element, width>(queries, keys, weights);
    multiply_rows<element, width>(given, values, slopes);
    if (dropper.any())
      for_products(slopes, head.first_row, first,
                   [&](float& slope, int, std::int64_t row, std::int64_t column) {
                     slope *= dropper.of(weight_number(shape, head, row, column));
                   });
    for_products(
        weights, head.first_row, first, [&](float& weight, int half, std::int64_t row, std::int64_t column) {
          const bool hidden = column >= shape.length || row >= shape.length || (shape.causal && column > row);
          weight = hidden ? 0.0F : exp2f((weight * shape.scale - log_sums[half]) * kLog2E);
        });
#pragma unroll
    for (int j = 0; j < kAcross; ++j)
#pragma unroll
      for (int e = 0; e < 4; ++e) slopes[j].v[e] = weights[j].v[e] * (slopes[j].v[e] - along[e / 2]);
    add_products<element, width>(slopes, keys, sums);
  }
  store_rows<element, width>(parts.query_gradients, head.in, shape.stride, head.first_row, shape.length, sums,
                             shape.scale, shape.scale);
}

template <Element element, int width>
__global__ void __launch_bounds__(kThreads)
    key_tiles_kernel(Attention shape, AttentionParts parts, Dropper dropper) {
  using Rows = SharedRows<width>;
  extern __shared__ __align__(16) std::uint16_t shared[];
  __shared__ float log_sums[kOthers];
  __shared__ float along[kOthers];
  const Rows keys{shared};
  const Rows values{shared + kRows * Rows::kStride};
  const Rows queries{values.at + kRows * Rows::kStride};
  const Rows given{queries.at + kOthers * Rows::kStride};
  const Head head = head_of(shape, false);
  keys.template fill<kThreads>(halves(parts.keys, head.in), shape.stride, head.first_row, kRows,
                               shape.length);
  values.template fill<kThreads>(halves(parts.values, head.in), shape.stride, head.first_row, kRows,
                                 shape.length);
  Accumulator key_sums[width / 8] = {};
  Accumulator value_sums[width / 8] = {};
  for (std::int64_t first = shape.causal ? head.first_row : 0; first < shape.length; first += kOthers) {
    __syncthreads();
    queries.template fill<kThreads>(halves(parts.queries, head.in), shape.stride, first, kOthers,
                                    shape.length);
    given.template fill<kThreads>(halves(parts.out_gradients, head.out), shape.out_stride, first, kOthers,
                                  shape.length);
    if (threadIdx.x < kOthers) {
      const bool there = first + threadIdx.x < shape.length;
      log_sums[threadIdx.x] = there ? parts.log_sums[head.number + first + threadIdx.x] : 0.0F;
      along[threadIdx.x] = there ? parts.along[head.number + first + threadIdx.x] : 0.0F;
    }
    __syncthreads();
    // Rows are keys, columns queries.
    Accumulator weights[kAcross];
    multiply_rows<element, width>(keys, queries, weights);
    for_products(
        weights, head.first_row, first, [&](float& weight, int, std::int64_t key, std::int64_t query) {
          const bool hidden = key >= shape.length || query >= shape.length || (shape.causal && key > query);
          weight = hidden ? 0.0F : exp2f((weight * shape.scale - log_sums[query - first]) * kLog2E);
        });
    Accumulator slopes[kAcross];
    multiply_rows<element, width>(values, given, slopes);
    Accumulator used[kAcross];
#pragma unroll
    for (int j = 0; j < kAcross; ++j) used[j] = weights[j];
    if (dropper.any()) {
      const auto drop = [&](float& value, int, std::int64_t key, std::int64_t query) {
        value *= dropper.of(weight_number(shape, head, query, key));
      };
      for_products(used, head.first_row, first, drop);
      for_products(slopes, head.first_row, first, drop);
    }
    add_products<element, width>(used, given, value_sums);
    const int lane = static_cast<int>(threadIdx.x) % kWarp;
#pragma unroll
    for (int j = 0; j < kAcross; ++j)
#pragma unroll
      for (int e = 0; e < 4; ++e)
        slopes[j].v[e] = weights[j].v[e] * (slopes[j].v[e] - along[j * 8 + lane % 4 * 2 + e % 2]);
    add_products<element, width>(slopes, queries, key_sums);
  }
  store_rows<element, width>(parts.key_gradients, head.in, shape.stride, head.first_row, shape.length,
                             key_sums, shape.scale, shape.scale);
  store_rows<element, width>(parts.value_gradients, head.in, shape.stride, head.first_row, shape.length,
                             value_sums, 1, 1);
}

dim3 grid_of(const Attention& shape) {
  return {static_cast<unsigned>(ceil_div(shape.length, kRows)), static_cast<unsigned>(shape.heads),
          static_cast<unsigned>(shape.sequences)};
}

/// Launches with so many rows in shared memory, which may be more than a kernel has by itself.
template <int width, class Kernel, class... Arguments>
cudaError_t launch(Kernel kernel, Place place, const Attention& shape, int rows, Arguments... arguments) {
  const int bytes = SharedRows<width>::bytes(rows);
  if (const cudaError_t allowed =
          cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
      allowed != cudaSuccess)
    return allowed;
  kernel<<<grid_of(shape), kThreads, static_cast<std::size_t>(bytes), stream_of(place)>>>(shape,
                                                                                          arguments...);
  return cudaGetLastError();
}

template <Element element, int width>
cudaError_t forward(Place place, const Attention& shape, const AttentionParts& parts, void* out,
                    float* log_sums) {
  return launch<width>(forward_kernel<element, width>, place, shape, kRows + 2 * kOthers, parts,
                       Dropper(shape.dropout), out, log_sums);
}

template <Element element, int width>
cudaError_t backward(Place place, const Attention& shape, const AttentionParts& parts) {
  constexpr int kAll = 2 * kRows + 2 * kOthers;
  const Dropper dropper(shape.dropout);
  const cudaError_t first =
      launch<width>(query_tiles_kernel<element, width>, place, shape, kAll, parts, dropper);
  return first != cudaSuccess
             ? first
             : launch<width>(key_tiles_kernel<element, width>, place, shape, kAll, parts, dropper);
}

/// visit(element, width), both known when this is compiled.
template <class Visit>
cudaError_t with_kind(const Attention& shape, const Visit& visit) {
  using E = Element;
  const bool half = shape.element == E::kFloat16;
  if (shape.width == 64)
    return half ? visit.template operator()<E::kFloat16, 64>()
                : visit.template operator()<E::kBFloat16, 64>();
  return half ? visit.template operator()<E::kFloat16, 128>()
              : visit.template operator()<E::kBFloat16, 128>();
}

}  // namespace

bool fit_for_tensor_cores(const Attention& shape, const AttentionParts& parts, const void* out) {
  constexpr std::int64_t kMostInGrid = 65'535;
  const bool kind = shape.element != Element::kFloat32 && (shape.width == 64 || shape.width == 128) &&
                    shape.stride % 8 == 0 && shape.out_stride % 8 == 0 && shape.heads <= kMostInGrid &&
                    shape.sequences <= kMostInGrid;
  const auto well = [](const void* pointer) { return aligned(pointer, 16); };
  return kind && well(parts.queries) && well(parts.keys) && well(parts.values) && well(out) &&
         well(parts.out_gradients) && well(parts.query_gradients) && well(parts.key_gradients) &&
         well(parts.value_gradients);
}

Launch attention_on_tensor_cores(Place place, const Attention& shape, const AttentionParts& parts, void* out,
                                 float* log_sums) {
  return {"attention", static_cast<int>(with_kind(shape, [&]<Element element, int width>() {
            return forward<element, width>(place, shape, parts, out, log_sums);
          }))};
}

Launch attention_backward_on_tensor_cores(Place place, const Attention& shape, const AttentionParts& parts) {
  return {"attention_backward", static_cast<int>(with_kind(shape, [&]<Element element, int width>() {
            return backward<element, width>(place, shape, parts);
          }))};
}

}  // namespace troupe::kernels::gpu
