// Which row a key has. A thread for each key; numbers of new ones are given out by their places in the batch.
#include "cuda/device.cuh"
#include "gpu_records.hpp"
#include "record_places.hpp"

namespace troupe::kernels::gpu {
namespace {

using Word = unsigned long long;  // as atomics have it

__device__ __forceinline__ std::int64_t this_thread() {
  return std::int64_t{blockIdx.x} * kBlock + threadIdx.x;
}

/// The key's slot, taken for it if it has none; `filled`: it was taken.
__device__ __forceinline__ std::int64_t find_or_fill(const RowIndex& index, std::uint64_t key, bool& filled) {
  if (key == kNoRow) return index.slots;
  for (std::int64_t slot = home_of(index, key);; slot = (slot + 1) & (index.slots - 1)) {
    // Past the first cache, which does not see what other blocks have taken.
    std::uint64_t there = __ldcg(index.keys + slot);
    if (there == kNoRow) {
      there = atomicCAS(reinterpret_cast<Word*>(index.keys + slot), static_cast<Word>(kNoRow),
                        static_cast<Word>(key));
      filled = there == kNoRow;
    }
    if (filled || there == key) return slot;
  }
}

/// Adds how many threads of the block say yes. All of them call it.
__device__ __forceinline__ void count_filled(RowCounts* counts, bool filled) {
  const int all = __syncthreads_count(filled);
  if (threadIdx.x == 0 && all > 0)
    atomicAdd(reinterpret_cast<Word*>(&counts->filled), static_cast<Word>(all));
}

__global__ void __launch_bounds__(kBlock)
    find_kernel(RowIndex index, const std::uint64_t* __restrict__ keys, std::int64_t count,
                std::uint64_t* __restrict__ numbers) {
  const std::int64_t i = this_thread();
  if (i < count) numbers[i] = number_of(index, keys[i]);
}

/// Of equal keys without a row the first leaves its place in the batch where their number is to stand.
__global__ void __launch_bounds__(kBlock) claim_kernel(RowIndex index, RowCounts* counts, KeyBatch batch) {
  const std::int64_t i = this_thread();
  bool filled = false;
  if (i < batch.count) {
    const std::int64_t slot = find_or_fill(index, batch.keys[i], filled);
    batch.slots[i] = static_cast<std::uint64_t>(slot);
    std::uint64_t* const number = index.numbers + slot;
    if (__ldcg(number) >= kPending)
      atomicMin(reinterpret_cast<Word*>(number), static_cast<Word>(kPending | static_cast<std::uint64_t>(i)));
  }
  count_filled(counts, filled);
}

__global__ void __launch_bounds__(kBlock) count_kernel(RowIndex index, KeyBatch batch) {
  const std::int64_t i = this_thread();
  bool is_new = false;
  if (i < batch.count) {
    is_new = index.numbers[batch.slots[i]] == (kPending | static_cast<std::uint64_t>(i));
    batch.is_new[i] = is_new ? 1 : 0;
  }
  const int all = __syncthreads_count(is_new);
  if (threadIdx.x == 0) batch.block_counts[blockIdx.x] = static_cast<std::uint64_t>(all);
}

/// The sum of values[0 .. count - 1], in each thread of the block.
__device__ std::uint64_t block_sum(const std::uint64_t* values, std::int64_t count) {
  __shared__ std::uint64_t sums[kBlock / kWarp];
  std::uint64_t sum = 0;
  for (std::int64_t i = threadIdx.x; i < count; i += kBlock) sum += values[i];
  sum = group_sum(sum, kWarp, 0xFFFFFFFFU);
  if (threadIdx.x % kWarp == 0) sums[threadIdx.x / kWarp] = sum;
  __syncthreads();
  sum = 0;
  for (int w = 0; w < kBlock / kWarp; ++w) sum += sums[w];
  __syncthreads();
  return sum;
}

/// How many of the threads before this one in the block say yes.
__device__ std::uint64_t rank_in_block(bool yes) {
  __shared__ int sums[kBlock / kWarp];
  const unsigned votes = __ballot_sync(0xFFFFFFFFU, yes);
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  if (lane == 0) sums[warp] = __popc(votes);
  __syncthreads();
  int rank = __popc(votes & ((1U << lane) - 1U));
  for (int w = 0; w < warp; ++w) rank += sums[w];
  return static_cast<std::uint64_t>(rank);
}

__global__ void __launch_bounds__(kBlock)
    number_kernel(RowIndex index, const RowCounts* counts, const std::uint64_t* __restrict__ free_list,
                  bool use_free, KeyBatch batch) {
  const std::uint64_t before = block_sum(batch.block_counts, blockIdx.x);
  const std::int64_t i = this_thread();
  const bool is_new = i < batch.count && batch.is_new[i] != 0;
  const std::uint64_t rank = before + rank_in_block(is_new);
  if (!is_new) return;
  const std::uint64_t free = use_free ? counts->free : 0;
  index.numbers[batch.slots[i]] = rank < free ? free_list[free - 1 - rank] : counts->numbered + rank - free;
}

__global__ void __launch_bounds__(kBlock)
    settle_kernel(RowIndex index, RowCounts* counts, bool use_free, std::int64_t blocks, KeyBatch batch) {
  const std::int64_t i = this_thread();
  if (i < batch.count) batch.numbers[i] = index.numbers[batch.slots[i]];
  if (blockIdx.x != 0) return;
  const std::uint64_t made = block_sum(batch.block_counts, blocks);
  if (threadIdx.x != 0) return;
  const std::uint64_t again = use_free ? min(made, counts->free) : 0;
  counts->free -= again;
  counts->numbered += made - again;
  counts->rows += made;
}

__global__ void __launch_bounds__(kBlock)
    erase_kernel(RowIndex index, RowCounts* counts, std::uint64_t* __restrict__ free_list,
                 const std::uint64_t* __restrict__ keys, std::int64_t count,
                 std::uint64_t* __restrict__ numbers) {
  const std::int64_t i = this_thread();
  if (i >= count) return;
  numbers[i] = kNoRow;
  const std::uint64_t key = keys[i];
  std::int64_t slot = index.slots;
  if (key != kNoRow) {
    for (slot = home_of(index, key); index.keys[slot] != key; slot = (slot + 1) & (index.slots - 1))
      if (index.keys[slot] == kNoRow) return;
  }
  const std::uint64_t number =
      atomicExch(reinterpret_cast<Word*>(index.numbers + slot), static_cast<Word>(kNoRow));
  if (number == kNoRow) return;
  numbers[i] = number;
  free_list[atomicAdd(reinterpret_cast<Word*>(&counts->free), Word{1})] = number;
  atomicAdd(reinterpret_cast<Word*>(&counts->rows), ~Word{0});  // one less
}

__global__ void __launch_bounds__(kBlock) move_kernel(RowIndex from, RowIndex to, RowCounts* counts) {
  const std::int64_t s = this_thread();
  bool filled = false;
  if (s <= from.slots && from.numbers[s] != kNoRow) {
    const std::int64_t slot = find_or_fill(to, s == from.slots ? kNoRow : from.keys[s], filled);
    to.numbers[slot] = from.numbers[s];
  }
  count_filled(counts, filled);
}

unsigned blocks_for(std::int64_t threads) {
  return static_cast<unsigned>(ceil_div(threads, kBlock));
}

static_assert(insert_blocks(1) == 1 && insert_blocks(kBlock + 1) == 2);

}  // namespace

Launch clear_index(Place place, const RowIndex& index) {
  const OnDevice here(place);
  const std::size_t bytes = static_cast<std::size_t>(index.slots + 1) * sizeof(std::uint64_t);
  cudaError_t cleared = cudaMemsetAsync(index.keys, 0xFF, bytes, stream_of(place));
  if (cleared == cudaSuccess) cleared = cudaMemsetAsync(index.numbers, 0xFF, bytes, stream_of(place));
  return {"clear_index", static_cast<int>(cleared)};
}

Launch find_numbers(Place place, const RowIndex& index, const std::uint64_t* keys, std::int64_t count,
                    std::uint64_t* numbers) {
  if (count == 0) return {};
  const OnDevice here(place);
  find_kernel<<<blocks_for(count), kBlock, 0, stream_of(place)>>>(index, keys, count, numbers);
  return launched("find_numbers");
}

Launch insert_numbers(Place place, const RowIndex& index, RowCounts* counts, const std::uint64_t* free_list,
                      bool use_free, const KeyBatch& batch) {
  if (batch.count == 0) return {};
  const OnDevice here(place);
  const cudaStream_t stream = stream_of(place);
  const unsigned blocks = blocks_for(batch.count);
  claim_kernel<<<blocks, kBlock, 0, stream>>>(index, counts, batch);
  count_kernel<<<blocks, kBlock, 0, stream>>>(index, batch);
  number_kernel<<<blocks, kBlock, 0, stream>>>(index, counts, free_list, use_free, batch);
  settle_kernel<<<blocks, kBlock, 0, stream>>>(index, counts, use_free, std::int64_t{blocks}, batch);
  return launched("insert_numbers");
}

Launch erase_numbers(Place place, const RowIndex& index, RowCounts* counts, std::uint64_t* free_list,
                     const std::uint64_t* keys, std::int64_t count, std::uint64_t* numbers) {
  if (count == 0) return {};
  const OnDevice here(place);
  erase_kernel<<<blocks_for(count), kBlock, 0, stream_of(place)>>>(index, counts, free_list, keys, count,
                                                                   numbers);
  return launched("erase_numbers");
}

Launch move_index(Place place, const RowIndex& from, const RowIndex& to, RowCounts* counts) {
  const OnDevice here(place);
  const cudaStream_t stream = stream_of(place);
  const cudaError_t cleared = cudaMemsetAsync(&counts->filled, 0, sizeof(counts->filled), stream);
  if (cleared != cudaSuccess) return {"move_index", static_cast<int>(cleared)};
  move_kernel<<<blocks_for(from.slots + 1), kBlock, 0, stream>>>(from, to, counts);
  return launched("move_index");
}

}  // namespace troupe::kernels::gpu
