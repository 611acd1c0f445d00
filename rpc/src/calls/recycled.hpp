#pragma once

#include <cstddef>
#include <new>

#include <troupe/runtime/fresh_memory.hpp>

namespace troupe::rpc {

/// Memory for objects of one type that come and go with every call: freed blocks are kept, by the thread that
/// freed them, for the next object; none where kFreshMemory says so. Threads that only free keep `kMost`
/// blocks and give the rest back.
template <class T>
class Recycled {
 public:
  static void* take() {
    if constexpr (kFreshMemory) return ::operator new(kBytes);
    Cache& cache = cache_;
    if (!cache.first) return ::operator new(kBytes);
    Block* const block = cache.first;
    cache.first = block->next;
    --cache.count;
    return block;
  }
  static void give(void* memory) {
    if constexpr (kFreshMemory) return ::operator delete(memory);
    Cache& cache = cache_;
    if (cache.count >= cache.most) return give_seldom(memory);
    cache.first = new (memory) Block{cache.first};
    ++cache.count;
  }

 private:
  static constexpr std::size_t kBytes = sizeof(T);
  static constexpr std::size_t kMost = 1024;
  struct Block {
    Block* next;
  };
  /// Without a destructor: else each use would ask first whether the thread has it already.
  struct Cache {
    Block* first = nullptr;
    std::size_t count = 0;
    std::size_t most = 0;  // 0: the thread's first block, or the thread ends
    bool closed = false;   // it ends
  };
  struct Closer {
    Closer() { cache_.most = kMost; }
    ~Closer() {
      Cache& cache = cache_;
      cache.closed = true;
      cache.most = cache.count = 0;
      while (cache.first) {
        Block* const block = cache.first;
        cache.first = block->next;
        ::operator delete(block);
      }
    }
  };
  static void give_seldom(void* memory) {
    if (cache_.most > 0 || cache_.closed) return ::operator delete(memory);
    static const thread_local Closer closer;
    give(memory);
  }
  static inline constinit thread_local Cache cache_;
};

}  // namespace troupe::rpc
