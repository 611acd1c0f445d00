#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <vector>

namespace troupe::shards {

/// Memory for rows of `floats_per_row` floats, numbered from 0, in large blocks that never move. Rows of 64
/// bytes and more begin on a cache line. Contents are undefined until written.
class RowSlabs {
 public:
  explicit RowSlabs(std::uint64_t floats_per_row);

  /// Makes room for rows 0 .. count-1. Throws std::bad_alloc, keeping what there is.
  void reserve(std::uint64_t count);
  /// Precondition: there is room for `number`.
  float* row(std::uint64_t number) const {
    return slabs_[number >> shift_].get() + (number & mask_) * stride_;
  }
  /// From one row to the next, which includes padding.
  std::size_t row_bytes() const { return stride_ * sizeof(float); }

 private:
  struct Release {
    void operator()(float* slab) const { std::free(slab); }
  };
  std::uint64_t stride_;  // floats
  unsigned shift_;        // log2 of the rows in a slab
  std::uint64_t mask_;    // rows in a slab - 1
  std::vector<std::unique_ptr<float, Release>> slabs_;
};

}  // namespace troupe::shards
