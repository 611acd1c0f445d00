#include <troupe/runtime/buffer.hpp>

#include <cassert>
#include <cstring>
#include <new>

#include "large_memory.hpp"

namespace troupe {
namespace {

constexpr std::align_val_t kAlignment{64};

/// A block whose header lies in the 64 bytes before its data, so that a buffer is one allocation.
class HeapBlock final : public MemoryBlock {
 public:
  static MemoryBlock* make(std::size_t size) {
    static_assert(sizeof(HeapBlock) <= static_cast<std::size_t>(kAlignment));
    auto* memory =
        static_cast<std::byte*>(::operator new(static_cast<std::size_t>(kAlignment) + size, kAlignment));
    return new (memory) HeapBlock(memory + static_cast<std::size_t>(kAlignment), size);
  }

 private:
  HeapBlock(std::byte* data, std::size_t size) : MemoryBlock(data, size, Device{}) {}
  void recycle() override {
    this->~HeapBlock();
    ::operator delete(static_cast<void*>(this), kAlignment);
  }
};

/// A block whose data lies apart.
class LargeBlock final : public MemoryBlock {
 public:
  static MemoryBlock* make(std::size_t size) {
    std::byte* const data = allocate_large(size);
    try {
      return new LargeBlock(data, size);
    } catch (...) {
      free_large(data, size);
      throw;
    }
  }

 private:
  LargeBlock(std::byte* data, std::size_t size) : MemoryBlock(data, size, Device{}) {}
  void recycle() override {
    free_large(data(), capacity());
    delete this;
  }
};

class AdoptedBlock final : public MemoryBlock {
 public:
  AdoptedBlock(std::byte* data, std::size_t size, Device device, std::function<void()> release)
      : MemoryBlock(data, size, device), release_(std::move(release)) {}

 private:
  void recycle() override {
    if (release_) release_();
    delete this;
  }
  std::function<void()> release_;
};

}  // namespace

Buffer Buffer::allocate(std::size_t size) {
  return {size < kLargeBytes ? HeapBlock::make(size) : LargeBlock::make(size), size};
}

Buffer Buffer::copy_of(std::span<const std::byte> bytes) {
  Buffer buffer = allocate(bytes.size());
  if (!bytes.empty()) std::memcpy(buffer.data(), bytes.data(), bytes.size());
  return buffer;
}

Buffer Buffer::adopt(std::byte* data, std::size_t size, Device device, std::function<void()> release) {
  return {new AdoptedBlock(data, size, device, std::move(release)), size};
}

}  // namespace troupe
