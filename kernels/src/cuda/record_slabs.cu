// Records in slabs. A group of eight lanes takes a record.
#include "cuda/device.cuh"
#include "gpu_records.hpp"
#include "record_places.hpp"

namespace troupe::kernels::gpu {
namespace {

constexpr int kLanes = 8;

using Word = unsigned long long;  // as atomics have it

__device__ __forceinline__ std::int64_t this_thread() {
  return std::int64_t{blockIdx.x} * kBlock + threadIdx.x;
}

/// Copies a record by a group; both begin at multiples of four bytes, and `sixteen` says whether of 16.
__device__ __forceinline__ void copy_record(const std::byte* from, std::byte* to, std::int64_t bytes,
                                            bool sixteen, int lane) {
  std::int64_t done = 0;
  if (sixteen) {
    done = bytes / 16 * 16;
    for (std::int64_t at = std::int64_t{lane} * 16; at < done; at += kLanes * 16)
      *reinterpret_cast<uint4*>(to + at) = *reinterpret_cast<const uint4*>(from + at);
  }
  for (std::int64_t at = done + std::int64_t{lane} * 4; at < bytes; at += kLanes * 4)
    *reinterpret_cast<unsigned*>(to + at) = *reinterpret_cast<const unsigned*>(from + at);
}

__global__ void __launch_bounds__(kBlock)
    find_records_kernel(RecordSlabs slabs, const std::uint64_t* __restrict__ numbers, std::int64_t count,
                        std::uint64_t* __restrict__ rows) {
  const std::int64_t i = this_thread();
  if (i >= count) return;
  const std::uint64_t number = numbers[i];
  if (number == kNoRow) {
    rows[i] = kNoRow;
    return;
  }
  rows[i] = unit_of(record_at(slabs, number));
  std::uint8_t& mark = mark_at(slabs, number);
  if ((mark & kRowUsed) == 0) mark |= kRowUsed;  // whoever has the same row writes the same
}

__global__ void __launch_bounds__(kBlock)
    write_kernel(RecordSlabs slabs, std::int64_t bytes, bool sixteen, const std::byte* __restrict__ records,
                 const std::uint64_t* __restrict__ numbers, std::int64_t count) {
  const std::int64_t i = this_thread() / kLanes;
  if (i >= count || numbers[i] == kNoRow) return;
  copy_record(records + i * bytes, record_at(slabs, numbers[i]), bytes, sixteen,
              static_cast<int>(threadIdx.x) % kLanes);
}

__global__ void __launch_bounds__(kBlock)
    read_kernel(RecordSlabs slabs, KeptSlabs kept, std::uint64_t first,
                const std::uint64_t* __restrict__ numbers, std::int64_t count, std::int64_t bytes,
                bool sixteen, std::uint64_t* __restrict__ keys, std::uint8_t* __restrict__ flags,
                std::byte* __restrict__ records) {
  const std::int64_t i = this_thread() / kLanes;
  if (i >= count) return;
  const int lane = static_cast<int>(threadIdx.x) % kLanes;
  const std::uint64_t number = numbers ? numbers[i] : first + static_cast<std::uint64_t>(i);
  if (number == kNoRow) {
    if (lane == 0) flags[i] = 0;
    return;
  }
  const std::uint64_t put_aside = kept.slabs ? kept_at(slabs, number) : 0;
  if (lane == 0) {
    keys[i] = key_at(slabs, number);
    flags[i] = static_cast<std::uint8_t>(mark_at(slabs, number) | (put_aside != 0 ? kRowKept : 0));
  }
  const std::byte* const from = put_aside != 0 ? record_at(kept, put_aside - 1) : record_at(slabs, number);
  copy_record(from, records + i * bytes, bytes, sixteen, lane);
}

__global__ void __launch_bounds__(kBlock)
    keep_kernel(RecordSlabs slabs, KeptSlabs kept, std::int64_t bytes, RowCounts* counts, std::uint64_t first,
                std::uint64_t end, const std::uint64_t* __restrict__ numbers, std::int64_t count) {
  const std::int64_t i = this_thread() / kLanes;
  if (i >= count) return;  // a whole group
  const std::uint64_t number = numbers[i];
  if (number == kNoRow || number < first || number >= end) return;
  const int lane = static_cast<int>(threadIdx.x) % kLanes;
  const unsigned mask = group_mask(kLanes);
  constexpr Word kNone = ~Word{0};
  Word place = kNone;
  if (lane == 0 && (mark_at(slabs, number) & kRowLives) != 0) {
    // Whoever changes it from 0 keeps the row; the place is known a moment later.
    auto* const at = reinterpret_cast<Word*>(&kept_at(slabs, number));
    if (atomicCAS(at, Word{0}, kNone) == 0) {
      place = atomicAdd(reinterpret_cast<Word*>(&counts->kept), Word{1});
      atomicExch(at, place + 1);
    }
  }
  place = __shfl_sync(mask, place, 0, kLanes);
  if (place != kNone) copy_record(record_at(slabs, number), record_at(kept, place), bytes, true, lane);
}

__global__ void __launch_bounds__(kBlock)
    forget_kernel(RecordSlabs slabs, RowCounts* counts, std::int64_t count) {
  const std::int64_t i = this_thread();
  if (i < count) kept_at(slabs, static_cast<std::uint64_t>(i)) = 0;
  if (i == 0) counts->kept = 0;
}

__global__ void __launch_bounds__(kBlock)
    mask_kernel(RecordSlabs slabs, const std::uint64_t* __restrict__ numbers, std::int64_t count,
                std::uint8_t mask) {
  const std::int64_t i = this_thread();
  if (i >= count) return;
  const std::uint64_t number = numbers ? numbers[i] : static_cast<std::uint64_t>(i);
  if (number != kNoRow) mark_at(slabs, number) &= mask;
}

unsigned blocks_for(std::int64_t threads) {
  return static_cast<unsigned>(ceil_div(threads, kBlock));
}

}  // namespace

Launch find_records(Place place, const RecordSlabs& slabs, const std::uint64_t* numbers, std::int64_t count,
                    std::uint64_t* rows) {
  if (count == 0) return {};
  const OnDevice here(place);
  find_records_kernel<<<blocks_for(count), kBlock, 0, stream_of(place)>>>(slabs, numbers, count, rows);
  return launched("find_records");
}

Launch write_records(Place place, const RecordSlabs& slabs, std::int64_t bytes, const std::byte* records,
                     const std::uint64_t* numbers, std::int64_t count) {
  if (count == 0) return {};
  const OnDevice here(place);
  const bool sixteen = bytes % 16 == 0 && aligned(records, 16);
  write_kernel<<<blocks_for(count * kLanes), kBlock, 0, stream_of(place)>>>(slabs, bytes, sixteen, records,
                                                                            numbers, count);
  return launched("write_records");
}

Launch read_records(Place place, const RecordSlabs& slabs, const KeptSlabs& kept, std::uint64_t first,
                    const std::uint64_t* numbers, std::int64_t count, std::int64_t bytes, std::uint64_t* keys,
                    std::uint8_t* flags, std::byte* records) {
  if (count == 0) return {};
  const OnDevice here(place);
  const bool sixteen = bytes % 16 == 0 && aligned(records, 16);
  read_kernel<<<blocks_for(count * kLanes), kBlock, 0, stream_of(place)>>>(
      slabs, kept, first, numbers, count, bytes, sixteen, keys, flags, records);
  return launched("read_records");
}

Launch keep_records(Place place, const RecordSlabs& slabs, const KeptSlabs& kept, std::int64_t bytes,
                    RowCounts* counts, std::uint64_t first, std::uint64_t end, const std::uint64_t* numbers,
                    std::int64_t count) {
  if (count == 0) return {};
  const OnDevice here(place);
  keep_kernel<<<blocks_for(count * kLanes), kBlock, 0, stream_of(place)>>>(slabs, kept, bytes, counts, first,
                                                                           end, numbers, count);
  return launched("keep_records");
}

Launch forget_kept(Place place, const RecordSlabs& slabs, RowCounts* counts, std::int64_t count) {
  const OnDevice here(place);
  forget_kernel<<<blocks_for(std::max<std::int64_t>(count, 1)), kBlock, 0, stream_of(place)>>>(slabs, counts,
                                                                                               count);
  return launched("forget_kept");
}

Launch mask_marks(Place place, const RecordSlabs& slabs, const std::uint64_t* numbers, std::int64_t count,
                  std::uint8_t mask) {
  if (count == 0) return {};
  const OnDevice here(place);
  mask_kernel<<<blocks_for(count), kBlock, 0, stream_of(place)>>>(slabs, numbers, count, mask);
  return launched("mask_marks");
}

Launch mask_all_marks(Place place, const RecordSlabs& slabs, std::int64_t count, std::uint8_t mask) {
  return gpu::mask_marks(place, slabs, nullptr, count, mask);
}

}  // namespace troupe::kernels::gpu
