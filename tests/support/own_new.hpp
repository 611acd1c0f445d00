#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdlib>
#include <new>

/// Replaces operator new of the whole program, for one source file of a program that counts allocations or
/// has them fail: it defines before_allocation(), which every allocation asks first.
namespace troupe::test {

/// May throw std::bad_alloc. Any thread.
void before_allocation(std::size_t size);

inline void* allocate(std::size_t size, std::size_t alignment) {
  before_allocation(size);
  void* memory = nullptr;
  if (posix_memalign(&memory, std::max(alignment, sizeof(void*)), std::max<std::size_t>(size, 1)) != 0)
    throw std::bad_alloc();
  return memory;
}

}  // namespace troupe::test

// NOLINTBEGIN(misc-definitions-in-headers): one file of a program includes this
void* operator new(std::size_t size) {
  return troupe::test::allocate(size, __STDCPP_DEFAULT_NEW_ALIGNMENT__);
}
void* operator new(std::size_t size, std::align_val_t alignment) {
  return troupe::test::allocate(size, static_cast<std::size_t>(alignment));
}
void operator delete(void* memory) noexcept {
  std::free(memory);
}
void operator delete(void* memory, std::size_t) noexcept {
  std::free(memory);
}
void operator delete(void* memory, std::align_val_t) noexcept {
  std::free(memory);
}
void operator delete(void* memory, std::size_t, std::align_val_t) noexcept {
  std::free(memory);
}
// NOLINTEND(misc-definitions-in-headers)
