#include "row_slabs.hpp"

#include <sys/mman.h>

#include <algorithm>
#include <bit>
#include <new>
#include <utility>

namespace troupe::shards {
namespace {

constexpr std::size_t kSlabBytes = std::size_t{32} << 20;
constexpr std::size_t kHugePageBytes = std::size_t{2} << 20;
constexpr std::uint64_t kLineFloats = 16;

std::uint64_t padded(std::uint64_t floats) {
  if (floats < kLineFloats) return std::bit_ceil(floats);
  return (floats + kLineFloats - 1) / kLineFloats * kLineFloats;
}

}  // namespace

RowSlabs::RowSlabs(std::uint64_t floats_per_row) : stride_(padded(floats_per_row)) {
  const std::uint64_t rows =
      std::max<std::uint64_t>(1, std::bit_floor(kSlabBytes / (stride_ * sizeof(float))));
  shift_ = static_cast<unsigned>(std::countr_zero(rows));
  mask_ = rows - 1;
}

void RowSlabs::reserve(std::uint64_t count) {
  const std::uint64_t slabs = (count + mask_) >> shift_;
  const std::size_t needed = (mask_ + 1) * stride_ * sizeof(float);
  const std::size_t bytes = (needed + kHugePageBytes - 1) / kHugePageBytes * kHugePageBytes;
  while (slabs_.size() < slabs) {
    std::unique_ptr<float, Release> slab(static_cast<float*>(std::aligned_alloc(kHugePageBytes, bytes)));
    if (slab == nullptr) throw std::bad_alloc();
    // Rows are met in random order: huge pages spare a miss of the TLB for nearly each. A small table's
    // only slab is left alone, so that it takes no more memory than it uses. Failure is of no consequence.
    if (!slabs_.empty()) madvise(slab.get(), bytes, MADV_HUGEPAGE);
    slabs_.push_back(std::move(slab));
  }
}

}  // namespace troupe::shards
