#include <troupe/runtime/gpu_sharing.hpp>

#include <sys/random.h>

#include "block.hpp"
#include "state.hpp"

namespace troupe {
namespace gpu {

std::uint64_t SlabExport::random_id() {
  std::uint64_t id = 0;
  while (id == 0)
    if (::getrandom(&id, sizeof id, 0) != sizeof id) id = 0;
  return id;
}

Result<IpcHandle> SlabExport::handle(Driver& driver, std::byte* slab) {
  const std::lock_guard lock(mutex_);
  if (handle_) return *handle_;
  auto made = driver.ipc_export(slab);
  if (made) handle_ = *made;  // what fails now may go later
  return made;
}

}  // namespace gpu

Result<GpuLocation> locate_gpu_memory(const Buffer& buffer) {
  gpu::Block* const block = gpu::block_of(buffer);
  if (!block || buffer.device().kind != MemoryKind::kDevice)
    return Error{Code::kFailedPrecondition, "the memory is of no GpuPool"};
  auto location = block->locate();
  if (location) location->offset += static_cast<std::uint64_t>(buffer.data() - block->data());
  return location;
}

void watch_freed_slabs(const Gpu& gpu, std::weak_ptr<const SlabsFreed> told) {
  gpu.state()->watch_freed(std::move(told));
}

GpuUsage usage_of(const Gpu& gpu) {
  return gpu.state()->usage();
}

std::array<std::byte, 16> uuid_of(const Gpu& gpu) {
  return gpu.state()->driver().uuid();
}

Result<std::shared_ptr<const GpuMapping>> GpuMapping::open(const Gpu& gpu, const GpuSlab& slab) {
  auto opened = gpu.state()->driver().ipc_open(slab.handle);
  if (!opened) return opened.error();
  return std::shared_ptr<const GpuMapping>(new GpuMapping(gpu.state(), opened->first, opened->second));
}

GpuMapping::~GpuMapping() {
  gpu_->driver().ipc_close(data_);
}

Result<void> write_word(const Stream& stream, std::atomic<std::uint64_t>& word, std::uint64_t value) {
  auto written = stream.state()->gpu().driver().write(stream.native(), &word, value);
  if (!written) {
    if (auto checked = stream.state()->check(); !checked) return checked;
  }
  return written;
}

Result<PinnedRange> PinnedRange::pin(const Gpu& gpu, std::byte* data, std::size_t bytes, bool read_only) {
  if (auto pinned = gpu.state()->driver().pin(data, bytes, read_only); !pinned) return pinned.error();
  return PinnedRange(gpu.state(), data);
}

PinnedRange::~PinnedRange() {
  if (gpu_) gpu_->driver().unpin(data_);
}

}  // namespace troupe
