#pragma once

#include <sys/types.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>

#include <troupe/runtime/buffer.hpp>
#include <troupe/runtime/result.hpp>

namespace troupe {

/// Host memory that other processes of this machine and user can map, for reading only. Each block is a memfd
/// of its own, sealed in its size and against being mapped for writing by anybody else: an abandoned block
/// can be given up whole, without knowing who still reads it, and stays readable for them. Free blocks are
/// kept for reuse.
///
/// Memory is bounded. Past the bounds, and below kSmallest bytes, allocate() gives ordinary memory, which is
/// copied to others like any. Who has passed a tensor on must not write into it while others may read it:
/// ask is_leased(). Any thread; buffers may outlive the pool.
class SharedPool {
 public:
  static constexpr std::size_t kSmallest = std::size_t{64} << 10;  ///< bytes worth sharing
  struct Limits {
    std::size_t max_bytes = std::size_t{4} << 30;  ///< in use and kept
    std::size_t max_blocks = 128;                  ///< likewise; each is an open file
  };
  struct Stats {
    std::size_t blocks_in_use = 0, blocks_kept = 0;
    std::size_t bytes_in_use = 0, bytes_kept = 0;
    std::uint64_t fallbacks = 0;  ///< allocations that got ordinary memory
  };
  /// How another process finds bytes of ours, with our process id. All of it may come from a liar.
  struct Location {
    std::uint32_t fd = 0;
    std::uint64_t cookie = 0;  ///< random; stands in the segment's header too
    std::uint64_t offset = 0;  ///< from the segment's beginning
  };

  SharedPool() : SharedPool(Limits{}) {}
  explicit SharedPool(Limits limits);
  ~SharedPool();
  SharedPool(const SharedPool&) = delete;
  SharedPool& operator=(const SharedPool&) = delete;

  /// A buffer of exactly `size` bytes, 64-byte aligned, contents undefined. Throws std::bad_alloc when the
  /// system has no ordinary memory either.
  Buffer allocate(std::size_t size);
  Stats stats() const;
  /// An empty segment, which tells whoever can open it that it can open all. None: sharing does not work.
  std::optional<Location> probe();
  /// Whether the kernel keeps others from writing into our segments (Linux since 5.1); else they could,
  /// though this library does not.
  static bool others_cannot_write();

  /// Where the buffer lies, if it is of any SharedPool of this process.
  static std::optional<Location> locate(const Buffer& buffer);
  /// A number that stands beside the block, at kProgress bytes from the segment's beginning, for whoever
  /// fills it to say how far he has come; null: the buffer is of no SharedPool.
  static std::atomic<std::uint64_t>* progress(const Buffer& buffer);
  static constexpr std::uint32_t kProgress = 64;
  /// Whether another process may still read the buffer's block: it has been handed to a call, and the reader
  /// has not said that it is done.
  static bool is_leased(const Buffer& buffer);
  /// The same bytes, on their way to another process by being copied: leased while this lives, or a copy or a
  /// part of it. Itself if it is of no SharedPool.
  static Buffer leased(Buffer buffer);

 private:
  friend class SharedLease;
  class Shared;
  class Block;
  std::shared_ptr<Shared> shared_;
};

/// Keeps a block of a SharedPool for a reader in another process. Dropped when the reader has said that it
/// is done; abandon() when nobody can say so any more: the block is then never used again.
class SharedLease {
 public:
  /// Precondition: SharedPool::locate(buffer).
  explicit SharedLease(Buffer buffer);
  SharedLease(SharedLease&& other) noexcept = default;
  SharedLease& operator=(SharedLease&& other) = delete;
  ~SharedLease();
  void abandon();

 private:
  Buffer buffer_;
};

/// Another process's segment, mapped for reading. Immutable; any thread.
class SharedMapping {
 public:
  /// Opens a segment through /proc. kUnavailable: it cannot be opened, or is not what `location` says, or is
  /// not sealed, so that its owner could take its pages away.
  static Result<std::shared_ptr<const SharedMapping>> open(pid_t owner, const SharedPool::Location& location);
  SharedMapping(const std::byte* data, std::size_t size) : data_(data), size_(size) {}
  ~SharedMapping();
  SharedMapping(const SharedMapping&) = delete;
  SharedMapping& operator=(const SharedMapping&) = delete;

  /// A read-only buffer on bytes of it; `done` is called once, on whichever thread drops the last view.
  /// kDataLoss: they lie outside of it.
  static Result<Buffer> view(std::shared_ptr<const SharedMapping> mapping, std::uint64_t offset,
                             std::uint64_t size, std::function<void()> done);
  /// Whether the owner has given the segment up: nothing new will come in it.
  bool is_closed() const;
  /// What a buffer is a view() of; null: of none.
  static std::shared_ptr<const SharedMapping> of(const Buffer& buffer);
  /// A number in its first page, `offset` bytes from its beginning; null: none can be there.
  const std::atomic<std::uint64_t>* number(std::uint32_t offset) const;
  /// All of it, from the beginning of a page.
  std::span<const std::byte> bytes() const { return {data_, size_}; }

 private:
  const std::byte* data_;
  std::size_t size_;
};

}  // namespace troupe
