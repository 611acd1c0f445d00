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
constexpr int kThere = 64;   // of a tile that it goes through, on the way there
constexpr int kOthers = 32;  // and on the way back, which needs more registers
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

/// This warp's rows as the left factor: in registers where these are enough.
template <int width>
class OwnRows {
 public:
  static constexpr bool kKept = width <= 64;

  __device__ __forceinline__ explicit OwnRows(const SharedRows<width>& rows) : rows_(rows) {
    if constexpr (kKept) {
#pragma unroll
      for (int i = 0; i < width / 16; ++i) kept_[i] = rows_.left(own_row(), i * 16);
    }
  }
  __device__ __forceinline__ LeftTile at(int column) const {
    if constexpr (kKept) return kept_[column / 16];
    return rows_.left(own_row(), column);
  }

 private:
  const SharedRows<width> rows_;
  LeftTile kept_[kKept ? width / 16 : 1];
};

/// products[j] = this warp's rows times columns 8 j .. of the transpose of `right`.
template <Element element, int width, int across>
__device__ __forceinline__ void multiply_rows(const OwnRows<width>& left, const SharedRows<width>& right,
                                              Accumulator (&products)[across]) {
#pragma unroll
  for (auto& each : products) each = {};
#pragma unroll
  for (int c = 0; c < width; c += 32) {
    const LeftTile a = left.at(c);
    const LeftTile b = left.at(c + 16);
#pragma unroll
    for (int j = 0; j < across; ++j) {
      const TwoRightTiles two = right.right_transposed(j * 8, c);
      multiply_tiles<element>(products[j], a, two.first);
      multiply_tiles<element>(products[j], b, two.second);
    }
  }
}

/// sums += factors times the rows of `right`.
template <Element element, int width, int across>
__device__ __forceinline__ void add_products(const Accumulator (&factors)[across],
                                             const SharedRows<width>& right, Accumulator (&sums)[width / 8]) {
#pragma unroll
  for (int j = 0; j < across; j += 2) {
    const LeftTile a = left_of<element>(factors[j], factors[j + 1]);
#pragma unroll
    for (int c = 0; c < width / 8; c += 2) {
      const TwoRightTiles two = right.right(j * 8, c * 8);
      multiply_tiles<element>(sums[c], a, two.first);
      multiply_tiles<element>(sums[c + 1], a, two.second);
    }
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

/// Calls visit(value, which of the two rows, row, column) for a lane's part of products, rows and columns
/// being those of the block and of the tile.
template <int across, class Visit>
__device__ __forceinline__ void for_products(Accumulator (&products)[across], const Visit& visit) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
#pragma unroll
  for (int j = 0; j < across; ++j)
#pragma unroll
    for (int e = 0; e < 4; ++e)
      visit(products[j].v[e], e / 2, own_row() + lane / 4 + e / 2 * 8, j * 8 + lane % 4 * 2 + e % 2);
}

/// The number, for dropout, of the weight of row `row` of a head for another.
__device__ __forceinline__ std::uint64_t weight_number(const Attention& shape, const Head& head,
                                                       std::int64_t row, std::int64_t other) {
  return static_cast<std::uint64_t>((head.number + row) * shape.length + other);
}

/// Of a tile of `others` rows that begins at `first`, for this warp's rows: whether all of its weights count,
/// or none. A query's weights are for keys up to itself.
struct Reach {
  bool whole;
  bool none;
};
template <int others>
__device__ __forceinline__ Reach reach_of_queries(const Attention& shape, const Head& head,
                                                  std::int64_t first) {
  const std::int64_t mine = head.first_row + own_row();
  const bool inside = first + others <= shape.length && mine + kOwn <= shape.length;
  return {inside && (!shape.causal || first + others - 1 <= mine), shape.causal && first > mine + kOwn - 1};
}
template <int others>
__device__ __forceinline__ Reach reach_of_keys(const Attention& shape, const Head& head, std::int64_t first) {
  const std::int64_t mine = head.first_row + own_row();
  const bool inside = first + others <= shape.length && mine + kOwn <= shape.length;
  return {inside && (!shape.causal || mine + kOwn - 1 <= first), shape.causal && first + others - 1 < mine};
}

template <Element element, int width>
__global__ void __launch_bounds__(kThreads)
    forward_kernel(Attention shape, AttentionParts parts, Dropper dropper, void* out,
                   float* __restrict__ log_sums) {
  using Rows = SharedRows<width>;
  constexpr int kAcross = kThere / 8;
  extern __shared__ __align__(16) std::uint16_t shared[];
  const Rows queries{shared};
  std::uint16_t* const tiles = shared + kRows * Rows::kStride;  // keys, values; and those of the next tile
  const auto keys_at = [&](int which) { return Rows{tiles + which * 2 * kThere * Rows::kStride}; };
  const auto values_at = [&](int which) { return Rows{tiles + (which * 2 + 1) * kThere * Rows::kStride}; };
  const Head head = head_of(shape, shape.causal);
  const auto begin_tile = [&](int which, std::int64_t first) {
    keys_at(which).template copy_later<kThreads>(halves(parts.keys, head.in), shape.stride, first, kThere,
                                                 shape.length);
    values_at(which).template copy_later<kThreads>(halves(parts.values, head.in), shape.stride, first, kThere,
                                                   shape.length);
  };
  begin_tile(0, 0);
  end_group();
  queries.template fill<kThreads>(halves(parts.queries, head.in), shape.stride, head.first_row, kRows,
                                  shape.length);
  __syncthreads();
  const OwnRows<width> own(queries);
  const float factor = shape.scale * kLog2E;
  float most[2] = {-INFINITY, -INFINITY};
  float weights[2] = {};
  Accumulator sums[width / 8] = {};
  const std::int64_t past = head.first_row + kRows;
  const std::int64_t seen = shape.causal && past < shape.length ? past : shape.length;
  int which = 0;
  for (std::int64_t first = 0; first < seen; first += kThere, which = 1 - which) {
    __syncthreads();  // the other tile is free
    if (first + kThere < seen) begin_tile(1 - which, first + kThere);
    end_group();
    wait_for_all_but_last();
    __syncthreads();
    const Reach reach = reach_of_queries<kThere>(shape, head, first);
    if (reach.none) continue;
    Accumulator scores[kAcross];
    multiply_rows<element, width>(own, keys_at(which), scores);
    float larger[2] = {most[0], most[1]};
    if (reach.whole) {
      for_products(scores, [&](float& score, int half, int, int) {
        score *= factor;
        larger[half] = fmaxf(larger[half], score);
      });
    } else {
      for_products(scores, [&](float& score, int half, int row, int column) {
        const bool hidden =
            first + column >= shape.length || (shape.causal && first + column > head.first_row + row);
        score = hidden ? -INFINITY : score * factor;
        larger[half] = fmaxf(larger[half], score);
      });
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      for (int step = 1; step < 4; step *= 2)
        larger[half] = fmaxf(larger[half], __shfl_xor_sync(0xFFFFFFFFU, larger[half], step));
      const float shrinks = power_of_two(most[half] - larger[half]);
      most[half] = larger[half];
      weights[half] *= shrinks;
#pragma unroll
      for (auto& sum : sums) {
        sum.v[2 * half] *= shrinks;
        sum.v[2 * half + 1] *= shrinks;
      }
    }
    for_products(scores, [&](float& score, int half, int, int) {
      score = power_of_two(score - most[half]);
      weights[half] += score;
    });
    if (dropper.any())
      for_products(scores, [&](float& score, int, int row, int column) {
        score *= dropper.of(weight_number(shape, head, head.first_row + row, first + column));
      });
    add_products<element, width>(scores, values_at(which), sums);
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
  constexpr int kAcross = kOthers / 8;
  extern __shared__ __align__(16) std::uint16_t shared[];
  const Rows queries{shared};
  const Rows given{shared + kRows * Rows::kStride};
  std::uint16_t* const tiles = given.at + kRows * Rows::kStride;
  const auto keys_at = [&](int which) { return Rows{tiles + which * 2 * kOthers * Rows::kStride}; };
  const auto values_at = [&](int which) { return Rows{tiles + (which * 2 + 1) * kOthers * Rows::kStride}; };
  const Head head = head_of(shape, shape.causal);
  const auto begin_tile = [&](int which, std::int64_t first) {
    keys_at(which).template copy_later<kThreads>(halves(parts.keys, head.in), shape.stride, first, kOthers,
                                                 shape.length);
    values_at(which).template copy_later<kThreads>(halves(parts.values, head.in), shape.stride, first,
                                                   kOthers, shape.length);
  };
  begin_tile(0, 0);
  end_group();
  queries.template fill<kThreads>(halves(parts.queries, head.in), shape.stride, head.first_row, kRows,
                                  shape.length);
  given.template fill<kThreads>(halves(parts.out_gradients, head.out), shape.out_stride, head.first_row,
                                kRows, shape.length);
  __syncthreads();
  const OwnRows<width> own_queries(queries);
  const OwnRows<width> own_given(given);
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const float factor = shape.scale * kLog2E;
  float log_sums[2] = {};  // to the base of 2
  float along[2] = {};
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const std::int64_t row = head.first_row + own_row() + lane / 4 + half * 8;
    if (row >= shape.length) continue;
    log_sums[half] = parts.log_sums[head.number + row] * kLog2E;
    along[half] = parts.along[head.number + row];
  }
  Accumulator sums[width / 8] = {};
  const std::int64_t past = head.first_row + kRows;
  const std::int64_t seen = shape.causal && past < shape.length ? past : shape.length;
  int which = 0;
  for (std::int64_t first = 0; first < seen; first += kOthers, which = 1 - which) {
    __syncthreads();  // the other tile is free
    if (first + kOthers < seen) begin_tile(1 - which, first + kOthers);
    end_group();
    wait_for_all_but_last();
    __syncthreads();
    const Reach reach = reach_of_queries<kOthers>(shape, head, first);
    if (reach.none) continue;
    Accumulator weights[kAcross];
    Accumulator slopes[kAcross];
    multiply_rows<element, width>(own_queries, keys_at(which), weights);
    multiply_rows<element, width>(own_given, values_at(which), slopes);
    if (dropper.any())
      for_products(slopes, [&](float& slope, int, int row, int column) {
        slope *= dropper.of(weight_number(shape, head, head.first_row + row, first + column));
      });
    if (reach.whole) {
      for_products(weights, [&](float& weight, int half, int, int) {
        weight = power_of_two(weight * factor - log_sums[half]);
      });
    } else {
      for_products(weights, [&](float& weight, int half, int row, int column) {
        const bool hidden = first + column >= shape.length || head.first_row + row >= shape.length ||
                            (shape.causal && first + column > head.first_row + row);
        weight = hidden ? 0.0F : power_of_two(weight * factor - log_sums[half]);
      });
    }
#pragma unroll
    for (int j = 0; j < kAcross; ++j)
#pragma unroll
      for (int e = 0; e < 4; ++e) slopes[j].v[e] = weights[j].v[e] * (slopes[j].v[e] - along[e / 2]);
    add_products<element, width>(slopes, keys_at(which), sums);
  }
  store_rows<element, width>(parts.query_gradients, head.in, shape.stride, head.first_row, shape.length, sums,
                             shape.scale, shape.scale);
}

template <Element element, int width>
__global__ void __launch_bounds__(kThreads)
    key_tiles_kernel(Attention shape, AttentionParts parts, Dropper dropper) {
  using Rows = SharedRows<width>;
  constexpr int kAcross = kOthers / 8;
  extern __shared__ __align__(16) std::uint16_t shared[];
  __shared__ float log_sums[2][kOthers];  // to the base of 2
  __shared__ float along[2][kOthers];
  const Rows keys{shared};
  const Rows values{shared + kRows * Rows::kStride};
  std::uint16_t* const tiles = values.at + kRows * Rows::kStride;
  const auto queries_at = [&](int which) { return Rows{tiles + which * 2 * kOthers * Rows::kStride}; };
  const auto given_at = [&](int which) { return Rows{tiles + (which * 2 + 1) * kOthers * Rows::kStride}; };
  const Head head = head_of(shape, false);
  const auto begin_tile = [&](int which, std::int64_t first) {
    queries_at(which).template copy_later<kThreads>(halves(parts.queries, head.in), shape.stride, first,
                                                    kOthers, shape.length);
    given_at(which).template copy_later<kThreads>(halves(parts.out_gradients, head.out), shape.out_stride,
                                                  first, kOthers, shape.length);
    if (threadIdx.x < kOthers) {
      const bool there = first + threadIdx.x < shape.length;
      log_sums[which][threadIdx.x] =
          there ? parts.log_sums[head.number + first + threadIdx.x] * kLog2E : 0.0F;
      along[which][threadIdx.x] = there ? parts.along[head.number + first + threadIdx.x] : 0.0F;
    }
  };
  const std::int64_t begin = shape.causal ? head.first_row : 0;
  begin_tile(0, begin);
  end_group();
  keys.template fill<kThreads>(halves(parts.keys, head.in), shape.stride, head.first_row, kRows,
                               shape.length);
  values.template fill<kThreads>(halves(parts.values, head.in), shape.stride, head.first_row, kRows,
                                 shape.length);
  __syncthreads();
  const OwnRows<width> own_keys(keys);
  const OwnRows<width> own_values(values);
  const float factor = shape.scale * kLog2E;
  Accumulator key_sums[width / 8] = {};
  Accumulator value_sums[width / 8] = {};
  int which = 0;
  for (std::int64_t first = begin; first < shape.length; first += kOthers, which = 1 - which) {
    __syncthreads();  // the other tile is free
    if (first + kOthers < shape.length) begin_tile(1 - which, first + kOthers);
    end_group();
    wait_for_all_but_last();
    __syncthreads();
    const Reach reach = reach_of_keys<kOthers>(shape, head, first);
    if (reach.none) continue;
    // Rows are keys, columns queries.
    Accumulator weights[kAcross];
    multiply_rows<element, width>(own_keys, queries_at(which), weights);
    if (reach.whole) {
      for_products(weights, [&](float& weight, int, int, int query) {
        weight = power_of_two(weight * factor - log_sums[which][query]);
      });
    } else {
      for_products(weights, [&](float& weight, int, int key, int query) {
        const bool hidden = head.first_row + key >= shape.length || first + query >= shape.length ||
                            (shape.causal && head.first_row + key > first + query);
        weight = hidden ? 0.0F : power_of_two(weight * factor - log_sums[which][query]);
      });
    }
    Accumulator slopes[kAcross];
    multiply_rows<element, width>(own_values, given_at(which), slopes);
    if (dropper.any()) {
      // Values get what is left of the weights; slopes are of the weights as they were.
      Accumulator used[kAcross];
#pragma unroll
      for (int j = 0; j < kAcross; ++j) used[j] = weights[j];
      const auto drop = [&](float& value, int, int key, int query) {
        value *= dropper.of(weight_number(shape, head, first + query, head.first_row + key));
      };
      for_products(used, drop);
      for_products(slopes, drop);
      add_products<element, width>(used, given_at(which), value_sums);
    } else {
      add_products<element, width>(weights, given_at(which), value_sums);
    }
    for_products(slopes, [&](float& slope, int, int, int query) { slope -= along[which][query]; });
#pragma unroll
    for (int j = 0; j < kAcross; ++j)
#pragma unroll
      for (int e = 0; e < 4; ++e) slopes[j].v[e] *= weights[j].v[e];
    add_products<element, width>(slopes, queries_at(which), key_sums);
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
  return launch<width>(forward_kernel<element, width>, place, shape, kRows + 4 * kThere, parts,
                       Dropper(shape.dropout), out, log_sums);
}

template <Element element, int width>
cudaError_t backward(Place place, const Attention& shape, const AttentionParts& parts) {
  constexpr int kAll = 2 * kRows + 4 * kOthers;
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
