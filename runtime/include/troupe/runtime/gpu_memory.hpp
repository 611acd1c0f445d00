#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>

#include <troupe/runtime/buffer.hpp>
#include <troupe/runtime/gpu.hpp>
#include <troupe/runtime/result.hpp>
#include <troupe/runtime/stream.hpp>
#include <troupe/runtime/tensor.hpp>

/// Memory that streams use. A Buffer of it knows the event after which it may be read and which streams have
/// used it; its memory goes to somebody else when the last Buffer has gone and those streams have passed. Who
/// gives such a buffer to a stream says so first:
///
///     begin_write(out, stream);    // after whoever reads or writes it now
///     stream.launched("gather", launch(..., stream.native()));
///     end_write(out, stream);      // readers come after this
namespace troupe {

namespace gpu {
class PoolState;
}

struct GpuPoolOptions {
  MemoryKind kind = MemoryKind::kDevice;  ///< or kPinned
  std::size_t limit_bytes = 0;            ///< of slabs; 0: what the device has
  std::size_t slab_bytes = std::size_t{64}
                           << 20;  ///< a slab is as long, or as what was asked for if that is more
};

/// A GPU's memory, or pinned memory of the host, in slabs from which buffers are cut. Device slabs are of the
/// driver's plain allocation (cudaMalloc): no other kind can be mapped by other processes or goes through UCX
/// at full speed. Reuse is in the order of streams: what a stream has let go it can have again at once;
/// another stream gets what has passed, and is made to wait, on the device, for what has not only before the
/// pool would fail. Any thread; buffers may be dropped on any thread, also after the pool and the stream have
/// gone.
class GpuPool {
 public:
  struct Stats {
    std::uint64_t allocations = 0;
    std::uint64_t waits = 0;         ///< of those, for how many a stream was made to wait for another
    std::size_t bytes_in_use = 0;    ///< of buffers, rounded up
    std::size_t peak_bytes = 0;      ///< the most that bytes_in_use was
    std::size_t bytes_reserved = 0;  ///< of slabs
    std::size_t bytes_lost = 0;      ///< given back after the device had failed
  };

  explicit GpuPool(const Gpu& gpu, GpuPoolOptions options = {});
  GpuPool(const GpuPool&) = delete;
  GpuPool& operator=(const GpuPool&) = delete;

  /// `size` bytes, 512-byte aligned, contents undefined, which `stream` may use at once, as begun with
  /// begin_write(). kResourceExhausted: the limit, or the device's memory, does not allow it; what is in use
  /// stays as it is.
  Result<Buffer> allocate(std::size_t size, const Stream& stream);
  /// A contiguous tensor, likewise. kInvalidArgument: its size is no number of 63 bits.
  Result<Tensor> empty(DType dtype, const Shape& shape, const Stream& stream);
  Stats stats() const;

 private:
  std::shared_ptr<gpu::PoolState> state_;
};

/// Memory of another library's, on which `stream` has just been made to wait for who wrote it. `release` is
/// called on any thread once the last Buffer has gone and the streams that used it have passed: by whoever
/// allocates, records or looks next.
Result<Buffer> adopt_gpu_memory(const Gpu& gpu, std::byte* data, std::size_t size, Device device,
                                const Stream& stream, std::function<void()> release);

// On buffers that are neither of a pool nor adopted these do nothing.

/// What `stream` is given from now on comes after the last write, and may read until the last Buffer goes.
Result<void> begin_read(const Buffer& buffer, const Stream& stream);
/// It comes after the last write and after every read so far.
Result<void> begin_write(const Buffer& buffer, const Stream& stream);
/// What `stream` has been given so far has written it: whoever reads comes after that.
Result<void> end_write(const Buffer& buffer, const Stream& stream);
/// The same, at a point that `stream` has recorded: for several buffers that are written together.
void end_write(const Buffer& buffer, const Event& written);
/// After which it may be read; has passed for buffers of other kinds.
Event readable_after(const Buffer& buffer);

}  // namespace troupe
