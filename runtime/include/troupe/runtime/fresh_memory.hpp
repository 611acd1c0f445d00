#pragma once

#include <cstddef>

#if defined(__SANITIZE_ADDRESS__)
#define TROUPE_FORBIDS_USE 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define TROUPE_FORBIDS_USE 1
#endif
#endif
#ifdef TROUPE_FORBIDS_USE
extern "C" void __asan_poison_memory_region(void const volatile* memory, std::size_t bytes);
extern "C" void __asan_unpoison_memory_region(void const volatile* memory, std::size_t bytes);
#endif

namespace troupe {

/// Whether memory that is otherwise kept for the next user goes back to the system each time: in builds with
/// a sanitizer, which sees that memory is used after its end only then. Asked by everything that keeps
/// memory.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
inline constexpr bool kFreshMemory = true;
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
inline constexpr bool kFreshMemory = true;
#else
inline constexpr bool kFreshMemory = false;
#endif
#else
inline constexpr bool kFreshMemory = false;
#endif

/// For memory that is kept in its place: nobody is to touch it until allow_use(). The address sanitizer sees
/// to it; elsewhere they do nothing.
inline void forbid_use([[maybe_unused]] const void* memory, [[maybe_unused]] std::size_t bytes) {
#ifdef TROUPE_FORBIDS_USE
  __asan_poison_memory_region(memory, bytes);
#endif
}
inline void allow_use([[maybe_unused]] const void* memory, [[maybe_unused]] std::size_t bytes) {
#ifdef TROUPE_FORBIDS_USE
  __asan_unpoison_memory_region(memory, bytes);
#endif
}

}  // namespace troupe
