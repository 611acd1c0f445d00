#include <troupe/runtime/memory_pool.hpp>

#include <array>
#include <bit>
#include <mutex>
#include <new>
#include <vector>

#include <troupe/runtime/fresh_memory.hpp>
#include <troupe/runtime/process.hpp>

#include "large_memory.hpp"

namespace troupe {
namespace {

constexpr std::size_t kAlignment = 64;  // of data; the block's header takes as much before it
constexpr std::size_t kSmallest = 128;  // bytes of the first class
constexpr std::size_t kClasses = 2 * (64 - 7);

/// The class of a size: 0: 128 bytes, 1: 192, 2: 256, 3: 384 ...
std::size_t class_of(std::size_t size) {
  if (size <= kSmallest) return 0;
  const int exponent = std::bit_width(size - 1) - 1;  // 2^exponent < size <= 2^(exponent + 1)
  const std::size_t midpoint = std::size_t{3} << (exponent - 1);
  return 2 * static_cast<std::size_t>(exponent - 7) + (size <= midpoint ? 1 : 2);
}

std::size_t class_bytes(std::size_t index) {
  const std::size_t power = kSmallest << (index / 2);
  return index % 2 == 0 ? power : power + power / 2;
}

}  // namespace

/// What the pool and its buffers share: the free blocks. Outlives the pool while buffers are out.
class MemoryPool::Shared : public std::enable_shared_from_this<MemoryPool::Shared> {
 public:
  explicit Shared(std::size_t keep_bytes) : keep_bytes_(keep_bytes) {}

  MemoryBlock* take(std::size_t size);
  /// Frees what is kept and keeps nothing from now on.
  void close();
  Stats stats() const {
    const std::lock_guard lock(mutex_);
    return stats_;
  }

 private:
  class Block;
  struct SizeClass {
    std::vector<Block*> free;
    std::uint64_t last_use = 0;
  };

  const HomeProcess process_;  // in a child of it the mutex may be held for ever

  void put_back(Block* block);
  Block* evict_from_coldest();

  mutable std::mutex mutex_;
  std::array<SizeClass, kClasses> classes_;
  Stats stats_;
  std::size_t keep_bytes_;
};

/// Header and data in one allocation if they are small, as in Buffer's own blocks. `home_` is set while in
/// use only, so that kept blocks do not keep the pool's shared part alive.
class MemoryPool::Shared::Block final : public MemoryBlock {
 public:
  static Block* make(std::size_t capacity) {
    static_assert(sizeof(Block) <= kAlignment);
    const bool apart = capacity >= kLargeBytes;
    const std::size_t here = apart ? kAlignment : kAlignment + capacity;
    auto* memory = static_cast<std::byte*>(::operator new (here, std::align_val_t{kAlignment}));
    if (!apart) return new (memory) Block(memory + kAlignment, capacity);
    try {
      return new (memory) Block(allocate_large(capacity), capacity);
    } catch (...) {
      ::operator delete (static_cast<void*>(memory), std::align_val_t{kAlignment});
      throw;
    }
  }
  void free() {
    if (capacity() >= kLargeBytes) free_large(data(), capacity());
    this->~Block();
    ::operator delete (static_cast<void*>(this), std::align_val_t{kAlignment});
  }
  void lend(std::shared_ptr<Shared> home) {
    home_ = std::move(home);
    revive();
  }

 private:
  Block(std::byte* data, std::size_t capacity) : MemoryBlock(data, capacity, Device{}) {}
  ~Block() override = default;
  void recycle() override {
    const std::shared_ptr<Shared> home = std::move(home_);
    home->put_back(this);
  }
  std::shared_ptr<Shared> home_;
};

MemoryBlock* MemoryPool::Shared::take(std::size_t size) {
  const std::size_t index = class_of(size);
  const std::size_t capacity = class_bytes(index);
  Block* block = nullptr;
  {
    const std::lock_guard lock(mutex_);
    SizeClass& group = classes_[index];
    group.last_use = ++stats_.allocations;
    stats_.bytes_in_use += capacity;
    if (!group.free.empty()) {
      block = group.free.back();
      group.free.pop_back();
      stats_.bytes_kept -= capacity;
    } else {
      ++stats_.misses;
    }
  }
  if (!block) {
    try {
      block = Block::make(capacity);
    } catch (const std::bad_alloc&) {
      const std::lock_guard lock(mutex_);
      stats_.bytes_in_use -= capacity;
      throw;
    }
  }
  block->lend(shared_from_this());
  return block;
}

void MemoryPool::Shared::put_back(Block* block) {
  if (process_.left()) return;
  const std::size_t capacity = block->capacity();
  std::vector<Block*> surplus;
  {
    const std::lock_guard lock(mutex_);
    stats_.bytes_in_use -= capacity;
    if (kFreshMemory || capacity > keep_bytes_) {
      surplus.push_back(block);
    } else {
      while (stats_.bytes_kept + capacity > keep_bytes_) surplus.push_back(evict_from_coldest());
      classes_[class_of(capacity)].free.push_back(block);
      stats_.bytes_kept += capacity;
    }
  }
  for (Block* each : surplus) each->free();
}

// Sizes that a program no longer uses must not keep out those that it uses now.
MemoryPool::Shared::Block* MemoryPool::Shared::evict_from_coldest() {
  SizeClass* coldest = nullptr;
  for (SizeClass& group : classes_) {
    if (!group.free.empty() && (!coldest || group.last_use < coldest->last_use)) coldest = &group;
  }
  Block* block = coldest->free.back();
  coldest->free.pop_back();
  stats_.bytes_kept -= block->capacity();
  return block;
}

void MemoryPool::Shared::close() {
  std::vector<Block*> all;
  {
    const std::lock_guard lock(mutex_);
    keep_bytes_ = 0;
    for (SizeClass& group : classes_) {
      all.insert(all.end(), group.free.begin(), group.free.end());
      group.free.clear();
    }
    stats_.bytes_kept = 0;
  }
  for (Block* each : all) each->free();
}

MemoryPool::MemoryPool(std::size_t keep_bytes) : shared_(std::make_shared<Shared>(keep_bytes)) {}
MemoryPool::~MemoryPool() {
  shared_->close();
}
Buffer MemoryPool::allocate(std::size_t size) {
  if (size > (std::size_t{1} << 62)) throw std::bad_alloc();
  return {shared_->take(size), size};
}
MemoryPool::Stats MemoryPool::stats() const {
  return shared_->stats();
}

}  // namespace troupe
