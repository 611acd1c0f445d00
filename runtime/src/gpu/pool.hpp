#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include <troupe/runtime/gpu_memory.hpp>

#include "block.hpp"
#include "state.hpp"

namespace troupe::gpu {

/// What a GpuPool and its buffers share. Each slab is a row of ranges without gaps, in use or free. A free
/// range has the marks of those who may still be at work in it; neighbours with marks of different streams
/// stay two until those have passed.
class PoolState : public std::enable_shared_from_this<PoolState> {
 public:
  PoolState(std::shared_ptr<State> gpu, const GpuPoolOptions& options)
      : gpu_(std::move(gpu)), options_(options) {}
  ~PoolState();
  PoolState(const PoolState&) = delete;
  PoolState& operator=(const PoolState&) = delete;

  Result<MemoryBlock*> take(std::size_t size, const Stream& stream);
  GpuPool::Stats stats() const {
    const std::lock_guard lock(mutex_);
    return stats_;
  }

 private:
  class PoolBlock;
  struct Range;
  using Ranges = std::map<std::byte*, Range>;                       // by address
  using FreeRanges = std::multimap<std::size_t, Ranges::iterator>;  // by size
  struct Slab {
    std::byte* data;
    std::size_t bytes;
    Ranges ranges;
    std::shared_ptr<SlabExport> exported;
  };
  struct Range {
    Slab* slab;
    std::size_t bytes;
    bool free = false;
    std::vector<Mark> busy = {};
    FreeRanges::iterator place = {};  // while free
  };

  FreeRanges::iterator find_passed(std::size_t bytes, const Stream& stream);
  Result<FreeRanges::iterator> find_waiting(std::size_t bytes, const Stream& stream);
  Result<FreeRanges::iterator> add_slab(std::size_t bytes);
  Result<GpuLocation> locate(const Slab& slab, const std::byte* at);
  Ranges::iterator use(FreeRanges::iterator found, std::size_t bytes);
  void make_free(Ranges::iterator range);
  bool merge_if_alike(Ranges::iterator first, Ranges::iterator second);
  void merge_all();
  void put_back(Ranges::iterator range, Result<std::vector<Mark>> busy);

  const std::shared_ptr<State> gpu_;
  const GpuPoolOptions options_;
  mutable std::mutex mutex_;
  std::vector<std::unique_ptr<Slab>> slabs_;
  FreeRanges free_;
  GpuPool::Stats stats_;
};

}  // namespace troupe::gpu
