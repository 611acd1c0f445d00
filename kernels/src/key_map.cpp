// Maps from keys to slots: to the GPU's version, or the same on the host, a key after the other.
#include "troupe/kernels/key_map.hpp"

#include <algorithm>
#include <cassert>
#include <cstring>

#include "gpu_kernels.hpp"
#include "map_hash.hpp"

namespace troupe::kernels {
namespace {

std::uint64_t find(const KeyMap& map, std::uint64_t key) {
  if (key == kNoRow) return kNoRow;
  const Homes homes = homes_of(key, map.buckets);
  for (const std::int64_t bucket : {homes.first, homes.second}) {
    for (std::int64_t s = bucket * kBucketSlots; s < (bucket + 1) * kBucketSlots; ++s)
      if (map.keys[s] == key) return static_cast<std::uint64_t>(s);
  }
  return kNoRow;
}

/// A free slot of a key's, or with kEvict the one to take; kNoRow: none.
std::uint64_t slot_for(const KeyMap& map, std::uint64_t key, std::uint32_t now, Full full) {
  const Homes homes = homes_of(key, map.buckets);
  const auto free_in = [&map](std::int64_t bucket) {
    const std::uint64_t* const begin = map.keys + bucket * kBucketSlots;
    return static_cast<int>(std::count(begin, begin + kBucketSlots, kNoRow));
  };
  const bool first = prefers_first(free_in(homes.first), free_in(homes.second));
  for (const std::int64_t bucket : {first ? homes.first : homes.second, first ? homes.second : homes.first}) {
    for (std::int64_t s = bucket * kBucketSlots; s < (bucket + 1) * kBucketSlots; ++s)
      if (map.keys[s] == kNoRow) return static_cast<std::uint64_t>(s);
  }
  if (full == Full::kRefuse) return kNoRow;
  std::uint64_t oldest = kNoRow;
  for (const std::int64_t bucket : {homes.first, homes.second}) {
    for (std::int64_t s = bucket * kBucketSlots; s < (bucket + 1) * kBucketSlots; ++s) {
      const bool older = oldest == kNoRow || map.used[s] < map.used[oldest];
      if (map.used[s] != now && older) oldest = static_cast<std::uint64_t>(s);
    }
  }
  return oldest;
}

const float* row_of(const SlotRows& rows, std::uint64_t slot) {
  return rows.base + static_cast<std::int64_t>(slot) * rows.stride;
}

}  // namespace

Launch clear_map(Place place, const KeyMap& map) {
  assert(map.buckets >= 2 && (map.buckets & (map.buckets - 1)) == 0);
  if (place.on_gpu()) return gpu::clear_map(place, map);
  std::fill_n(map.keys, map.slots(), kNoRow);
  std::fill_n(map.used, map.slots(), 0U);
  return {};
}

Launch find_keys(Place place, const KeyMap& map, const std::uint64_t* keys, std::int64_t count,
                 std::uint32_t now, std::uint64_t* slots) {
  return find_rows(place, map, {}, keys, count, now, slots, nullptr);
}

Launch find_rows(Place place, const KeyMap& map, const SlotRows& rows, const std::uint64_t* keys,
                 std::int64_t count, std::uint32_t now, std::uint64_t* slots, float* out) {
  if (place.on_gpu()) return gpu::find_rows(place, map, rows, keys, count, now, slots, out);
  for (std::int64_t i = 0; i < count; ++i) {
    slots[i] = find(map, keys[i]);
    if (slots[i] != kNoRow && now != 0) map.used[slots[i]] = now;
    if (slots[i] != kNoRow)
      std::copy_n(row_of(rows, slots[i]), rows.dim, out + i * rows.dim);
    else
      std::fill_n(out + i * rows.dim, rows.dim, 0.0F);
  }
  return {};
}

Launch find_or_insert(Place place, const KeyMap& map, const std::uint64_t* keys, std::int64_t count,
                      std::uint32_t now, Full full, std::uint64_t* slots, std::uint8_t* is_new,
                      std::uint64_t* evicted) {
  return insert_or_assign(place, map, {}, keys, nullptr, count, now, full, slots, is_new, evicted);
}

Launch insert_or_assign(Place place, const KeyMap& map, const SlotRows& rows, const std::uint64_t* keys,
                        const float* values, std::int64_t count, std::uint32_t now, Full full,
                        std::uint64_t* slots, std::uint8_t* is_new, std::uint64_t* evicted) {
  if (place.on_gpu())
    return gpu::insert_or_assign(place, map, rows, keys, values, count, now, full, slots, is_new, evicted);
  assert(full == Full::kRefuse || (now != 0 && evicted));
  // All that are there are found before one is evicted.
  for (std::int64_t i = 0; i < count; ++i) {
    slots[i] = find(map, keys[i]);
    if (slots[i] != kNoRow && now != 0) map.used[slots[i]] = now;
  }
  for (std::int64_t i = 0; i < count; ++i) {
    is_new[i] = 0;
    if (evicted) evicted[i] = kNoRow;
    if (slots[i] == kNoRow && keys[i] != kNoRow) {
      slots[i] = slot_for(map, keys[i], now, full);
      if (slots[i] != kNoRow) {
        is_new[i] = 1;
        if (evicted) evicted[i] = map.keys[slots[i]];
        map.keys[slots[i]] = keys[i];
      }
    }
    if (slots[i] == kNoRow) continue;
    if (now != 0) map.used[slots[i]] = now;
    if (values) std::copy_n(values + i * rows.dim, rows.dim, const_cast<float*>(row_of(rows, slots[i])));
  }
  return {};
}

Launch erase_keys(Place place, const KeyMap& map, const std::uint64_t* keys, std::int64_t count,
                  std::uint64_t* slots) {
  if (place.on_gpu()) return gpu::erase_keys(place, map, keys, count, slots);
  for (std::int64_t i = 0; i < count; ++i) {
    slots[i] = find(map, keys[i]);
    if (slots[i] != kNoRow) map.keys[slots[i]] = kNoRow;
  }
  return {};
}

Launch export_keys(Place place, const KeyMap& map, std::int64_t first, std::int64_t buckets,
                   std::uint64_t* keys, std::uint64_t* slots, std::uint64_t* count) {
  assert(first >= 0 && buckets >= 0 && first + buckets <= map.buckets);
  if (place.on_gpu()) return gpu::export_keys(place, map, first, buckets, keys, slots, count);
  for (std::int64_t s = first * kBucketSlots; s < (first + buckets) * kBucketSlots; ++s) {
    if (map.keys[s] == kNoRow) continue;
    keys[*count] = map.keys[s];
    slots[(*count)++] = static_cast<std::uint64_t>(s);
  }
  return {};
}

}  // namespace troupe::kernels
