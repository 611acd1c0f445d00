#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include <troupe/runtime/buffer.hpp>

namespace troupe {

/// Host memory kept for reuse, because fresh pages cost more than the data that goes into them
/// (1.8 GB/s against 10 GB/s). Sizes are rounded up to classes (powers of two and the midpoints
/// between them); at most `keep_bytes` of free memory is kept, the rest goes back to the system.
/// Nothing is kept where kFreshMemory says so. Any thread may allocate, and buffers may be dropped on any
/// thread, also after the pool has gone.
class MemoryPool {
 public:
  struct Stats {
    std::uint64_t allocations = 0;  ///< buffers handed out
    std::uint64_t misses = 0;       ///< of those, how many needed fresh memory
    std::size_t bytes_in_use = 0;
    std::size_t bytes_kept = 0;
  };

  explicit MemoryPool(std::size_t keep_bytes = std::size_t{1} << 30);
  ~MemoryPool();
  MemoryPool(const MemoryPool&) = delete;
  MemoryPool& operator=(const MemoryPool&) = delete;

  /// A buffer of exactly `size` bytes, 64-byte aligned, contents undefined. Throws std::bad_alloc when
  /// the system has no more.
  Buffer allocate(std::size_t size);
  Stats stats() const;

 private:
  class Shared;
  std::shared_ptr<Shared> shared_;
};

}  // namespace troupe
