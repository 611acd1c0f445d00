// Which row a key has: to the GPU's version, or the same on the host, a key after the other.
#include "troupe/kernels/row_index.hpp"

#include <algorithm>
#include <cassert>

#include "gpu_records.hpp"
#include "record_places.hpp"

namespace troupe::kernels {
namespace {

/// Where the key stands, or may be put.
std::int64_t slot_of(const RowIndex& index, std::uint64_t key) {
  if (key == kNoRow) return index.slots;
  std::int64_t slot = home_of(index, key);
  while (index.keys[slot] != key && index.keys[slot] != kNoRow) slot = (slot + 1) & (index.slots - 1);
  return slot;
}

/// Puts it there; whether it is the first.
bool fill(const RowIndex& index, std::int64_t slot, std::uint64_t key) {
  if (slot == index.slots || index.keys[slot] == key) return false;
  index.keys[slot] = key;
  return true;
}

}  // namespace

Launch clear_index(Place place, const RowIndex& index) {
  assert(index.slots >= 2 && (index.slots & (index.slots - 1)) == 0);
  if (place.on_gpu()) return gpu::clear_index(place, index);
  std::fill_n(index.keys, index.slots + 1, kNoRow);
  std::fill_n(index.numbers, index.slots + 1, kNoRow);
  return {};
}

Launch find_numbers(Place place, const RowIndex& index, const std::uint64_t* keys, std::int64_t count,
                    std::uint64_t* numbers) {
  if (place.on_gpu()) return gpu::find_numbers(place, index, keys, count, numbers);
  for (std::int64_t i = 0; i < count; ++i) numbers[i] = index.numbers[slot_of(index, keys[i])];
  return {};
}

Launch insert_numbers(Place place, const RowIndex& index, RowCounts* counts, const std::uint64_t* free_list,
                      bool use_free, const KeyBatch& batch) {
  if (place.on_gpu()) return gpu::insert_numbers(place, index, counts, free_list, use_free, batch);
  for (std::int64_t i = 0; i < batch.count; ++i) {
    const std::int64_t slot = slot_of(index, batch.keys[i]);
    counts->filled += fill(index, slot, batch.keys[i]) ? 1 : 0;
    std::uint64_t& number = index.numbers[slot];
    batch.is_new[i] = number == kNoRow ? 1 : 0;
    if (number == kNoRow) {
      number = use_free && counts->free > 0 ? free_list[--counts->free] : counts->numbered++;
      ++counts->rows;
    }
    batch.numbers[i] = number;
  }
  return {};
}

Launch erase_numbers(Place place, const RowIndex& index, RowCounts* counts, std::uint64_t* free_list,
                     const std::uint64_t* keys, std::int64_t count, std::uint64_t* numbers) {
  if (place.on_gpu()) return gpu::erase_numbers(place, index, counts, free_list, keys, count, numbers);
  for (std::int64_t i = 0; i < count; ++i) {
    std::uint64_t& number = index.numbers[slot_of(index, keys[i])];
    numbers[i] = number;
    if (number == kNoRow) continue;
    free_list[counts->free++] = number;
    --counts->rows;
    number = kNoRow;
  }
  return {};
}

Launch move_index(Place place, const RowIndex& from, const RowIndex& to, RowCounts* counts) {
  if (place.on_gpu()) return gpu::move_index(place, from, to, counts);
  counts->filled = 0;
  for (std::int64_t s = 0; s <= from.slots; ++s) {
    if (from.numbers[s] == kNoRow) continue;
    const std::uint64_t key = s == from.slots ? kNoRow : from.keys[s];
    const std::int64_t slot = slot_of(to, key);
    counts->filled += fill(to, slot, key) ? 1 : 0;
    to.numbers[slot] = from.numbers[s];
  }
  return {};
}

}  // namespace troupe::kernels
