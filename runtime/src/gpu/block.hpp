#pragma once

#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include <troupe/runtime/buffer.hpp>
#include <troupe/runtime/gpu_sharing.hpp>
#include <troupe/runtime/stream.hpp>

#include "state.hpp"

namespace troupe::gpu {

/// Memory that streams use: who wrote it, and who uses it.
class Block : public MemoryBlock {
 public:
  Result<void> begin_read(const Stream& stream);
  Result<void> begin_write(const Stream& stream);
  Result<void> end_write(const Stream& stream);
  void end_write(const Event& written) {
    const std::lock_guard lock(mutex_);
    written_ = written;
  }
  Event written() const {
    const std::lock_guard lock(mutex_);
    return written_;
  }
  /// Which slab of device memory it is a part of. kFailedPrecondition: of none.
  virtual Result<GpuLocation> locate() {
    return Error{Code::kFailedPrecondition, "the memory is of no GpuPool"};
  }

 protected:
  Block(std::byte* data, std::size_t capacity, Device device, const Stream& stream, Event written = {})
      : MemoryBlock(data, capacity, device), written_(std::move(written)), users_{stream.state()} {}
  ~Block() override = default;

  /// Where its users stand now, after which the memory is free. An error: the device has failed, and nobody
  /// will ever know. Once, when the last Buffer has gone.
  Result<std::vector<Mark>> marks();

 private:
  void add_user(const std::shared_ptr<StreamState>& stream);

  mutable std::mutex mutex_;
  Event written_;
  std::vector<std::shared_ptr<StreamState>> users_;  // each once; few
};

/// Null: nobody keeps account of who uses it.
Block* block_of(const Buffer& buffer);

}  // namespace troupe::gpu
