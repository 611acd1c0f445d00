#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <unordered_map>
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
  static constexpr std::size_t kMostBlocks = 4096;
  static constexpr std::size_t kMostMapped = 128;  ///< that peers can map; each is an open file

  /// `most`: bytes of blocks that are kept; past it there is none.
  Staging(Gpu gpu, std::size_t most)
      : gpu_(std::move(gpu)), most_(most), pool_({.max_bytes = most, .max_blocks = kMostMapped}) {}
  ~Staging();  ///< after all copies
  Staging(const Staging&) = delete;
  Staging& operator=(const Staging&) = delete;

  /// What is received waits for this node's devices alone, and so comes to its end: a quarter is kept for it.
  /// What is to be sent may wait for a peer that waits for us.
  enum class For : std::uint8_t { kSending, kReceiving };
  /// A buffer of `bytes`, which nobody uses, in which no copy is under way. kUnavailable: not now.
  /// kResourceExhausted: there will never be one.
  Result<Buffer> take(std::size_t bytes, For what);
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
  /// Locked, in use or kept.
  std::size_t bytes() const { return bytes_; }
  std::size_t most() const { return most_; }

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

  bool may_send(std::size_t size) const;

  const Gpu gpu_;
  const std::size_t most_;
  SharedPool pool_;
  std::size_t bytes_ = 0;
  std::size_t guest_bytes_ = 0;
  std::vector<std::unique_ptr<Block>> blocks_;
  std::unordered_map<const MemoryBlock*, Block*> by_memory_;
  std::vector<Guest> guests_;
};

}  // namespace troupe::rpc
