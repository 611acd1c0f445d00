#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include <troupe/runtime/buffer.hpp>
#include <troupe/runtime/gpu.hpp>
#include <troupe/runtime/result.hpp>

/// Device memory between processes of one machine, and host memory that copy engines read and write.
namespace troupe {

/// A slab of a GpuPool, as another process finds it. All of it may come from a liar.
struct GpuSlab {
  std::uint64_t id = 0;  ///< random; of this very allocation, and of no later one at its place
  std::uint64_t bytes = 0;
  std::array<std::byte, 64> handle = {};
};
struct GpuLocation {
  GpuSlab slab;
  std::uint64_t offset = 0;  ///< of the buffer's first byte, from the slab's
};

/// Where a buffer lies, if it is of a GpuPool's device memory; kFailedPrecondition: it is not. Others: the
/// device shares nothing. Any thread.
Result<GpuLocation> locate_gpu_memory(const Buffer& buffer);

/// Told which slabs are about to be freed that other processes may have mapped, by the thread that calls
/// Gpu::release_idle(): as long as `told` lives.
using SlabsFreed = std::function<void(const std::vector<std::uint64_t>& ids)>;
void watch_freed_slabs(const Gpu& gpu, std::weak_ptr<const SlabsFreed> told);

/// The GPU's own number, the same in every process; zeros: it has none. Any thread.
std::array<std::byte, 16> uuid_of(const Gpu& gpu);

/// Another process's slab, mapped where a GPU of ours reaches it. Stays readable, with the bytes as they
/// were, when its owner has died; the memory goes back to the device when the last mapping does. Any thread;
/// opening and closing take milliseconds, and closing may wait for work on the device.
class GpuMapping {
 public:
  /// kUnavailable: it cannot be mapped.
  static Result<std::shared_ptr<const GpuMapping>> open(const Gpu& gpu, const GpuSlab& slab);
  ~GpuMapping();
  GpuMapping(const GpuMapping&) = delete;
  GpuMapping& operator=(const GpuMapping&) = delete;

  const std::byte* data() const { return data_; }
  /// As the device says, whatever the owner does.
  std::size_t bytes() const { return bytes_; }

 private:
  GpuMapping(std::shared_ptr<gpu::State> gpu, std::byte* data, std::size_t bytes)
      : gpu_(std::move(gpu)), data_(data), bytes_(bytes) {}
  std::shared_ptr<gpu::State> gpu_;
  std::byte* data_;
  std::size_t bytes_;
};

/// Has the device write `value` once it has done what `stream` has been given so far. `word` lies in pinned
/// memory.
Result<void> write_word(const Stream& stream, std::atomic<std::uint64_t>& word, std::uint64_t value);

/// Host memory that is locked for a GPU's copy engines while this lives. The caller keeps it, and unpins it
/// only when no copy from or to it is under way.
class PinnedRange {
 public:
  /// `data` begins a page. kUnimplemented, kInternal: it cannot be locked, and stays as it was.
  static Result<PinnedRange> pin(const Gpu& gpu, std::byte* data, std::size_t bytes, bool read_only);
  PinnedRange(PinnedRange&& other) noexcept = default;
  PinnedRange& operator=(PinnedRange&&) = delete;
  ~PinnedRange();

 private:
  PinnedRange(std::shared_ptr<gpu::State> gpu, std::byte* data) : gpu_(std::move(gpu)), data_(data) {}
  std::shared_ptr<gpu::State> gpu_;  // null: moved from
  std::byte* data_;
};

}  // namespace troupe
