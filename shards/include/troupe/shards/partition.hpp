#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include <troupe/runtime/result.hpp>
#include <troupe/shards/row_keys.hpp>
#include <troupe/shards/table_spec.hpp>

namespace troupe::shards {

/// A table's slots lie in so many groups, the units in which they belong to shards: see slot_groups.hpp.
inline constexpr std::uint32_t kSlotGroups = 64;

/// The slot of `key` in a table of `spec`, below spec.slots.
///
/// Embedding: the top bits of a 64-bit mix of the key (two xor-shift-multiply rounds: every bit of the key
/// reaches every bit of the slot), so that any pattern of keys spreads evenly. Dense: floor(key * slots /
/// rows), so that a slot is one range of rows and all slots have the same number of rows within one.
/// Part of the checkpoint's meaning only for filtering: a checkpoint holds keys, not slots.
/// Precondition: the spec is valid, and for a dense table key < rows.
std::uint32_t slot_of(const TableSpec& spec, std::uint64_t key);

/// The rows of a dense table that lie in `slot`; none if there are more slots than rows.
RowRange rows_of_slot(const TableSpec& spec, std::uint32_t slot);

/// A set of slots of one table.
class SlotSet {
 public:
  SlotSet() = default;
  /// No slot of `slots`.
  static SlotSet none(std::uint32_t slots);
  /// All of them.
  static SlotSet all(std::uint32_t slots);

  std::uint32_t slots() const { return slots_; }
  /// False for a slot out of range.
  bool contains(std::uint32_t slot) const {
    return slot < slots_ && ((words_[slot / 64] >> (slot % 64)) & 1U);
  }
  /// Precondition: slot < slots().
  void insert(std::uint32_t slot);
  void erase(std::uint32_t slot);
  std::uint32_t count() const;
  friend bool operator==(const SlotSet&, const SlotSet&) = default;

 private:
  std::uint32_t slots_ = 0;
  std::vector<std::uint64_t> words_;
};

/// The rows of a dense table that lie in these slots, ascending, in ranges of which no two touch.
std::vector<RowRange> rows_of_slots(const TableSpec& spec, const SlotSet& slots);

/// Which shard owns each slot. A plain value; clients and servers hold copies.
class SlotMap {
 public:
  SlotMap() = default;
  /// Contiguous ranges of slots, the same number of slot groups per shard within one; with more than
  /// kSlotGroups shards, or fewer slots than that, the same number of slots. Precondition: shards > 0.
  static SlotMap balanced(std::uint32_t slots, std::uint32_t shards);
  /// The map with these owners. kInvalidArgument unless there is a power of two of them, each < shards.
  static Result<SlotMap> from_owners(std::vector<std::uint32_t> owners, std::uint32_t shards);

  std::uint32_t slots() const { return static_cast<std::uint32_t>(owners_.size()); }
  std::uint32_t shards() const { return shards_; }
  /// Precondition: slot < slots().
  std::uint32_t shard_of(std::uint32_t slot) const { return owners_[slot]; }
  std::span<const std::uint32_t> owners() const { return owners_; }
  SlotSet slots_of(std::uint32_t shard) const;
  /// Gives a slot to a shard; a shard number past the last adds shards. Raises version().
  void move(std::uint32_t slot, std::uint32_t shard);
  /// Counts the moves, so that holders of copies can tell the newer one.
  std::uint64_t version() const { return version_; }
  friend bool operator==(const SlotMap&, const SlotMap&) = default;

 private:
  std::uint32_t shards_ = 0;
  std::uint64_t version_ = 0;
  std::vector<std::uint32_t> owners_;
};

/// A part of a range of rows, and the shard that has it.
struct ShardRange {
  std::uint32_t shard = 0;
  RowRange rows;
  friend bool operator==(const ShardRange&, const ShardRange&) = default;
};

/// Splits lists of keys by shard and joins the shards' answers. It keeps its scratch: once it has seen its
/// largest list it allocates nothing. One thread at a time.
class Partitioner {
 public:
  /// Precondition: the spec is valid and map.slots() == spec.slots.
  Partitioner(const TableSpec& spec, SlotMap map);

  const SlotMap& map() const { return map_; }
  /// Takes a newer map. Precondition: as many slots as before.
  void set_map(SlotMap map);

  /// The parts of a dense table's rows, ascending, two neighbours of different shards. Errors of
  /// check_ranges().
  Result<std::vector<ShardRange>> split(const RowRange& rows) const;
  /// Sorts `keys` by shard, keeping their order within a shard; duplicates stay. The answers below hold
  /// until the next split(). kInvalidArgument for a row number out of a dense table's range, or for more
  /// than 2^32-1 keys; then the answers are empty.
  Result<void> split(std::span<const std::uint64_t> keys);

  /// The keys of `shard`, and where each stood in the list that was split. Precondition: shard < shards().
  std::span<const std::uint64_t> keys(std::uint32_t shard) const;
  std::span<const std::uint32_t> positions(std::uint32_t shard) const;
  /// Whether the shard's keys stood next to each other in the list, so that rows[keys, dim] of the caller
  /// may be used in place from positions(shard).front() on, without gather or scatter.
  bool contiguous(std::uint32_t shard) const;

  /// out[i] = rows[positions(shard)[i]], rows of `dim` floats: a shard's part of gradients[keys, dim].
  void gather(std::uint32_t shard, const float* rows, std::uint64_t dim, float* out) const;
  /// out[positions(shard)[i]] = rows[i]: puts a shard's answer into out[keys, dim].
  void scatter(std::uint32_t shard, const float* rows, std::uint64_t dim, float* out) const;

 private:
  void build_runs();
  Result<void> take_all(std::span<const std::uint64_t> keys);
  Result<void> assign_dense(std::span<const std::uint64_t> keys);
  void assign_embedding(std::span<const std::uint64_t> keys);

  /// A dense table's rows below `end` (and not below the run before) belong to `shard`.
  struct Run {
    std::uint64_t end;
    std::uint32_t shard;
  };

  TableSpec spec_;
  SlotMap map_;
  std::vector<Run> runs_;                  // dense tables only, ascending
  std::vector<std::uint32_t> assigned_;    // [keys] shard of each key
  std::vector<std::size_t> offsets_;       // [shards + 1] into the two below
  std::vector<std::size_t> cursors_;       // [shards]
  std::vector<std::uint64_t> split_keys_;  // [keys] by shard
  std::vector<std::uint32_t> positions_;   // [keys] by shard
};

}  // namespace troupe::shards
