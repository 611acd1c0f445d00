#pragma once

#include <atomic>
#include <cassert>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <utility>

namespace troupe {

/// Where bytes live. The numbers go over the wire.
enum class MemoryKind : std::uint8_t {
  kHost = 0,    ///< ordinary memory
  kPinned = 1,  ///< host memory locked for the GPU's copy engines
  kDevice = 2,  ///< memory of one GPU, not readable by the CPU
};

/// A device: the CPU, or the CUDA device of an ordinal.
struct Device {
  MemoryKind kind = MemoryKind::kHost;
  std::int32_t ordinal = 0;
  friend bool operator==(const Device&, const Device&) = default;
};

class Buffer;

/// What a block's memory has to do with other processes.
enum class Sharing : std::uint8_t {
  kNone,   ///< ours alone
  kOwner,  ///< ours, and others may map it: of a SharedPool
  kGuest,  ///< another process's, mapped for reading only
};

/// Who gives memory back when the last Buffer on it goes. A block begins life with one reference and
/// is destroyed by release() of the last; that may happen on any thread.
class MemoryBlock {
 public:
  MemoryBlock(std::byte* data, std::size_t capacity, Device device, Sharing sharing = Sharing::kNone)
      : data_(data), capacity_(capacity), device_(device), sharing_(sharing) {}
  MemoryBlock(const MemoryBlock&) = delete;
  MemoryBlock& operator=(const MemoryBlock&) = delete;

  std::byte* data() const { return data_; }
  std::size_t capacity() const { return capacity_; }
  Device device() const { return device_; }
  Sharing sharing() const { return sharing_; }
  void retain() { references_.fetch_add(1, std::memory_order_relaxed); }
  /// Whoever has the only reference can be followed by nobody, and saves the locked instruction, which would
  /// also wait for all stores before it.
  void release() {
    if (references_.load(std::memory_order_acquire) == 1 ||
        references_.fetch_sub(1, std::memory_order_acq_rel) == 1)
      recycle();
  }
  /// Whether exactly one Buffer refers to the block, so that its holder may write into it.
  bool unique() const {
    return references_.load(std::memory_order_acquire) == 1 && sharing_ != Sharing::kGuest;
  }

 protected:
  virtual ~MemoryBlock() = default;
  /// Gives the block back to where it came from; called once, when the last reference has gone.
  virtual void recycle() = 0;
  /// For pools: makes the block fresh, with one reference.
  void revive() { references_.store(1, std::memory_order_relaxed); }

 private:
  std::byte* data_;
  std::size_t capacity_;
  Device device_;
  std::atomic<std::uint32_t> references_{1};
  Sharing sharing_;
};

/// A view of a part of a reference-counted block of memory. Copies share the bytes. Distinct Buffers
/// on one block may be used from different threads; one Buffer may not.
class Buffer {
 public:
  Buffer() = default;
  /// Takes over one reference to `block`, seeing its first `size` bytes.
  Buffer(MemoryBlock* block, std::size_t size) : block_(block), data_(block->data()), size_(size) {}
  Buffer(const Buffer& other) : block_(other.block_), data_(other.data_), size_(other.size_) {
    if (block_) block_->retain();
  }
  Buffer(Buffer&& other) noexcept
      : block_(std::exchange(other.block_, nullptr)),
        data_(std::exchange(other.data_, nullptr)),
        size_(std::exchange(other.size_, 0)) {}
  Buffer& operator=(const Buffer& other) { return *this = Buffer(other); }
  Buffer& operator=(Buffer&& other) noexcept {
    if (this == &other) return *this;
    MemoryBlock* const old = block_;
    block_ = std::exchange(other.block_, nullptr);
    data_ = std::exchange(other.data_, nullptr);
    size_ = std::exchange(other.size_, 0);
    if (old) old->release();
    return *this;
  }
  ~Buffer() {
    if (block_) block_->release();
  }

  /// Fresh host memory of `size` bytes, 64-byte aligned, contents undefined. Large sizes come from a
  /// process-independent heap; use MemoryPool where the same sizes come again and again.
  static Buffer allocate(std::size_t size);
  /// A copy of `bytes`.
  static Buffer copy_of(std::span<const std::byte> bytes);
  /// Memory owned by someone else: `release` is called once, on whichever thread drops the last view.
  static Buffer adopt(std::byte* data, std::size_t size, Device device, std::function<void()> release);

  std::byte* data() const { return data_; }
  std::size_t size() const { return size_; }
  bool empty() const { return size_ == 0; }
  Device device() const { return block_ ? block_->device() : Device{}; }
  bool unique() const { return block_ && block_->unique(); }
  /// Whether writing into the bytes ends the process: they are another process's (see SharedPool).
  bool read_only() const { return block_ && block_->sharing() == Sharing::kGuest; }
  MemoryBlock* block() const { return block_; }  ///< null if there is none
  std::span<std::byte> bytes() const { return {data_, size_}; }

  /// The part [offset, offset + size) of this buffer, sharing its memory. Precondition: it lies inside.
  Buffer slice(std::size_t offset, std::size_t size) const& { return Buffer(*this).slice(offset, size); }
  Buffer slice(std::size_t offset, std::size_t size) && {
    assert(offset <= size_ && size <= size_ - offset);
    size_ = 0;
    return {std::exchange(block_, nullptr), std::exchange(data_, nullptr) + offset, size};
  }

 private:
  Buffer(MemoryBlock* block, std::byte* data, std::size_t size) : block_(block), data_(data), size_(size) {}

  MemoryBlock* block_ = nullptr;
  std::byte* data_ = nullptr;
  std::size_t size_ = 0;
};

}  // namespace troupe
