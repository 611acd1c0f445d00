// Optimizer steps on rows that may come more than once. The batch is sorted by row; then a group of lanes
// takes a chunk of it, sums each row's gradients and takes its step at once. What runs over a chunk's end is
// kept as a part: the parts of a row are summed, by a whole block if there are many, and its step comes last.
#include <bit>

#include <cub/device/device_radix_sort.cuh>

#include "cuda/row_step.cuh"
#include "gpu_kernels.hpp"

namespace troupe::kernels::gpu {
namespace {

constexpr int kChunk = 32;         // gradients
constexpr int kPartsOfGroup = 32;  // as many a group sums by itself
constexpr int kSegment = 64;       // chunks whose parts are added up first, where all are one row's
constexpr int kLongBlocks = 264;   // two for each multiprocessor of an H200
constexpr int kLongThreads = 1024;
constexpr std::size_t kAlign = 512;  // of the workspace's pieces

using Key = std::uint32_t;
constexpr Key kNoKey = ~Key{0};

/// Pieces of the caller's workspace.
struct Workspace {
  Key* keys;  // sorted
  std::uint32_t* positions;
  std::byte* sort;
  std::size_t sort_bytes;
  std::uint64_t* rows;  // of steps that come last, or kNoRow
  float* sums;          // for them: of chunks whose last row goes on, or of rows
  float* heads;         // of chunks whose first row began earlier
  std::uint32_t* long_count;
  std::uint32_t* long_list;
};

int bits_of(std::int64_t row_count) {
  return std::max(
      1,
      static_cast<int>(std::bit_width(static_cast<std::uint64_t>(std::max<std::int64_t>(row_count, 1) - 1))));
}

std::size_t pieces_of(std::size_t bytes) {
  return (bytes + kAlign - 1) / kAlign * kAlign;
}

/// Lays the pieces out from `base` on; returns how many bytes they take. Rows that cannot be held need a sum
/// for each gradient, as each may be another row's; others for each chunk.
std::size_t lay_out(Place place, std::byte* base, std::int64_t count, std::int64_t dim,
                    std::int64_t row_count, bool held, Workspace& out) {
  std::size_t used = 0;
  const auto take = [&](auto*& pointer, std::size_t bytes) {
    pointer = reinterpret_cast<std::remove_reference_t<decltype(pointer)>>(base + used);
    used += pieces_of(bytes);
  };
  const auto n = static_cast<std::size_t>(count);
  const auto parts = held ? static_cast<std::size_t>(ceil_div(count, kChunk)) : n;
  const std::size_t row_bytes = static_cast<std::size_t>(dim) * sizeof(float);
  take(out.keys, n * sizeof(Key));
  take(out.positions, n * sizeof(std::uint32_t));
  out.sort_bytes = gpu::sort_rows_workspace(place, count, row_count);
  take(out.sort, out.sort_bytes);
  take(out.rows, parts * sizeof(std::uint64_t));
  take(out.sums, parts * row_bytes);
  if (held) {
    take(out.heads, parts * row_bytes);
    take(out.long_count, sizeof(std::uint32_t));
    take(out.long_list, parts * sizeof(std::uint32_t));
  }
  return used;
}

__global__ void __launch_bounds__(kBlock)
    prepare_kernel(const std::uint64_t* __restrict__ rows, std::int64_t count, Key* __restrict__ keys,
                   std::uint32_t* __restrict__ positions) {
  const std::int64_t i = std::int64_t{blockIdx.x} * kBlock + threadIdx.x;
  if (i >= count) return;
  keys[i] = static_cast<Key>(rows[i]);
  positions[i] = static_cast<std::uint32_t>(i);
}

template <int held>
__device__ __forceinline__ void store_part(float* parts, std::int64_t chunk, std::int64_t dim,
                                           const Floats<4> (&sum)[held], int lane, int lanes) {
#pragma unroll
  for (int h = 0; h < held; ++h) {
    const std::int64_t at = (std::int64_t{h} * lanes + lane) * 4;
    if (at < dim) store_floats<4>(parts, chunk * dim + at, sum[h]);
  }
}

template <int held>
__device__ __forceinline__ void add_part(Floats<4> (&sum)[held], const Floats<4> (&part)[held]) {
#pragma unroll
  for (int h = 0; h < held; ++h)
#pragma unroll
    for (int k = 0; k < 4; ++k) sum[h].v[k] += part[h].v[k];
}

template <int held>
__device__ __forceinline__ void load_part(Floats<4> (&part)[held], const float* parts, std::int64_t row,
                                          std::int64_t dim, int lane, int lanes, bool there) {
#pragma unroll
  for (int h = 0; h < held; ++h) {
    const std::int64_t at = (std::int64_t{h} * lanes + lane) * 4;
    part[h] = there && at < dim ? load_floats<4>(parts, row * dim + at) : Floats<4>{};
  }
}

template <Rule rule, int held>
__global__ void __launch_bounds__(kBlock)
    chunks_kernel(Numbers numbers, RowTable table, const float* __restrict__ gradients, std::int64_t count,
                  int lanes, Workspace work) {
  constexpr int kAtOnce = held == 1 ? 4 : 2;
  const std::int64_t thread = std::int64_t{blockIdx.x} * kBlock + threadIdx.x;
  const std::int64_t chunk = thread / lanes;
  const int lane = static_cast<int>(thread % lanes);
  const std::int64_t begin = chunk * kChunk;
  if (begin >= count) return;  // a whole group
  const std::int64_t end = min(begin + kChunk, count);
  const unsigned mask = group_mask(lanes);
  const std::int64_t dim = table.dim;
  Key key = work.keys[begin];
  bool began_before = begin > 0 && work.keys[begin - 1] == key;
  Floats<4> sum[held]{};
  for (std::int64_t i = begin; i < end; i += kAtOnce) {
    Key keys[kAtOnce];
    Floats<4> part[kAtOnce][held];
#pragma unroll
    for (int r = 0; r < kAtOnce; ++r) {
      const bool there = i + r < end;
      keys[r] = there ? work.keys[i + r] : kNoKey;
      load_part<held>(part[r], gradients, there ? work.positions[i + r] : 0, dim, lane, lanes, there);
    }
#pragma unroll
    for (int r = 0; r < kAtOnce; ++r) {
      if (i + r >= end) break;
      if (keys[r] != key) {
        if (began_before)
          store_part<held>(work.heads, chunk, dim, sum, lane, lanes);
        else
          step_held_row<rule, held>(numbers, table, key, sum, lane, lanes, mask);
        key = keys[r];
        began_before = false;
#pragma unroll
        for (int h = 0; h < held; ++h) sum[h] = part[r][h];
      } else {
        add_part<held>(sum, part[r]);
      }
    }
  }
  const bool goes_on = end < count && work.keys[end] == key;
  if (lane == 0) work.rows[chunk] = goes_on && !began_before ? std::uint64_t{key} : kNoRow;
  if (began_before)
    store_part<held>(work.heads, chunk, dim, sum, lane, lanes);
  else if (goes_on)
    store_part<held>(work.sums, chunk, dim, sum, lane, lanes);
  else
    step_held_row<rule, held>(numbers, table, key, sum, lane, lanes, mask);
}

/// The last chunk that has some of the row that goes on after `chunk`: such chunks begin with it. Most rows
/// end in the next one, which one look tells.
__device__ std::int64_t last_chunk_of(const Workspace& work, std::int64_t chunk, std::int64_t count) {
  const Key key = static_cast<Key>(work.rows[chunk]);
  const std::int64_t chunks = (count + kChunk - 1) / kChunk;
  std::int64_t low = chunk + 1;  // has some
  std::int64_t step = 1;
  while (low + step < chunks && work.keys[(low + step) * kChunk] == key) {
    low += step;
    step *= 2;
  }
  std::int64_t high = min(low + step, chunks);  // has none
  while (high - low > 1) {
    const std::int64_t middle = (low + high) / 2;
    if (work.keys[middle * kChunk] == key)
      low = middle;
    else
      high = middle;
  }
  return low;
}

/// Sums the parts of rows that run over a chunk's end, if they are few; lists the others.
template <int held>
__global__ void __launch_bounds__(kBlock)
    parts_kernel(std::int64_t count, std::int64_t dim, int lanes, Workspace work) {
  constexpr int kAtOnce = held == 1 ? 4 : 2;
  const std::int64_t thread = std::int64_t{blockIdx.x} * kBlock + threadIdx.x;
  const std::int64_t chunk = thread / lanes;
  const int lane = static_cast<int>(thread % lanes);
  if (chunk * kChunk >= count || work.rows[chunk] == kNoRow) return;
  const std::int64_t last = last_chunk_of(work, chunk, count);
  if (last - chunk > kPartsOfGroup) {
    if (lane == 0) work.long_list[atomicAdd(work.long_count, 1U)] = static_cast<std::uint32_t>(chunk);
    return;
  }
  Floats<4> sum[held];
  load_part<held>(sum, work.sums, chunk, dim, lane, lanes, true);
  for (std::int64_t i = chunk + 1; i <= last; i += kAtOnce) {
    Floats<4> part[kAtOnce][held];
#pragma unroll
    for (int r = 0; r < kAtOnce; ++r)
      load_part<held>(part[r], work.heads, i + r, dim, lane, lanes, i + r <= last);
#pragma unroll
    for (int r = 0; r < kAtOnce; ++r) add_part<held>(sum, part[r]);
  }
  store_part<held>(work.sums, chunk, dim, sum, lane, lanes);
}

/// Of a segment that lies within one row, the sum of all parts, which then stands in the place of the first.
/// A row of so many is none of parts_kernel's.
template <int held>
__global__ void __launch_bounds__(kBlock)
    segments_kernel(std::int64_t count, std::int64_t dim, int lanes, Workspace work) {
  constexpr int kAtOnce = held == 1 ? 4 : 2;
  extern __shared__ float4 shared[];
  auto* const of_groups = reinterpret_cast<float*>(shared);
  const std::int64_t first = (std::int64_t{blockIdx.x} + 1) * kSegment;
  const std::int64_t last = first + kSegment - 1;
  if (last * kChunk >= count || work.keys[first * kChunk - 1] != work.keys[last * kChunk]) return;
  const int groups = kBlock / lanes;
  const int group = static_cast<int>(threadIdx.x) / lanes;
  const int lane = static_cast<int>(threadIdx.x) % lanes;
  Floats<4> sum[held]{};
  for (std::int64_t i = first + group; i <= last; i += std::int64_t{groups} * kAtOnce) {
    Floats<4> part[kAtOnce][held];
#pragma unroll
    for (int r = 0; r < kAtOnce; ++r) {
      const std::int64_t at = i + std::int64_t{groups} * r;
      load_part<held>(part[r], work.heads, at, dim, lane, lanes, at <= last);
    }
#pragma unroll
    for (int r = 0; r < kAtOnce; ++r) add_part<held>(sum, part[r]);
  }
  store_part<held>(of_groups, group, dim, sum, lane, lanes);
  __syncthreads();
  if (group != 0) return;
  for (int g = 1; g < min(groups, kSegment); ++g) {
    Floats<4> part[held];
    load_part<held>(part, of_groups, g, dim, lane, lanes, true);
    add_part<held>(sum, part);
  }
  store_part<held>(work.heads, first, dim, sum, lane, lanes);
}

/// Where the parts of a long row stand after that: those before its first whole segment, one for each whole
/// segment, and those after.
struct Parts {
  std::int64_t first, lead, segments, first_segment, all;

  __device__ Parts(std::int64_t begin, std::int64_t last)
      : first(begin), lead(last + 1 - begin), segments(0), first_segment((begin + kSegment - 1) / kSegment) {
    all = lead;
    const std::int64_t past = (last + 1) / kSegment;
    if (past <= first_segment) return;
    lead = first_segment * kSegment - begin;
    segments = past - first_segment;
    all = lead + segments + (last + 1 - past * kSegment);
  }
  __device__ std::int64_t at(std::int64_t i) const {
    if (i < lead) return first + i;
    if (i < lead + segments) return (first_segment + i - lead) * kSegment;
    return (first_segment + segments) * kSegment + (i - lead - segments);
  }
};

/// Sums the parts of a row with many, a block for each: its groups take every so-manieth.
template <int held>
__global__ void __launch_bounds__(kLongThreads)
    long_kernel(std::int64_t count, std::int64_t dim, int lanes, Workspace work) {
  constexpr int kAtOnce = held == 1 ? 8 : 2;
  extern __shared__ float4 shared[];
  auto* const of_groups = reinterpret_cast<float*>(shared);
  const int groups = static_cast<int>(blockDim.x) / lanes;
  const int group = static_cast<int>(threadIdx.x) / lanes;
  const int lane = static_cast<int>(threadIdx.x) % lanes;
  for (std::uint32_t which = blockIdx.x; which < *work.long_count; which += gridDim.x) {
    const std::int64_t chunk = work.long_list[which];
    const Parts parts(chunk + 1, last_chunk_of(work, chunk, count));
    Floats<4> sum[held]{};
    for (std::int64_t i = group; i < parts.all; i += std::int64_t{groups} * kAtOnce) {
      Floats<4> part[kAtOnce][held];
#pragma unroll
      for (int r = 0; r < kAtOnce; ++r) {
        const std::int64_t which_part = i + std::int64_t{groups} * r;
        load_part<held>(part[r], work.heads, parts.at(which_part), dim, lane, lanes, which_part < parts.all);
      }
#pragma unroll
      for (int r = 0; r < kAtOnce; ++r) add_part<held>(sum, part[r]);
    }
    store_part<held>(of_groups, group, dim, sum, lane, lanes);
    __syncthreads();
    if (group == 0) {
      load_part<held>(sum, work.sums, chunk, dim, lane, lanes, true);
      for (int g = 0; g < groups; ++g) {
        Floats<4> part[held];
        load_part<held>(part, of_groups, g, dim, lane, lanes, true);
        add_part<held>(sum, part);
      }
      store_part<held>(work.sums, chunk, dim, sum, lane, lanes);
    }
    __syncthreads();
  }
}

/// Sums for rows of any length and place: a warp for each row, at its first gradient's place.
__global__ void __launch_bounds__(kBlock)
    any_sums_kernel(const float* __restrict__ gradients, std::int64_t count, std::int64_t dim,
                    Workspace work) {
  const std::int64_t i = (std::int64_t{blockIdx.x} * kBlock + threadIdx.x) / kWarp;
  const int lane = static_cast<int>(threadIdx.x % kWarp);
  if (i >= count) return;
  const Key key = work.keys[i];
  const bool first = i == 0 || work.keys[i - 1] != key;
  if (lane == 0) work.rows[i] = first ? std::uint64_t{key} : kNoRow;
  if (!first) return;
  for (std::int64_t j = lane; j < dim; j += kWarp) {
    float sum = 0;
    for (std::int64_t k = i; k < count && work.keys[k] == key; ++k)
      sum += gradients[std::int64_t{work.positions[k]} * dim + j];
    work.sums[i * dim + j] = sum;
  }
}

template <int held>
Launch sum_and_step(Place place, const Step& step, const RowTable& table, const float* gradients,
                    std::int64_t count, const Workspace& work) {
  const cudaStream_t stream = stream_of(place);
  const std::int64_t dim = table.dim;
  const int lanes = lanes_for(dim, 4);
  const std::int64_t chunks = ceil_div(count, kChunk);
  const auto blocks = static_cast<unsigned>(ceil_div(chunks * lanes, kBlock));
  const Numbers numbers = numbers_of(step);
  for_rule(step.rule, [&]<Rule rule>() {
    chunks_kernel<rule, held><<<blocks, kBlock, 0, stream>>>(numbers, table, gradients, count, lanes, work);
  });
  if (Launch first = launched("update_rows_summed"); !first.ok()) return first;
  parts_kernel<held><<<blocks, kBlock, 0, stream>>>(count, dim, lanes, work);
  const auto segments = static_cast<unsigned>(chunks / kSegment);
  if (segments > 1) {
    const std::size_t room = static_cast<std::size_t>(kBlock / lanes * dim) * sizeof(float);
    segments_kernel<held><<<segments - 1, kBlock, room, stream>>>(count, dim, lanes, work);
  }
  const int threads = dim <= 256 ? kLongThreads : kLongThreads / 2;
  const std::size_t shared = static_cast<std::size_t>(threads / lanes * dim) * sizeof(float);
  long_kernel<held><<<kLongBlocks, threads, shared, stream>>>(count, dim, lanes, work);
  if (Launch second = launched("update_rows_summed"); !second.ok()) return second;
  return gpu::update_rows(place, step, table, work.rows, work.sums, chunks);
}

}  // namespace

std::size_t sort_rows_workspace(Place place, std::int64_t count, std::int64_t row_count) {
  const OnDevice here(place);
  std::size_t bytes = 0;
  cub::DeviceRadixSort::SortPairs(nullptr, bytes, static_cast<const Key*>(nullptr),
                                  static_cast<Key*>(nullptr), static_cast<const std::uint32_t*>(nullptr),
                                  static_cast<std::uint32_t*>(nullptr), static_cast<int>(count), 0,
                                  bits_of(row_count));
  return pieces_of(bytes) + 2 * pieces_of(static_cast<std::size_t>(count) * sizeof(Key));
}

Launch sort_rows(Place place, const std::uint64_t* rows, std::int64_t count, std::int64_t row_count,
                 std::uint32_t* sorted, std::uint32_t* positions, void* workspace,
                 std::size_t workspace_bytes) {
  if (count == 0) return {};
  const OnDevice here(place);
  const cudaStream_t stream = stream_of(place);
  const std::size_t piece = pieces_of(static_cast<std::size_t>(count) * sizeof(Key));
  if (workspace_bytes < gpu::sort_rows_workspace(place, count, row_count))
    return {"sort_rows: its workspace", static_cast<int>(cudaErrorInvalidValue)};
  auto* const base = static_cast<std::byte*>(workspace);
  auto* const keys = reinterpret_cast<Key*>(base);
  auto* const places = reinterpret_cast<std::uint32_t*>(base + piece);
  std::size_t rest = workspace_bytes - 2 * piece;
  prepare_kernel<<<static_cast<unsigned>(ceil_div(count, kBlock)), kBlock, 0, stream>>>(rows, count, keys,
                                                                                        places);
  if (Launch first = launched("sort_rows"); !first.ok()) return first;
  const cudaError_t done =
      cub::DeviceRadixSort::SortPairs(base + 2 * piece, rest, keys, sorted, places, positions,
                                      static_cast<int>(count), 0, bits_of(row_count), stream);
  return {"sort_rows", static_cast<int>(done)};
}

std::size_t update_rows_summed_workspace(Place place, const Step& step, const RowTable& table,
                                         std::int64_t row_count, const float* gradients, std::int64_t count) {
  const OnDevice here(place);
  Workspace work{};
  const bool held = can_be_held(table, state_of(step.rule), gradients);
  return lay_out(place, nullptr, count, table.dim, row_count, held, work);
}

Launch update_rows_summed(Place place, const Step& step, const RowTable& table, std::int64_t row_count,
                          const std::uint64_t* rows, const float* gradients, std::int64_t count,
                          void* workspace, std::size_t workspace_bytes) {
  if (count == 0 || table.dim == 0) return {};
  const OnDevice here(place);
  const cudaStream_t stream = stream_of(place);
  const bool held = can_be_held(table, state_of(step.rule), gradients);
  Workspace work{};
  if (lay_out(place, static_cast<std::byte*>(workspace), count, table.dim, row_count, held, work) >
      workspace_bytes)
    return {"update_rows_summed: its workspace", static_cast<int>(cudaErrorInvalidValue)};
  if (held) {
    if (const cudaError_t cleared = cudaMemsetAsync(work.long_count, 0, sizeof(std::uint32_t), stream);
        cleared != cudaSuccess)
      return {"update_rows_summed", static_cast<int>(cleared)};
  }
  const Launch sorted =
      gpu::sort_rows(place, rows, count, row_count, work.keys, work.positions, work.sort, work.sort_bytes);
  if (!sorted.ok()) return sorted;
  if (!held) {
    any_sums_kernel<<<static_cast<unsigned>(ceil_div(count * kWarp, kBlock)), kBlock, 0, stream>>>(
        gradients, count, table.dim, work);
    if (Launch second = launched("update_rows_summed"); !second.ok()) return second;
    return gpu::update_rows(place, step, table, work.rows, work.sums, count);
  }
  return table.dim <= kWarp * 4 ? sum_and_step<1>(place, step, table, gradients, count, work)
                                : sum_and_step<kHeldAtMost>(place, step, table, gradients, count, work);
}

}  // namespace troupe::kernels::gpu
