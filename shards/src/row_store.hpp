#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include <troupe/kernels/hash_index.hpp>
#include <troupe/runtime/result.hpp>
#include <troupe/shards/partition.hpp>
#include <troupe/shards/table_spec.hpp>

#include "row_slabs.hpp"

namespace troupe::shards {

/// The rows of the slots that a shard owns, found by key. A row is [weights, dim][optimizer state], laid
/// out as the kernels' optimizers want it. Dense tables need no index: their rows lie in the order of their
/// keys.
class RowStore {
 public:
  /// Precondition: valid spec, slots.slots() == spec.slots. Throws std::bad_alloc.
  RowStore(const TableSpec& spec, const SlotSet& slots);

  /// rows[i] = the row of keys[i], made if missing. kInvalidArgument or kFailedPrecondition as
  /// TableShard::pull says, without making any row. Throws std::bad_alloc; the store stays whole.
  Result<void> locate(std::span<const std::uint64_t> keys, std::vector<float*>& rows);
  /// rows[i] = the row of keys[i], or null if it has not been made. The same errors.
  Result<void> find(std::span<const std::uint64_t> keys, std::vector<float*>& rows);

  std::uint64_t size() const { return size_; }
  float* row(std::uint64_t number) const { return slabs_.row(number); }
  std::uint64_t key(std::uint64_t number) const;
  std::uint64_t bytes() const;

 private:
  /// Owned dense rows [begin, end) have the numbers from `base` on.
  struct Run {
    std::uint64_t begin;
    std::uint64_t end;
    std::uint64_t base;
  };
  void make_dense_rows();
  void make_row(std::uint64_t number, std::uint64_t key);
  Result<void> locate_dense(std::span<const std::uint64_t> keys, std::vector<float*>& rows) const;
  Result<void> check_owned(std::span<const std::uint64_t> keys) const;
  Error dense_error(std::uint64_t key) const;
  Error slot_error(std::uint64_t key) const;

  TableSpec spec_;
  SlotSet slots_;
  RowSlabs slabs_;
  std::uint64_t size_ = 0;
  std::vector<Run> runs_;               // dense, ascending
  kernels::HashIndex index_;            // embedding: key -> row number
  std::vector<std::uint64_t> keys_;     // embedding: by row number
  std::vector<std::uint64_t> numbers_;  // scratch
};

}  // namespace troupe::shards
