#pragma once

#include <cstddef>
#include <memory>
#include <vector>

#include <troupe/runtime/gpu_sharing.hpp>
#include <troupe/runtime/result.hpp>
#include <troupe/runtime/shared_pool.hpp>
#include <troupe/runtime/stream.hpp>

#include "device/part_memory.hpp"

namespace troupe::rpc {

/// Host memory that is locked for the copy engines, through which device tensors go where a device does not
/// reach the other. It is made of blocks of a SharedPool of its own, which a peer on this machine maps
/// instead of having them copied, and kept for the next tensor: to lock memory takes longer than to fill it.
/// Loop only.
class Staging final : public PartMemory {
 public:
  /// Bytes of blocks that are kept; past it, and past the pool's own bounds, there is none.
  static constexpr std::size_t kMost = std::size_t{2} << 30;
  static constexpr std::size_t kMostBlocks = 4096;
  static constexpr std::size_t kMostMapped = 128;  ///< that peers can map; each is an open file

  explicit Staging(Gpu gpu) : gpu_(std::move(gpu)), pool_({.max_bytes = kMost, .max_blocks = kMostMapped}) {}
  ~Staging();  ///< after all copies
  Staging(const Staging&) = delete;
  Staging& operator=(const Staging&) = delete;

  /// A buffer of `bytes`, which nobody uses, in which no copy is under way. kResourceExhausted: there is
  /// none.
  Result<Buffer> take(std::size_t bytes);
  Buffer part(std::size_t bytes) override;
  /// A copy from or to it is under way until then.
  void in_use_until(const Buffer& buffer, const Event& event);

  /// Nobody knows when the copies from or to it are done: it is never used again.
  void lose(const Buffer& buffer);

  /// Whether copy engines may be given it: it is a buffer of ours, or of a peer's memory that is mapped here
  /// and could be locked.
  bool can_copy(const Buffer& buffer);
  /// Lets go of what peers have given up, or have left.
  void forget_peers();

 private:
  struct Block {
    Buffer memory;
    PinnedRange pinned;
    Event last;
    bool lost = false;
  };
  struct Guest {
    std::shared_ptr<const SharedMapping> mapping;
    std::unique_ptr<PinnedRange> pinned;  // null: it cannot be
  };
  static bool is_idle(const Block& block);
  Block* find(const Buffer& buffer);
  Block* idle(std::size_t bytes);
  void make_room(std::size_t bytes);

  const Gpu gpu_;
  SharedPool pool_;
  std::size_t bytes_ = 0;
  std::size_t guest_bytes_ = 0;
  std::vector<std::unique_ptr<Block>> blocks_;
  std::vector<Guest> guests_;
};

}  // namespace troupe::rpc
