#pragma once

#include <cstdint>

#include <troupe/kernels/place.hpp>
#include <troupe/kernels/row_table.hpp>

/// A map from keys of 64 bits to slots, on the host or on a GPU, where a slot is a number of a row: keys and
/// rows lie in arrays of the caller's, and a key's slot is where it stands. A key stands in one of two
/// buckets of 16 slots that follow from it, so that looking costs one read of 128 bytes, seldom two, whatever
/// the load; and a key for which both are full has no room, from a load of eight tenths on sometimes, or
/// takes the place of the one of them that was used longest ago. No function waits for the host or allocates.
///
/// Functions on one map go one after the other, in one stream. kNoRow is no key.
namespace troupe::kernels {

inline constexpr std::int64_t kBucketSlots = 16;

/// The arrays of a map: of 128-byte aligned memory.
struct KeyMap {
  std::uint64_t* keys = nullptr;  ///< [buckets * kBucketSlots]; kNoRow where a slot is free
  std::uint32_t* used = nullptr;  ///< likewise: when a slot was used, in the caller's count
  std::int64_t buckets = 0;       ///< a power of two, at least 2
  std::int64_t slots() const { return buckets * kBucketSlots; }
};

/// Rows of float32 that lie by slot: row s begins at base + s * stride.
struct SlotRows {
  float* base = nullptr;
  std::int64_t stride = 0;
  std::int64_t dim = 0;
};

enum class Full : std::uint8_t {
  kRefuse,  ///< there is no slot for it: kNoRow
  kEvict,   ///< it takes the slot of the key used longest ago, unless all were used at this `now`, not 0 here
};

/// Forgets all keys.
Launch clear_map(Place place, const KeyMap& map);

/// slots[i] = that of keys[i], kNoRow if it is not there. `now` goes to `used`, unless it is 0.
Launch find_keys(Place place, const KeyMap& map, const std::uint64_t* keys, std::int64_t count,
                 std::uint32_t now, std::uint64_t* slots);

/// The same, and out[i, :] = its row, zeros if it is not there; out[count, rows.dim].
Launch find_rows(Place place, const KeyMap& map, const SlotRows& rows, const std::uint64_t* keys,
                 std::int64_t count, std::uint32_t now, std::uint64_t* slots, float* out);

/// The same for keys that get a slot if they have none; no key may come twice. is_new[i] = 1 for such, else
/// 0. What stood in a slot taken from another key goes to evicted[i], which is kNoRow for the others; null
/// with kRefuse. The row of a new key is what lay there before.
Launch find_or_insert(Place place, const KeyMap& map, const std::uint64_t* keys, std::int64_t count,
                      std::uint32_t now, Full full, std::uint64_t* slots, std::uint8_t* is_new,
                      std::uint64_t* evicted);

/// find_or_insert(), and each key's row = values[i, :] where it has a slot; values[count, rows.dim].
Launch insert_or_assign(Place place, const KeyMap& map, const SlotRows& rows, const std::uint64_t* keys,
                        const float* values, std::int64_t count, std::uint32_t now, Full full,
                        std::uint64_t* slots, std::uint8_t* is_new, std::uint64_t* evicted);

/// Forgets these keys; slots[i] = the slot that is free now, kNoRow if there was none. No key may come twice.
Launch erase_keys(Place place, const KeyMap& map, const std::uint64_t* keys, std::int64_t count,
                  std::uint64_t* slots);

/// Appends the keys of the buckets [first, first + buckets) and their slots, in any order, from *count on,
/// which grows; keys and slots have room for all of them.
Launch export_keys(Place place, const KeyMap& map, std::int64_t first, std::int64_t buckets,
                   std::uint64_t* keys, std::uint64_t* slots, std::uint64_t* count);

}  // namespace troupe::kernels
