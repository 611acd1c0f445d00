#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include <troupe/shards/row_layout.hpp>
#include <troupe/shards/table_spec.hpp>

#include "row_slabs.hpp"

namespace troupe::shards {

/// Records in this process's memory, by number: how they are made, read and stepped. Which number a key has
/// is the store's business.
class HostRows {
 public:
  explicit HostRows(const TableSpec& spec);

  const RowLayout& layout() const { return layout_; }
  /// From one record to the next, which includes padding.
  std::size_t row_bytes() const { return slabs_.row_bytes(); }
  std::byte* record(std::uint64_t number) const { return reinterpret_cast<std::byte*>(slabs_.row(number)); }

  /// Makes room for rows 0 .. count-1, and for what make() needs. Throws std::bad_alloc.
  void reserve(std::uint64_t count);
  /// The first values of row `number`. Precondition: there is room.
  void make(std::uint64_t number, std::uint64_t key);
  /// The weights that make() would give, out[dim]. Throws std::bad_alloc.
  void show(std::uint64_t key, float* out) const;

  // Some rows at a time: their records first, then what is to be done with them.

  /// Room to name `count` rows, and for a step of them. Throws std::bad_alloc.
  void reserve_step(std::size_t count);
  /// Room to name `count` rows. Throws std::bad_alloc.
  void reserve_read(std::size_t count);
  void name(std::size_t i, std::uint64_t number) { rows_[i] = slabs_.row(number); }
  void name_none(std::size_t i) { rows_[i] = nullptr; }
  bool named(std::size_t i) const { return rows_[i] != nullptr; }
  /// out[i] = the weights of the row named i, out[count, dim], as float32; of none, anything.
  void read(std::size_t count, float* out) const;
  /// One optimizer step for each of the rows named, with gradients[count, dim] and the learning rate times
  /// `scale`. Precondition: reserve_step(count).
  void step(std::size_t count, const float* gradients, float scale);

 private:
  void step_half_rows(std::size_t count, const float* gradients, const StepBatch& batch);

  TableSpec spec_;
  RowLayout layout_;
  RowSlabs slabs_;
  // Scratch that keeps its size between calls.
  std::vector<float*> rows_;
  std::vector<float> wide_;  // half rows as float32
};

}  // namespace troupe::shards
