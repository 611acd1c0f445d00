#pragma once

#include <array>
#include <atomic>
#include <cassert>
#include <cstddef>
#include <cstdint>
#include <new>
#include <thread>

#include <troupe/runtime/buffer.hpp>
#include <troupe/runtime/fresh_memory.hpp>

namespace troupe::rpc {

/// Small host buffers for envelopes, 64-byte aligned, reused for ever: no malloc in steady state.
///
/// acquire() belongs to the loop (with the turn only); buffers may be dropped on any thread, also after
/// the pool has gone. A drop inside a HeadPool::Scope costs a pointer swap; elsewhere it is one push on
/// a lock-free list, which the next acquire() that finds its own list empty takes over as a whole (so
/// there is no ABA problem: nobody pops single blocks from the shared list).
///
/// The pool grows to the largest number of buffers that were ever alive at once. Where kFreshMemory says so
/// it keeps nothing, and each buffer is as long as it was asked for.
class HeadPool {
 public:
  /// Most envelopes have about 100 bytes; the long ones get blocks of the second size.
  static constexpr std::size_t kSmallBytes = 256;

  explicit HeadPool(std::size_t max_bytes) : shared_(new Shared), max_bytes_(max_bytes) {}
  HeadPool(const HeadPool&) = delete;
  HeadPool& operator=(const HeadPool&) = delete;
  ~HeadPool() { shared_->close(); }

  /// A buffer of `size` bytes, contents undefined. Precondition: size <= max_bytes.
  Buffer acquire(std::size_t size) {
    assert(size <= max_bytes_);
    if constexpr (kFreshMemory) return Buffer::allocate(size);
    const std::size_t kind = size <= kSmallBytes ? 0 : 1;
    Block* block = shared_->take(kind);
    if (!block) block = shared_->make(kind, kind == 0 ? kSmallBytes : max_bytes_);
    return {block, size};
  }
  std::size_t max_bytes() const { return max_bytes_; }
  /// Blocks made so far; for tests.
  std::size_t blocks() const { return shared_->made; }

 private:
  struct Shared;

  class Block final : public MemoryBlock {
   public:
    Block(Shared* shared, std::size_t kind, std::byte* data, std::size_t capacity)
        : MemoryBlock(data, capacity, Device{}), shared_(shared), kind_(kind) {}
    ~Block() override = default;

    Block* next = nullptr;

    void reuse() { revive(); }
    std::size_t kind() const { return kind_; }
    static void destroy(Block* block) {
      block->~Block();
      ::operator delete (block, std::align_val_t{kAlignment});
    }

   private:
    void recycle() override { shared_->give(this); }

    Shared* shared_;
    std::size_t kind_;
  };

  static constexpr std::size_t kAlignment = 64;
  static constexpr std::size_t kBlockHeader = (sizeof(Block) + kAlignment - 1) / kAlignment * kAlignment;

  /// Outlives the pool while blocks are out.
  struct Shared {
    std::atomic<std::thread::id> inside{};          // the thread in a Scope
    std::array<Block*, 2> local{};                  // free blocks; with the turn only
    std::array<std::atomic<Block*>, 2> returned{};  // blocks dropped outside of a Scope
    std::size_t made = 0;
    std::atomic<std::int64_t> orphans{0};  // blocks that were out when the pool went, less those back

    Block* make(std::size_t kind, std::size_t capacity) {
      auto* memory =
          static_cast<std::byte*>(::operator new (kBlockHeader + capacity, std::align_val_t{kAlignment}));
      ++made;
      return new (memory) Block(this, kind, memory + kBlockHeader, capacity);
    }

    Block* take(std::size_t kind) {
      if (!local[kind]) local[kind] = returned[kind].exchange(nullptr, std::memory_order_acquire);
      Block* block = local[kind];
      if (!block) return nullptr;
      local[kind] = block->next;
      block->reuse();
      return block;
    }

    void give(Block* block) {
      const std::size_t kind = block->kind();
      if (inside.load(std::memory_order_relaxed) == std::this_thread::get_id()) {
        block->next = local[kind];
        local[kind] = block;
        return;
      }
      Block* first = returned[kind].load(std::memory_order_relaxed);
      do {
        if (first == closed_mark()) return give_orphan(block);
        block->next = first;
      } while (!returned[kind].compare_exchange_weak(first, block, std::memory_order_acq_rel,
                                                     std::memory_order_relaxed));
    }

    // Whoever brings `orphans` to zero deletes: before close() adds the number of blocks that are out it
    // can only be below zero, after that only above.
    void give_orphan(Block* block) {
      Block::destroy(block);
      if (orphans.fetch_sub(1, std::memory_order_acq_rel) == 1) delete this;
    }

    void close() {
      std::size_t freed = 0;
      for (std::size_t kind = 0; kind < local.size(); ++kind) {
        freed += destroy_list(local[kind]);
        freed += destroy_list(returned[kind].exchange(closed_mark(), std::memory_order_acq_rel));
      }
      const auto out = static_cast<std::int64_t>(made - freed);
      if (orphans.fetch_add(out, std::memory_order_acq_rel) + out == 0) delete this;
    }

    static std::size_t destroy_list(Block* block) {
      std::size_t count = 0;
      while (block) {
        Block* next = block->next;
        Block::destroy(block);
        block = next;
        ++count;
      }
      return count;
    }

    /// Stands in `returned` for "the pool has gone"; never dereferenced.
    static Block* closed_mark() { return reinterpret_cast<Block*>(std::uintptr_t{1}); }
  };

  Shared* shared_;
  std::size_t max_bytes_;

 public:
  /// While it lives, this thread does nothing without the loop's turn: buffers that it drops go back without
  /// an atomic operation. Nests; also with those of a thread to which the turn is lent meanwhile, in any
  /// order: the last to come is believed, and none is after it has gone.
  class Scope {
   public:
    explicit Scope(HeadPool& pool) : shared_(pool.shared_), self_(std::this_thread::get_id()) {
      nested_ = shared_->inside.load(std::memory_order_relaxed) == self_;
      if (!nested_) shared_->inside.store(self_, std::memory_order_relaxed);
    }
    ~Scope() {
      if (nested_ || shared_->inside.load(std::memory_order_relaxed) != self_) return;
      shared_->inside.store({}, std::memory_order_relaxed);
    }
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;

   private:
    Shared* shared_;
    const std::thread::id self_;
    bool nested_ = false;
  };
};

}  // namespace troupe::rpc
