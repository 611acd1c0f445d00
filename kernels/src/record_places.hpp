#pragma once

#include <cstdint>

#include "mix.hpp"
#include "troupe/kernels/record_slabs.hpp"

#ifdef __CUDACC__
#define TROUPE_RECORD_BOTH __host__ __device__ __forceinline__
#else
#define TROUPE_RECORD_BOTH inline
#endif

/// Where things lie, for the host and for GPUs.
namespace troupe::kernels {

/// A number that is none yet: that of the first key of the batch that wants it.
constexpr std::uint64_t kPending = std::uint64_t{1} << 63U;

/// Where the search for a key begins.
TROUPE_RECORD_BOTH std::int64_t home_of(const RowIndex& index, std::uint64_t key) {
  return static_cast<std::int64_t>(mix_bits(key ^ index.seed) & static_cast<std::uint64_t>(index.slots - 1));
}

/// The number of a key's row, or kNoRow. Without slots the key is that itself.
TROUPE_RECORD_BOTH std::uint64_t number_of(const RowIndex& index, std::uint64_t key) {
  if (index.slots == 0) return key;
  if (key == kNoRow) return index.numbers[index.slots];
  for (std::int64_t slot = home_of(index, key);; slot = (slot + 1) & (index.slots - 1)) {
    const std::uint64_t there = index.keys[slot];
    if (there == key) return index.numbers[slot];
    if (there == kNoRow) return kNoRow;
  }
}

/// The table of all records begins at this address, and its rows are so many bytes apart.
constexpr std::int64_t kRecordUnit = 16;

TROUPE_RECORD_BOTH std::byte* slab_of(std::byte* const* slabs, unsigned shift, std::uint64_t number) {
  return slabs[number >> shift];
}
TROUPE_RECORD_BOTH std::int64_t in_slab(unsigned shift, std::uint64_t number) {
  return static_cast<std::int64_t>(number & ((std::uint64_t{1} << shift) - 1));
}
TROUPE_RECORD_BOTH std::byte* record_at(const RecordSlabs& rows, std::uint64_t number) {
  return slab_of(rows.slabs, rows.shift, number) + in_slab(rows.shift, number) * rows.stride;
}
TROUPE_RECORD_BOTH std::byte* record_at(const KeptSlabs& rows, std::uint64_t number) {
  return slab_of(rows.slabs, rows.shift, number) + in_slab(rows.shift, number) * rows.stride;
}
TROUPE_RECORD_BOTH std::uint64_t& key_at(const RecordSlabs& rows, std::uint64_t number) {
  return reinterpret_cast<std::uint64_t*>(slab_of(rows.slabs, rows.shift, number) +
                                          rows.keys_at)[in_slab(rows.shift, number)];
}
TROUPE_RECORD_BOTH std::uint64_t& kept_at(const RecordSlabs& rows, std::uint64_t number) {
  return reinterpret_cast<std::uint64_t*>(slab_of(rows.slabs, rows.shift, number) +
                                          rows.kept_at)[in_slab(rows.shift, number)];
}
TROUPE_RECORD_BOTH std::uint8_t& mark_at(const RecordSlabs& rows, std::uint64_t number) {
  return reinterpret_cast<std::uint8_t*>(slab_of(rows.slabs, rows.shift, number) +
                                         rows.marks_at)[in_slab(rows.shift, number)];
}
TROUPE_RECORD_BOTH std::uint64_t unit_of(const std::byte* record) {
  return (reinterpret_cast<std::uintptr_t>(record) - kRecordUnit) / kRecordUnit;
}

}  // namespace troupe::kernels
