#include "troupe/kernels/hash_index.hpp"

#include <sys/mman.h>

#include <algorithm>
#include <bit>
#include <cassert>
#include <cstdlib>
#include <memory>
#include <new>
#include <utility>

#include "mix.hpp"

namespace troupe::kernels {
namespace {

// Keys whose places are worked out and prefetched before the first of them is looked up.
constexpr std::size_t kBlock = 32;
constexpr std::size_t kLeastCapacity = 16;
constexpr std::size_t kCacheLine_bytes = 64;
constexpr std::size_t kHugePage_bytes = std::size_t{2} << 20U;

// The most keys that a table of this capacity holds: 5/8 of it.
std::int64_t limit_of(std::size_t capacity) {
  return static_cast<std::int64_t>(capacity / 8 * 5);
}

std::size_t capacity_for(std::int64_t size) {
  assert(size >= 0);
  const std::size_t capacity = std::bit_ceil(std::max(static_cast<std::size_t>(size), kLeastCapacity));
  return limit_of(capacity) >= size ? capacity : 2 * capacity;
}

}  // namespace

void HashIndex::Release::operator()(Entry* entries) const {
  std::free(entries);
}

HashIndex::Entries HashIndex::make_entries(std::size_t capacity) {
  const std::size_t bytes = capacity * sizeof(Entry);
  // A look-up in a large table misses the TLB too, unless its pages are huge.
  const std::size_t alignment = bytes >= kHugePage_bytes ? kHugePage_bytes : kCacheLine_bytes;
  void* memory = std::aligned_alloc(alignment, bytes);
  if (memory == nullptr) throw std::bad_alloc();
  if (alignment == kHugePage_bytes) madvise(memory, bytes, MADV_HUGEPAGE);  // a wish; refusal is fine
  auto* entries = static_cast<Entry*>(memory);
  std::uninitialized_fill_n(entries, capacity, Entry{kEmpty, 0});
  return Entries(entries);
}

HashIndex::HashIndex(std::int64_t expected_size, std::uint64_t seed) : seed_(seed) {
  rehash(capacity_for(expected_size));
}

std::size_t HashIndex::home(std::uint64_t key) const {
  return mix_bits(key + offset_) & mask_;
}

// The place of `key`, or the empty one where it would go. `key` is not kEmpty.
std::size_t HashIndex::probe(std::uint64_t key, std::size_t slot) const {
  while (entries_[slot].key != key && entries_[slot].key != kEmpty) slot = (slot + 1) & mask_;
  return slot;
}

std::optional<std::uint64_t> HashIndex::find(std::uint64_t key) const {
  if (key == kEmpty) return side_used_ ? std::optional(side_value_) : std::nullopt;
  const Entry& entry = entries_[probe(key, home(key))];
  return entry.key == key ? std::optional(entry.value) : std::nullopt;
}

std::int64_t HashIndex::find_batch(std::span<const std::uint64_t> keys, std::span<std::uint64_t> values,
                                   std::uint64_t missing) const {
  assert(values.size() == keys.size());
  std::int64_t found = 0;
  for (std::size_t begin = 0; begin < keys.size(); begin += kBlock) {
    const std::size_t size = std::min(kBlock, keys.size() - begin);
    std::size_t homes[kBlock];
    for (std::size_t i = 0; i < size; ++i) {
      homes[i] = home(keys[begin + i]);
      __builtin_prefetch(&entries_[homes[i]]);
    }
    for (std::size_t i = 0; i < size; ++i) {
      const std::uint64_t key = keys[begin + i];
      const Entry& entry = entries_[probe(key, homes[i])];
      const bool there = key == kEmpty ? side_used_ : entry.key == key;
      const std::uint64_t value = key == kEmpty ? side_value_ : entry.value;
      values[begin + i] = there ? value : missing;
      found += there ? 1 : 0;
    }
  }
  return found;
}

HashIndex::Found HashIndex::side_insert(std::uint64_t value) {
  if (side_used_) return {side_value_, false};
  side_used_ = true;
  side_value_ = value;
  return {value, true};
}

// `home_slot` is home(key). Only a key that is not there makes the table grow.
HashIndex::Found HashIndex::insert_at(std::uint64_t key, std::uint64_t value, std::size_t home_slot) {
  if (key == kEmpty) return side_insert(value);
  std::size_t slot = probe(key, home_slot);
  if (entries_[slot].key == key) return {entries_[slot].value, false};
  if (size_ == limit_of(mask_ + 1)) {
    rehash(2 * (mask_ + 1));
    slot = probe(key, home(key));
  }
  entries_[slot] = Entry{key, value};
  ++size_;
  return {value, true};
}

HashIndex::Found HashIndex::find_or_insert(std::uint64_t key, std::uint64_t value) {
  return insert_at(key, value, home(key));
}

std::int64_t HashIndex::find_or_insert_batch(std::span<const std::uint64_t> keys,
                                             std::uint64_t first_new_value, std::span<std::uint64_t> values) {
  assert(values.size() == keys.size());
  std::int64_t inserted = 0;
  for (std::size_t begin = 0; begin < keys.size(); begin += kBlock) {
    const std::size_t size = std::min(kBlock, keys.size() - begin);
    const std::size_t mask = mask_;
    std::size_t homes[kBlock];
    for (std::size_t i = 0; i < size; ++i) {
      homes[i] = home(keys[begin + i]);
      __builtin_prefetch(&entries_[homes[i]], 1);
    }
    for (std::size_t i = 0; i < size; ++i) {
      const std::uint64_t key = keys[begin + i];
      const std::size_t slot = mask_ == mask ? homes[i] : home(key);  // growth moved the homes
      const Found found = insert_at(key, first_new_value + static_cast<std::uint64_t>(inserted), slot);
      values[begin + i] = found.value;
      inserted += found.inserted ? 1 : 0;
    }
  }
  return inserted;
}

void HashIndex::assign(std::uint64_t key, std::uint64_t value) {
  if (insert_at(key, value, home(key)).inserted) return;
  if (key == kEmpty) {
    side_value_ = value;
  } else {
    entries_[probe(key, home(key))].value = value;
  }
}

bool HashIndex::erase(std::uint64_t key) {
  if (key == kEmpty) {
    const bool there = side_used_;
    side_used_ = false;
    return there;
  }
  std::size_t hole = probe(key, home(key));
  if (entries_[hole].key != key) return false;
  // Backward shift (Knuth, vol. 3, section 6.4, algorithm R): an entry moves into the hole unless its home
  // lies behind the hole, where a look-up would no longer meet it.
  for (std::size_t slot = (hole + 1) & mask_; entries_[slot].key != kEmpty; slot = (slot + 1) & mask_) {
    const std::size_t distance_home = (slot - home(entries_[slot].key)) & mask_;
    if (distance_home >= ((slot - hole) & mask_)) {
      entries_[hole] = entries_[slot];
      hole = slot;
    }
  }
  entries_[hole].key = kEmpty;
  --size_;
  return true;
}

void HashIndex::clear() {
  std::fill_n(entries_.get(), mask_ + 1, Entry{kEmpty, 0});
  size_ = 0;
  side_used_ = false;
}

void HashIndex::reserve(std::int64_t size) {
  const std::size_t capacity = capacity_for(size);
  if (capacity > mask_ + 1) rehash(capacity);
}

void HashIndex::rehash(std::size_t capacity) {
  Entries old = std::exchange(entries_, make_entries(capacity));
  const std::size_t old_capacity = old == nullptr ? 0 : mask_ + 1;
  mask_ = capacity - 1;
  offset_ = mix_bits(seed_ + capacity);
  for (std::size_t begin = 0; begin < old_capacity; begin += kBlock) {
    const std::size_t size = std::min(kBlock, old_capacity - begin);
    std::size_t homes[kBlock];
    for (std::size_t i = 0; i < size; ++i) {
      homes[i] = home(old[begin + i].key);
      __builtin_prefetch(&entries_[homes[i]], 1);
    }
    for (std::size_t i = 0; i < size; ++i) {
      const Entry& entry = old[begin + i];
      if (entry.key != kEmpty) entries_[probe(entry.key, homes[i])] = entry;
    }
  }
}

std::int64_t HashIndex::longest_probe() const {
  std::size_t longest = 0;
  for (std::size_t slot = 0; slot <= mask_; ++slot) {
    if (entries_[slot].key == kEmpty) continue;
    longest = std::max(longest, ((slot - home(entries_[slot].key)) & mask_) + 1);
  }
  return static_cast<std::int64_t>(longest);
}

}  // namespace troupe::kernels
