#pragma once

#include <cstddef>
#include <new>

namespace troupe::rpc {

/// Memory for objects of one type that come and go with every call: freed blocks are kept, by the thread that
/// freed them, for the next object. Threads that only free keep `kMost` blocks and give the rest back.
template <class T>
class Recycled {
 public:
  static void* take() {
    Cache& cache = cache_;
    if (!cache.first) return ::operator new(kBytes);
    Block* const block = cache.first;
    cache.first = block->next;
    --cache.count;
    return block;
  }
  static void give(void* memory) {
    Cache& cache = cache_;
    if (cache.closed || cache.count >= kMost) return ::operator delete(memory);
    cache.first = new (memory) Block{cache.first};
    ++cache.count;
  }

 private:
  static constexpr std::size_t kBytes = sizeof(T);
  static constexpr std::size_t kMost = 1024;
  struct Block {
    Block* next;
  };
  struct Cache {
    Block* first = nullptr;
    std::size_t count = 0;
    bool closed = false;  // the thread ends
    ~Cache() {
      closed = true;
      while (first) {
        Block* const block = first;
        first = block->next;
        ::operator delete(block);
      }
    }
  };
  static inline thread_local Cache cache_;
};

}  // namespace troupe::rpc
