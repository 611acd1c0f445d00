// Maps from keys to slots. Sixteen lanes look at a bucket, a key each; then they move the row.
#include "cuda/device.cuh"
#include "gpu_kernels.hpp"
#include "map_hash.hpp"

namespace troupe::kernels::gpu {
namespace {

constexpr int kLanes = static_cast<int>(kBucketSlots);

using Key = unsigned long long;  // as atomics have it

/// The group of lanes that has a key, and this lane's place in it.
struct Group {
  unsigned mask;
  int shift;  // of its lanes in the warp's votes
  int lane;
};

__device__ __forceinline__ Group this_group() {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  return {group_mask(kLanes), lane / kLanes * kLanes, lane % kLanes};
}

/// Which lanes of the group say yes, lane 0 as the lowest bit.
__device__ __forceinline__ unsigned vote(const Group& group, bool yes) {
  return __ballot_sync(group.mask, yes) >> group.shift & ((1U << kLanes) - 1U);
}

__device__ __forceinline__ std::int64_t index_of_group() {
  return (std::int64_t{blockIdx.x} * kBlock + threadIdx.x) / kLanes;
}

// Keys that a group looks for together: what counts is how many reads are under way.
constexpr int kAtOnce = 4;

/// The slots of some keys; kNoRow for those that are not there.
__device__ __forceinline__ void find(const KeyMap& map, const std::uint64_t (&keys)[kAtOnce],
                                     std::uint64_t (&slots)[kAtOnce], const Group& group) {
  std::uint64_t there[kAtOnce];
  std::int64_t begin[kAtOnce];
#pragma unroll
  for (int k = 0; k < kAtOnce; ++k) {
    begin[k] = homes_of(keys[k], map.buckets).first * kBucketSlots;
    there[k] = map.keys[begin[k] + group.lane];
  }
#pragma unroll
  for (int k = 0; k < kAtOnce; ++k) {
    slots[k] = kNoRow;
    if (keys[k] == kNoRow) continue;
    unsigned found = vote(group, there[k] == keys[k]);
    if (found == 0) {
      begin[k] = homes_of(keys[k], map.buckets).second * kBucketSlots;
      const std::uint64_t second = map.keys[begin[k] + group.lane];
      found = vote(group, second == keys[k]);
    }
    if (found != 0) slots[k] = static_cast<std::uint64_t>(begin[k] + __ffs(static_cast<int>(found)) - 1);
  }
}

/// Copies a row, or zeros where there is none, by a group.
__device__ void copy_row(const float* from, float* to, std::int64_t dim, bool fours, const Group& group) {
  if (fours) {
    for (std::int64_t at = group.lane * 4; at < dim; at += kLanes * 4)
      store_floats<4>(to, at, from ? load_floats<4>(from, at) : Floats<4>{});
  } else {
    for (std::int64_t at = group.lane; at < dim; at += kLanes) to[at] = from ? from[at] : 0.0F;
  }
}

/// The keys of this group's turn; kNoRow past the end.
__device__ __forceinline__ void read_keys(const std::uint64_t* __restrict__ keys, std::int64_t first,
                                          std::int64_t count, std::uint64_t (&out)[kAtOnce]) {
#pragma unroll
  for (int k = 0; k < kAtOnce; ++k) out[k] = first + k < count ? keys[first + k] : kNoRow;
}

__global__ void __launch_bounds__(kBlock)
    find_kernel(KeyMap map, SlotRows rows, bool fours, const std::uint64_t* __restrict__ keys,
                std::int64_t count, std::uint32_t now, std::uint64_t* __restrict__ slots,
                float* __restrict__ out) {
  const std::int64_t first = index_of_group() * kAtOnce;
  if (first >= count) return;  // a whole group
  const Group group = this_group();
  std::uint64_t mine[kAtOnce];
  std::uint64_t found[kAtOnce];
  read_keys(keys, first, count, mine);
  find(map, mine, found, group);
#pragma unroll
  for (int k = 0; k < kAtOnce; ++k) {
    if (group.lane != k || first + k >= count) continue;
    slots[first + k] = found[k];
    if (found[k] != kNoRow && now != 0) map.used[found[k]] = now;
  }
  if (rows.dim == 0) return;
  const int there = static_cast<int>(min(static_cast<std::int64_t>(kAtOnce), count - first));
  if (fours) {
    for (std::int64_t at = group.lane * 4; at < rows.dim; at += kLanes * 4) {
      Floats<4> row[kAtOnce];
#pragma unroll
      for (int k = 0; k < kAtOnce; ++k) {
        row[k] = found[k] == kNoRow
                     ? Floats<4>{}
                     : load_floats<4>(rows.base, static_cast<std::int64_t>(found[k]) * rows.stride + at);
      }
#pragma unroll
      for (int k = 0; k < kAtOnce; ++k)
        if (k < there) store_floats<4>(out, (first + k) * rows.dim + at, row[k]);
    }
  } else {
#pragma unroll
    for (int k = 0; k < kAtOnce; ++k) {
      if (k >= there) continue;
      const float* const row =
          found[k] == kNoRow ? nullptr : rows.base + static_cast<std::int64_t>(found[k]) * rows.stride;
      copy_row(row, out + (first + k) * rows.dim, rows.dim, false, group);
    }
  }
}

/// What became of a key that wanted a slot.
struct Placed {
  std::uint64_t slot;
  std::uint64_t evicted;
  bool is_new;
};

/// Takes a slot whose key is `expected` for `key`; whether that was done. The same in all lanes.
__device__ __forceinline__ bool take(const KeyMap& map, std::int64_t slot, std::uint64_t expected,
                                     std::uint64_t key, const Group& group) {
  Key before = 0;
  if (group.lane == 0)
    before =
        atomicCAS(reinterpret_cast<Key*>(map.keys + slot), static_cast<Key>(expected), static_cast<Key>(key));
  return __shfl_sync(group.mask, before, 0, kLanes) == static_cast<Key>(expected);
}

/// The key's slot, or a free one; kNoRow: there is none.
__device__ Placed find_or_take_free(const KeyMap& map, std::uint64_t key, const Group& group) {
  const Homes homes = homes_of(key, map.buckets);
  const std::int64_t begins[2] = {homes.first * kBucketSlots, homes.second * kBucketSlots};
  unsigned free[2];
#pragma unroll
  for (int b = 0; b < 2; ++b) {
    // Past the first cache, which does not see what other blocks have taken.
    const std::uint64_t there = __ldcg(map.keys + begins[b] + group.lane);
    const unsigned found = vote(group, there == key);
    if (found != 0)
      return {static_cast<std::uint64_t>(begins[b] + __ffs(static_cast<int>(found)) - 1), kNoRow, false};
    free[b] = vote(group, there == kNoRow);
  }
  const int preferred = prefers_first(__popc(free[0]), __popc(free[1])) ? 0 : 1;
#pragma unroll
  for (int turn = 0; turn < 2; ++turn) {
    const int b = preferred ^ turn;
    for (unsigned left = b == 0 ? free[0] : free[1]; left != 0; left &= left - 1) {
      const std::int64_t slot = (b == 0 ? begins[0] : begins[1]) + __ffs(static_cast<int>(left)) - 1;
      if (take(map, slot, kNoRow, key, group)) return {static_cast<std::uint64_t>(slot), kNoRow, true};
    }
  }
  return {kNoRow, kNoRow, false};
}

/// What the phases of an insertion share.
struct Insertion {
  KeyMap map;
  SlotRows rows;
  bool fours;
  const std::uint64_t* keys;
  const float* values;
  std::int64_t count;
  std::uint32_t now;
  std::uint64_t* slots;
  std::uint8_t* is_new;
  std::uint64_t* evicted;
};

/// Notes what became of key i, and moves its row.
__device__ void finish(const Insertion& all, std::int64_t i, const Placed& placed, const Group& group) {
  if (group.lane == 0) {
    all.slots[i] = placed.slot;
    all.is_new[i] = placed.is_new ? 1 : 0;
    if (all.evicted) all.evicted[i] = placed.evicted;
    if (placed.slot != kNoRow && all.now != 0) all.map.used[placed.slot] = all.now;
  }
  if (placed.slot != kNoRow && all.values) {
    float* const row = all.rows.base + static_cast<std::int64_t>(placed.slot) * all.rows.stride;
    copy_row(all.values + i * all.rows.dim, row, all.rows.dim, all.fours, group);
  }
}

enum class Phase : int { kTakeFree, kFindOrTakeFree };

/// With eviction the phases are launches of their own: keys that are there, or have got a slot, have `used`
/// of now when others look for what to evict.
template <Phase phase>
__global__ void __launch_bounds__(kBlock) insert_kernel(Insertion all) {
  const std::int64_t i = index_of_group();
  if (i >= all.count) return;  // a whole group
  constexpr bool kFirst = phase == Phase::kFindOrTakeFree;
  const std::uint64_t key = all.keys[i];
  const Group group = this_group();
  if (key == kNoRow) {
    if (kFirst) finish(all, i, {kNoRow, kNoRow, false}, group);
    return;
  }
  if (!kFirst && all.slots[i] != kNoRow) return;
  finish(all, i, find_or_take_free(all.map, key, group), group);
}

/// The smallest of the lanes' numbers, in each of them.
__device__ __forceinline__ std::uint64_t smallest_of(std::uint64_t mine, const Group& group) {
  for (int step = kLanes / 2; step > 0; step /= 2) {
    const Key other = __shfl_xor_sync(group.mask, static_cast<Key>(mine), step, kLanes);
    if (other < mine) mine = other;
  }
  return mine;
}

/// The rows of some keys at once: values[first + k, :] to the row at slots[k], unless that is kNoRow.
__device__ void assign_rows(const Insertion& all, std::int64_t first, const std::uint64_t (&slots)[kAtOnce],
                            const Group& group) {
  if (!all.values) return;
  const std::int64_t dim = all.rows.dim;
  if (!all.fours) {
    for (int k = 0; k < kAtOnce; ++k) {
      if (slots[k] == kNoRow) continue;
      float* const row = all.rows.base + static_cast<std::int64_t>(slots[k]) * all.rows.stride;
      copy_row(all.values + (first + k) * dim, row, dim, false, group);
    }
    return;
  }
  for (std::int64_t at = group.lane * 4; at < dim; at += kLanes * 4) {
    Floats<4> row[kAtOnce];
#pragma unroll
    for (int k = 0; k < kAtOnce; ++k)
      row[k] = slots[k] == kNoRow ? Floats<4>{} : load_floats<4>(all.values, (first + k) * dim + at);
#pragma unroll
    for (int k = 0; k < kAtOnce; ++k)
      if (slots[k] != kNoRow)
        store_floats<4>(all.rows.base, static_cast<std::int64_t>(slots[k]) * all.rows.stride + at, row[k]);
  }
}

/// A group evicts for some keys at once, lane k what key k needs: what counts is the wait for one access
/// after the other. A key takes the slot, of the 32 that it may have, that was used longest ago; none if all
/// were used now.
__global__ void __launch_bounds__(kBlock) evict_kernel(Insertion all) {
  const std::int64_t first = index_of_group() * kAtOnce;
  if (first >= all.count) return;  // a whole group
  const Group group = this_group();
  std::uint64_t keys[kAtOnce];
  read_keys(all.keys, first, all.count, keys);
  std::uint64_t mine = kNoRow;  // lane k: key k, if it still wants a slot
  const bool own = group.lane < kAtOnce && first + group.lane < all.count;
  if (own && all.slots[first + group.lane] == kNoRow) mine = all.keys[first + group.lane];
  const unsigned wanted = vote(group, mine != kNoRow);
  unsigned open = wanted;
  std::uint64_t slot = kNoRow;
  std::uint64_t evicted = kNoRow;
  for (int tries = 0; open != 0 && tries < 2 * kLanes; ++tries) {
    // Age, and the slot's place among the 32 for ties, as one number; the largest is one that may not go.
    std::uint64_t oldest[kAtOnce];
#pragma unroll
    for (int k = 0; k < kAtOnce; ++k) {
      oldest[k] = kNoRow;
      if ((open >> k & 1U) == 0) continue;
      const Homes homes = homes_of(keys[k], all.map.buckets);
      std::uint32_t used[2];
#pragma unroll
      for (int b = 0; b < 2; ++b)
        used[b] = __ldcg(all.map.used + (b == 0 ? homes.first : homes.second) * kBucketSlots + group.lane);
#pragma unroll
      for (int b = 0; b < 2; ++b)
        if (used[b] != all.now)
          oldest[k] = min(oldest[k], static_cast<std::uint64_t>(used[b]) << 32 |
                                         static_cast<std::uint64_t>(b * kLanes + group.lane));
    }
    std::uint64_t choice = kNoRow;
#pragma unroll
    for (int k = 0; k < kAtOnce; ++k) {
      if ((open >> k & 1U) == 0) continue;
      const std::uint64_t smallest = smallest_of(oldest[k], group);
      if (group.lane == k) choice = smallest;
    }
    const bool tries_now = own && (open >> group.lane & 1U) != 0;
    if (tries_now && choice != kNoRow) {
      const int place = static_cast<int>(choice & 0xFFU);
      const Homes homes = homes_of(mine, all.map.buckets);
      const std::int64_t at = (place < kLanes ? homes.first : homes.second) * kBucketSlots + place % kLanes;
      // Whoever changes `used` from what was seen has the slot: two cannot.
      const auto seen = static_cast<std::uint32_t>(choice >> 32);
      if (atomicCAS(all.map.used + at, seen, all.now) == seen) {
        evicted = __ldcg(all.map.keys + at);
        all.map.keys[at] = mine;
        slot = static_cast<std::uint64_t>(at);
      }
    }
    open &= ~vote(group, tries_now && (slot != kNoRow || choice == kNoRow));
  }
  if (wanted == 0) return;
  if (group.lane < kAtOnce && (wanted >> group.lane & 1U) != 0) {
    all.slots[first + group.lane] = slot;
    all.is_new[first + group.lane] = slot != kNoRow ? 1 : 0;
    if (all.evicted) all.evicted[first + group.lane] = evicted;
  }
  std::uint64_t slots[kAtOnce];
#pragma unroll
  for (int k = 0; k < kAtOnce; ++k) {
    const Key of_lane = __shfl_sync(group.mask, static_cast<Key>(slot), k, kLanes);
    slots[k] = (wanted >> k & 1U) != 0 ? of_lane : kNoRow;
  }
  assign_rows(all, first, slots, group);
}

/// Of some keys at once those that are there: they have `used` of now before anything is evicted.
__global__ void __launch_bounds__(kBlock) assign_found_kernel(Insertion all) {
  const std::int64_t first = index_of_group() * kAtOnce;
  if (first >= all.count) return;  // a whole group
  const Group group = this_group();
  std::uint64_t keys[kAtOnce];
  std::uint64_t slots[kAtOnce];
  read_keys(all.keys, first, all.count, keys);
  find(all.map, keys, slots, group);
#pragma unroll
  for (int k = 0; k < kAtOnce; ++k) {
    if (group.lane != k || first + k >= all.count) continue;
    all.slots[first + k] = slots[k];
    all.is_new[first + k] = 0;
    if (all.evicted) all.evicted[first + k] = kNoRow;
    if (slots[k] != kNoRow && all.now != 0) all.map.used[slots[k]] = all.now;
  }
  assign_rows(all, first, slots, group);
}

__global__ void __launch_bounds__(kBlock)
    erase_kernel(KeyMap map, const std::uint64_t* __restrict__ keys, std::int64_t count,
                 std::uint64_t* __restrict__ slots) {
  const std::int64_t first = index_of_group() * kAtOnce;
  if (first >= count) return;  // a whole group
  const Group group = this_group();
  std::uint64_t mine[kAtOnce];
  std::uint64_t found[kAtOnce];
  read_keys(keys, first, count, mine);
  find(map, mine, found, group);
#pragma unroll
  for (int k = 0; k < kAtOnce; ++k) {
    if (group.lane != k || first + k >= count) continue;
    slots[first + k] = found[k];
    if (found[k] != kNoRow) map.keys[found[k]] = kNoRow;
  }
}

__global__ void __launch_bounds__(kBlock)
    export_kernel(KeyMap map, std::int64_t first_slot, std::int64_t slot_count,
                  std::uint64_t* __restrict__ keys, std::uint64_t* __restrict__ slots, Key* count) {
  const std::int64_t i = std::int64_t{blockIdx.x} * kBlock + threadIdx.x;
  const std::uint64_t key = i < slot_count ? map.keys[first_slot + i] : kNoRow;
  const unsigned there = __ballot_sync(0xFFFFFFFFU, key != kNoRow);
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  Key begin = 0;
  if (lane == 0 && there != 0) begin = atomicAdd(count, static_cast<Key>(__popc(there)));
  begin = __shfl_sync(0xFFFFFFFFU, begin, 0);
  if (key == kNoRow) return;
  const auto at = begin + static_cast<Key>(__popc(there & ((1U << lane) - 1U)));
  keys[at] = key;
  slots[at] = static_cast<std::uint64_t>(first_slot + i);
}

bool in_fours(const SlotRows& rows, const float* batch) {
  return rows.dim % 4 == 0 && rows.stride % 4 == 0 && aligned(rows.base, 16) && aligned(batch, 16);
}

unsigned blocks_for(std::int64_t groups) {
  return static_cast<unsigned>(ceil_div(groups * kLanes, kBlock));
}

}  // namespace

Launch clear_map(Place place, const KeyMap& map) {
  const OnDevice here(place);
  const auto slots = static_cast<std::size_t>(map.slots());
  cudaError_t cleared = cudaMemsetAsync(map.keys, 0xFF, slots * sizeof(std::uint64_t), stream_of(place));
  if (cleared == cudaSuccess)
    cleared = cudaMemsetAsync(map.used, 0, slots * sizeof(std::uint32_t), stream_of(place));
  return {"clear_map", static_cast<int>(cleared)};
}

Launch find_rows(Place place, const KeyMap& map, const SlotRows& rows, const std::uint64_t* keys,
                 std::int64_t count, std::uint32_t now, std::uint64_t* slots, float* out) {
  if (count == 0) return {};
  const OnDevice here(place);
  find_kernel<<<blocks_for(ceil_div(count, kAtOnce)), kBlock, 0, stream_of(place)>>>(
      map, rows, in_fours(rows, out), keys, count, now, slots, out);
  return launched("find_rows");
}

Launch insert_or_assign(Place place, const KeyMap& map, const SlotRows& rows, const std::uint64_t* keys,
                        const float* values, std::int64_t count, std::uint32_t now, Full full,
                        std::uint64_t* slots, std::uint8_t* is_new, std::uint64_t* evicted) {
  if (count == 0) return {};
  const OnDevice here(place);
  const cudaStream_t stream = stream_of(place);
  const unsigned blocks = blocks_for(count);
  const Insertion all{map, rows, in_fours(rows, values), keys, values, count, now, slots, is_new, evicted};
  if (full == Full::kRefuse) {
    insert_kernel<Phase::kFindOrTakeFree><<<blocks, kBlock, 0, stream>>>(all);
    return launched("insert_or_assign");
  }
  const unsigned fewer = blocks_for(ceil_div(count, kAtOnce));
  assign_found_kernel<<<fewer, kBlock, 0, stream>>>(all);
  insert_kernel<Phase::kTakeFree><<<blocks, kBlock, 0, stream>>>(all);
  evict_kernel<<<fewer, kBlock, 0, stream>>>(all);
  return launched("insert_or_assign");
}

Launch erase_keys(Place place, const KeyMap& map, const std::uint64_t* keys, std::int64_t count,
                  std::uint64_t* slots) {
  if (count == 0) return {};
  const OnDevice here(place);
  erase_kernel<<<blocks_for(ceil_div(count, kAtOnce)), kBlock, 0, stream_of(place)>>>(map, keys, count,
                                                                                      slots);
  return launched("erase_keys");
}

Launch export_keys(Place place, const KeyMap& map, std::int64_t first, std::int64_t buckets,
                   std::uint64_t* keys, std::uint64_t* slots, std::uint64_t* count) {
  if (buckets == 0) return {};
  const OnDevice here(place);
  const std::int64_t slot_count = buckets * kBucketSlots;
  export_kernel<<<static_cast<unsigned>(ceil_div(slot_count, kBlock)), kBlock, 0, stream_of(place)>>>(
      map, first * kBucketSlots, slot_count, keys, slots, reinterpret_cast<Key*>(count));
  return launched("export_keys");
}

}  // namespace troupe::kernels::gpu
