#include "troupe/kernels/hash_index.hpp"

#include <sys/mman.h>

#include <algorithm>
#include <bit>
#include <cassert>
#include <cstdlib>
#include <memory>
#include <new>
#include <utility>
#include <vector>

#include "mix.hpp"

namespace troupe::kernels {
namespace {

// So many keys before a key is looked up its place is worked out and asked for: enough for memory never to be
// waited for, and few enough for the processor to keep track of. Measured: 8 and 32 are slower.
constexpr std::size_t kAhead = 16;
constexpr std::size_t kBlock = 32;  // of entries that are moved
constexpr std::size_t kLeastCapacity = 16;
constexpr std::size_t kCacheLine_bytes = 64;
constexpr std::size_t kHugePage_bytes = std::size_t{2} << 20U;

constexpr std::size_t kSegments = 64;
constexpr unsigned kSegmentShift = 58;  // the top bits of a mixed key choose
// Each part then fills a huge page: smaller ones would lose more to the TLB than they gain.
constexpr std::size_t kSplitCapacity = std::size_t{1} << 23U;

// The most keys that a table holds: 5/8 of its places while it is the only one, then from 1/2 on, rising.
std::int64_t limit_of(std::size_t capacity, std::size_t number, std::size_t count) {
  if (count == 1) return static_cast<std::int64_t>(capacity / 8 * 5);
  return static_cast<std::int64_t>(capacity / 512 * (256 + number));
}

std::size_t capacity_for(std::int64_t size) {
  assert(size >= 0);
  const std::size_t capacity = std::bit_ceil(std::max(static_cast<std::size_t>(size), kLeastCapacity));
  return limit_of(capacity, 0, 1) >= size ? capacity : 2 * capacity;
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

HashIndex::HashIndex(std::int64_t expected_size, std::uint64_t seed) : offset_(mix_bits(seed)) {
  segments_.push_back(make_segment(kLeastCapacity, 0, 1));
  reserve(expected_size);
}

HashIndex::Segment HashIndex::make_segment(std::size_t capacity, std::size_t number,
                                           std::size_t count) const {
  return {.entries = make_entries(capacity),
          .mask = capacity - 1,
          .size = 0,
          .limit = limit_of(capacity, number, count),
          .factor = mix_bits(offset_ + capacity) | 1U};
}

std::int64_t HashIndex::capacity() const {
  std::size_t places = 0;
  for (const Segment& segment : segments_) places += segment.mask + 1;
  return static_cast<std::int64_t>(places);
}

std::uint64_t HashIndex::mixed(std::uint64_t key) const {
  return mix_bits(key + offset_);
}

// Another capacity has another factor, which puts the keys into another order.
std::size_t HashIndex::home_in(const Segment& segment, std::uint64_t mixed) {
  constexpr unsigned kLowest = 20;  // bits of the product that depend on many of the mixed key's
  return ((mixed * segment.factor) >> kLowest) & segment.mask;
}

HashIndex::Home HashIndex::home(std::uint64_t key) const {
  const std::uint64_t mix = mixed(key);
  const auto number = static_cast<std::uint32_t>(mix >> kSegmentShift & (segments_.size() - 1));
  return {number, home_in(segments_[number], mix)};
}

// The place of `key`, or the empty one where it would go. `key` is not kEmpty.
std::size_t HashIndex::probe(const Segment& segment, std::uint64_t key, std::size_t slot) {
  const Entry* entries = segment.entries.get();
  while (entries[slot].key != key && entries[slot].key != kEmpty) slot = (slot + 1) & segment.mask;
  return slot;
}

std::optional<std::uint64_t> HashIndex::find(std::uint64_t key) const {
  if (key == kEmpty) return side_used_ ? std::optional(side_value_) : std::nullopt;
  const Home at = home(key);
  const Segment& segment = segments_[at.segment];
  const Entry& entry = segment.entries[probe(segment, key, at.slot)];
  return entry.key == key ? std::optional(entry.value) : std::nullopt;
}

std::int64_t HashIndex::find_batch(std::span<const std::uint64_t> keys, std::span<std::uint64_t> values,
                                   std::uint64_t missing) const {
  assert(values.size() == keys.size());
  struct Place {
    const Entry* entry;
    const Segment* segment;
  };
  Place ahead[kAhead];
  const Segment* segments = segments_.data();
  const std::uint64_t number_mask = segments_.size() - 1;
  const std::uint64_t offset = offset_;
  const std::size_t count = keys.size();
  const auto prefetch = [&](std::size_t i) {
    const std::uint64_t mix = mix_bits(keys[i] + offset);
    const Segment* segment = segments + (mix >> kSegmentShift & number_mask);
    const Entry* entry = segment->entries.get() + home_in(*segment, mix);
    __builtin_prefetch(entry);
    ahead[i % kAhead] = {entry, segment};
  };
  for (std::size_t i = 0; i < std::min(kAhead, count); ++i) prefetch(i);
  std::int64_t found = 0;
  for (std::size_t i = 0; i < count; ++i) {
    const std::uint64_t key = keys[i];
    const auto [home, segment] = ahead[i % kAhead];
    if (i + kAhead < count) prefetch(i + kAhead);
    const Entry* entry = home;
    if (entry->key != key && entry->key != kEmpty) [[unlikely]] {
      const Entry* entries = segment->entries.get();
      entry = entries + probe(*segment, key, static_cast<std::size_t>(entry - entries));
    }
    bool there = entry->key == key;
    std::uint64_t value = entry->value;
    if (key == kEmpty) [[unlikely]] {
      there = side_used_;
      value = side_value_;
    }
    values[i] = there ? value : missing;
    found += there ? 1 : 0;
  }
  return found;
}

HashIndex::Found HashIndex::side_insert(std::uint64_t value) {
  if (side_used_) return {side_value_, false};
  side_used_ = true;
  side_value_ = value;
  return {value, true};
}

// `at` is home(key). Only a key that is not there makes the table grow.
HashIndex::Found HashIndex::insert_at(std::uint64_t key, std::uint64_t value, Home at) {
  if (key == kEmpty) return side_insert(value);
  Segment* segment = &segments_[at.segment];
  std::size_t slot = probe(*segment, key, at.slot);
  if (segment->entries[slot].key == key) return {segment->entries[slot].value, false};
  if (segment->size >= segment->limit) {
    grow(at.segment, 2 * (segment->mask + 1));
    at = home(key);
    segment = &segments_[at.segment];
    slot = probe(*segment, key, at.slot);
  }
  segment->entries[slot] = Entry{key, value};
  ++segment->size;
  ++size_;
  return {value, true};
}

HashIndex::Found HashIndex::find_or_insert(std::uint64_t key, std::uint64_t value) {
  return insert_at(key, value, home(key));
}

std::int64_t HashIndex::find_or_insert_batch(std::span<const std::uint64_t> keys,
                                             std::uint64_t first_new_value, std::span<std::uint64_t> values) {
  assert(values.size() == keys.size());
  const std::size_t count = keys.size();
  Home ahead[kAhead];
  const auto prefetch = [&](std::size_t i) {
    const Home at = home(keys[i]);
    __builtin_prefetch(&segments_[at.segment].entries[at.slot], 1);
    ahead[i % kAhead] = at;
  };
  std::int64_t inserted = 0;
  std::size_t fresh = 0;  // before it homes were worked out that growth has moved since
  for (std::size_t i = 0; i < std::min(kAhead, count); ++i) prefetch(i);
  for (std::size_t i = 0; i < count; ++i) {
    const Home at = i < fresh ? home(keys[i]) : ahead[i % kAhead];
    if (i + kAhead < count) prefetch(i + kAhead);
    const std::uint64_t growths = growths_;
    const Found found = insert_at(keys[i], first_new_value + static_cast<std::uint64_t>(inserted), at);
    if (growths_ != growths) [[unlikely]]
      fresh = std::min(i + kAhead, count - 1) + 1;
    values[i] = found.value;
    inserted += found.inserted ? 1 : 0;
  }
  return inserted;
}

void HashIndex::assign(std::uint64_t key, std::uint64_t value) {
  if (insert_at(key, value, home(key)).inserted) return;
  if (key == kEmpty) {
    side_value_ = value;
    return;
  }
  const Home at = home(key);
  Segment& segment = segments_[at.segment];
  segment.entries[probe(segment, key, at.slot)].value = value;
}

bool HashIndex::erase(std::uint64_t key) {
  if (key == kEmpty) {
    const bool there = side_used_;
    side_used_ = false;
    return there;
  }
  const Home at = home(key);
  Segment& segment = segments_[at.segment];
  Entry* entries = segment.entries.get();
  std::size_t hole = probe(segment, key, at.slot);
  if (entries[hole].key != key) return false;
  // Backward shift (Knuth, vol. 3, section 6.4, algorithm R): an entry moves into the hole unless its home
  // lies behind the hole, where a look-up would no longer meet it.
  for (std::size_t slot = (hole + 1) & segment.mask; entries[slot].key != kEmpty;
       slot = (slot + 1) & segment.mask) {
    const std::size_t distance_home = (slot - home_in(segment, mixed(entries[slot].key))) & segment.mask;
    if (distance_home >= ((slot - hole) & segment.mask)) {
      entries[hole] = entries[slot];
      hole = slot;
    }
  }
  entries[hole].key = kEmpty;
  --segment.size;
  --size_;
  return true;
}

void HashIndex::clear() {
  for (Segment& segment : segments_) {
    std::fill_n(segment.entries.get(), segment.mask + 1, Entry{kEmpty, 0});
    segment.size = 0;
  }
  size_ = 0;
  side_used_ = false;
}

void HashIndex::reserve(std::int64_t size) {
  const std::size_t capacity = capacity_for(size);
  if (segments_.size() == 1 && capacity > segments_[0].mask + 1) grow(0, capacity);
  if (segments_.size() == 1) return;
  for (std::size_t number = 0; number < kSegments; ++number)
    if (capacity / kSegments > segments_[number].mask + 1) grow(number, capacity / kSegments);
}

void HashIndex::prepare(std::span<const std::uint64_t> keys) {
  if (segments_.size() == 1) reserve(segments_[0].size + static_cast<std::int64_t>(keys.size()));
  if (segments_.size() == 1) return;
  std::int64_t more[kSegments] = {};
  for (const std::uint64_t key : keys) ++more[mixed(key) >> kSegmentShift];
  for (std::size_t number = 0; number < kSegments; ++number) {
    const Segment& segment = segments_[number];
    std::size_t capacity = segment.mask + 1;
    while (limit_of(capacity, number, kSegments) < segment.size + more[number]) capacity *= 2;
    if (capacity > segment.mask + 1) grow(number, capacity);
  }
}

// Everything new is had before anything is changed.
void HashIndex::grow(std::size_t number, std::size_t capacity) {
  ++growths_;
  const std::size_t count = segments_.size();
  const bool splits = count == 1 && capacity >= kSplitCapacity;
  const std::size_t first = splits ? 0 : number;
  const std::size_t last = splits ? kSegments : number + 1;
  std::vector<Segment> grown;
  grown.reserve(last - first);
  for (std::size_t i = first; i < last; ++i)
    grown.push_back(splits ? make_segment(capacity / kSegments, i, kSegments)
                           : make_segment(capacity, i, count));
  // A part of few keys may have more than its limit for the moment: it is emptier than full all the same.
  move_into(grown, segments_[number]);
  if (splits) {
    segments_ = std::move(grown);
  } else {
    segments_[number] = std::move(grown[0]);
  }
}

void HashIndex::move_into(std::vector<Segment>& to, const Segment& from) const {
  for (std::size_t begin = 0; begin <= from.mask; begin += kBlock) {
    const std::size_t size = std::min(kBlock, from.mask + 1 - begin);
    Home homes[kBlock];
    for (std::size_t i = 0; i < size; ++i) {
      const std::uint64_t mix = mixed(from.entries[begin + i].key);
      const auto number = static_cast<std::uint32_t>(mix >> kSegmentShift & (to.size() - 1));
      homes[i] = {number, home_in(to[number], mix)};
      __builtin_prefetch(&to[number].entries[homes[i].slot], 1);
    }
    for (std::size_t i = 0; i < size; ++i) {
      const Entry& entry = from.entries[begin + i];
      if (entry.key == kEmpty) continue;
      Segment& segment = to[homes[i].segment];
      segment.entries[probe(segment, entry.key, homes[i].slot)] = entry;
      ++segment.size;
    }
  }
}

std::int64_t HashIndex::longest_probe() const {
  std::size_t longest = 0;
  for (const Segment& segment : segments_) {
    for (std::size_t slot = 0; slot <= segment.mask; ++slot) {
      if (segment.entries[slot].key == kEmpty) continue;
      const std::size_t at = home_in(segment, mixed(segment.entries[slot].key));
      longest = std::max(longest, ((slot - at) & segment.mask) + 1);
    }
  }
  return static_cast<std::int64_t>(longest);
}

}  // namespace troupe::kernels
