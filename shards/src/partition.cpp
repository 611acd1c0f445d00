#include <troupe/shards/partition.hpp>

#include <algorithm>
#include <bit>
#include <cassert>
#include <cstring>
#include <numeric>
#include <string>
#include <utility>

#include "hashing.hpp"
#include "row_errors.hpp"

namespace troupe::shards {
namespace {

unsigned bits_of(std::uint32_t slots) {
  return static_cast<unsigned>(std::countr_zero(slots));
}

}  // namespace

// kMaxRows * kMaxSlots is below 2^64, so the products do not overflow.
std::uint32_t slot_of(const TableSpec& spec, std::uint64_t key) {
  if (spec.kind == TableKind::kEmbedding) return hash_slot(key, bits_of(spec.slots));
  return static_cast<std::uint32_t>((key << bits_of(spec.slots)) / spec.rows);
}

RowRange rows_of_slot(const TableSpec& spec, std::uint32_t slot) {
  // Row r lies in slot s if s <= r * slots / rows < s + 1, so the first is ceil(s * rows / slots).
  const auto first = [&](std::uint64_t s) { return (s * spec.rows + spec.slots - 1) >> bits_of(spec.slots); };
  return {first(slot), first(std::uint64_t{slot} + 1)};
}

SlotSet SlotSet::none(std::uint32_t slots) {
  SlotSet set;
  set.slots_ = slots;
  set.words_.assign((std::size_t{slots} + 63) / 64, 0);
  return set;
}

SlotSet SlotSet::all(std::uint32_t slots) {
  SlotSet set = none(slots);
  for (std::uint32_t slot = 0; slot < slots; ++slot) set.insert(slot);
  return set;
}

void SlotSet::insert(std::uint32_t slot) {
  assert(slot < slots_);
  words_[slot / 64] |= std::uint64_t{1} << (slot % 64);
}

void SlotSet::erase(std::uint32_t slot) {
  assert(slot < slots_);
  words_[slot / 64] &= ~(std::uint64_t{1} << (slot % 64));
}

std::uint32_t SlotSet::count() const {
  std::uint32_t total = 0;
  for (const std::uint64_t word : words_) total += static_cast<std::uint32_t>(std::popcount(word));
  return total;
}

std::vector<RowRange> rows_of_slots(const TableSpec& spec, const SlotSet& slots) {
  std::vector<RowRange> rows;
  for (std::uint32_t slot = 0; slot < spec.slots; ++slot) {
    const RowRange range = rows_of_slot(spec, slot);
    if (!slots.contains(slot) || range.begin == range.end) continue;
    if (!rows.empty() && rows.back().end == range.begin) {
      rows.back().end = range.end;
    } else {
      rows.push_back(range);
    }
  }
  return rows;
}

SlotMap SlotMap::balanced(std::uint32_t slots, std::uint32_t shards) {
  assert(shards > 0 && std::has_single_bit(slots));
  SlotMap map;
  map.shards_ = shards;
  map.owners_.resize(slots);
  const std::uint32_t parts = shards <= kSlotGroups && slots > kSlotGroups ? kSlotGroups : slots;
  const std::uint32_t each = slots / parts;
  for (std::uint32_t slot = 0; slot < slots; ++slot) {
    map.owners_[slot] = static_cast<std::uint32_t>(std::uint64_t{slot / each} * shards / parts);
  }
  return map;
}

Result<SlotMap> SlotMap::from_owners(std::vector<std::uint32_t> owners, std::uint32_t shards) {
  if (!std::has_single_bit(owners.size()) || owners.size() > TableSpec::kMaxSlots) {
    return Error{Code::kInvalidArgument, "a slot map needs a power of two of slots up to " +
                                             std::to_string(TableSpec::kMaxSlots) + ", got " +
                                             std::to_string(owners.size())};
  }
  for (std::size_t slot = 0; slot < owners.size(); ++slot) {
    if (owners[slot] < shards) continue;
    return Error{Code::kInvalidArgument, "slot " + std::to_string(slot) + " is given to shard " +
                                             std::to_string(owners[slot]) + ", but there are " +
                                             std::to_string(shards)};
  }
  SlotMap map;
  map.shards_ = shards;
  map.owners_ = std::move(owners);
  return map;
}

SlotSet SlotMap::slots_of(std::uint32_t shard) const {
  SlotSet set = SlotSet::none(slots());
  for (std::uint32_t slot = 0; slot < slots(); ++slot) {
    if (owners_[slot] == shard) set.insert(slot);
  }
  return set;
}

void SlotMap::move(std::uint32_t slot, std::uint32_t shard) {
  assert(slot < slots());
  owners_[slot] = shard;
  shards_ = std::max(shards_, shard + 1);
  ++version_;
}

Partitioner::Partitioner(const TableSpec& spec, SlotMap map) : spec_(spec) {
  set_map(std::move(map));
}

void Partitioner::set_map(SlotMap map) {
  assert(map.slots() == spec_.slots);
  map_ = std::move(map);
  offsets_.assign(std::size_t{map_.shards()} + 1, 0);
  cursors_.assign(map_.shards(), 0);
  if (spec_.kind == TableKind::kDense) build_runs();
}

void Partitioner::build_runs() {
  runs_.clear();
  for (std::uint32_t slot = 0; slot < map_.slots(); ++slot) {
    const RowRange range = rows_of_slot(spec_, slot);
    if (range.begin == range.end) continue;
    if (!runs_.empty() && runs_.back().shard == map_.shard_of(slot)) {
      runs_.back().end = range.end;
    } else {
      runs_.push_back({range.end, map_.shard_of(slot)});
    }
  }
}

Result<std::vector<ShardRange>> Partitioner::split(const RowRange& rows) const {
  if (auto good = check_ranges(spec_, std::span(&rows, 1)); !good) return good.error();
  auto run = std::upper_bound(runs_.begin(), runs_.end(), rows.begin,
                              [](std::uint64_t row, const Run& r) { return row < r.end; });
  std::vector<ShardRange> parts;
  for (std::uint64_t begin = rows.begin; begin < rows.end; ++run) {
    const std::uint64_t end = std::min(rows.end, run->end);
    parts.push_back({run->shard, {begin, end}});
    begin = end;
  }
  return parts;
}

/// All keys are of the one shard: nothing needs to be worked out of them.
Result<void> Partitioner::take_all(std::span<const std::uint64_t> keys) {
  if (spec_.kind == TableKind::kDense)
    for (const std::uint64_t key : keys)
      if (key >= spec_.rows) return row_error(spec_, key);
  std::copy(keys.begin(), keys.end(), split_keys_.begin());
  std::iota(positions_.begin(), positions_.begin() + static_cast<std::ptrdiff_t>(keys.size()), 0U);
  offsets_[1] = keys.size();
  return {};
}

// Rows usually come in ranges, so the run of the last key is tried first.
Result<void> Partitioner::assign_dense(std::span<const std::uint64_t> keys) {
  std::uint64_t begin = 0;
  std::uint64_t end = 0;
  std::uint32_t shard = 0;
  for (std::size_t i = 0; i < keys.size(); ++i) {
    const std::uint64_t key = keys[i];
    if (key < begin || key >= end) {
      if (key >= spec_.rows) {
        return row_error(spec_, key);
      }
      const auto run = std::upper_bound(runs_.begin(), runs_.end(), key,
                                        [](std::uint64_t k, const Run& r) { return k < r.end; });
      begin = run == runs_.begin() ? 0 : std::prev(run)->end;
      end = run->end;
      shard = run->shard;
    }
    assigned_[i] = shard;
    ++cursors_[shard];
  }
  return {};
}

void Partitioner::assign_embedding(std::span<const std::uint64_t> keys) {
  const unsigned bits = bits_of(spec_.slots);
  const std::uint32_t* owners = map_.owners().data();
  // One pass that the compiler can overlap, then the counts: incrementing in the first would make each key
  // wait for the store of the one before.
  for (std::size_t i = 0; i < keys.size(); ++i) assigned_[i] = owners[hash_slot(keys[i], bits)];
  for (std::size_t i = 0; i < keys.size(); ++i) ++cursors_[assigned_[i]];
}

Result<void> Partitioner::split(std::span<const std::uint64_t> keys) {
  std::fill(offsets_.begin(), offsets_.end(), 0);
  std::fill(cursors_.begin(), cursors_.end(), 0);
  if (keys.size() > UINT32_MAX) {
    return Error{Code::kInvalidArgument, "table '" + spec_.name + "': " + std::to_string(keys.size()) +
                                             " keys in one list, at most 4294967295 are possible"};
  }
  if (keys.size() > assigned_.size()) {
    assigned_.resize(keys.size());
    split_keys_.resize(keys.size());
    positions_.resize(keys.size());
  }
  if (map_.shards() == 1) return take_all(keys);
  if (spec_.kind == TableKind::kDense) {
    if (Result<void> assigned = assign_dense(keys); !assigned) return assigned;
  } else {
    assign_embedding(keys);
  }
  for (std::size_t shard = 0; shard < cursors_.size(); ++shard) {
    offsets_[shard + 1] = offsets_[shard] + cursors_[shard];
    cursors_[shard] = offsets_[shard];
  }
  for (std::size_t i = 0; i < keys.size(); ++i) {
    const std::size_t at = cursors_[assigned_[i]]++;
    split_keys_[at] = keys[i];
    positions_[at] = static_cast<std::uint32_t>(i);
  }
  return {};
}

std::span<const std::uint64_t> Partitioner::keys(std::uint32_t shard) const {
  return std::span(split_keys_).subspan(offsets_[shard], offsets_[shard + 1] - offsets_[shard]);
}

std::span<const std::uint32_t> Partitioner::positions(std::uint32_t shard) const {
  return std::span(positions_).subspan(offsets_[shard], offsets_[shard + 1] - offsets_[shard]);
}

// Positions ascend, so they are contiguous if the ends are as far apart as there are positions.
bool Partitioner::contiguous(std::uint32_t shard) const {
  const auto list = positions(shard);
  return list.empty() || list.back() - list.front() + std::size_t{1} == list.size();
}

void Partitioner::gather(std::uint32_t shard, const float* rows, std::uint64_t dim, float* out) const {
  for (const std::uint32_t position : positions(shard)) {
    std::memcpy(out, rows + position * dim, dim * sizeof(float));
    out += dim;
  }
}

void Partitioner::scatter(std::uint32_t shard, const float* rows, std::uint64_t dim, float* out) const {
  for (const std::uint32_t position : positions(shard)) {
    std::memcpy(out + position * dim, rows, dim * sizeof(float));
    rows += dim;
  }
}

}  // namespace troupe::shards
