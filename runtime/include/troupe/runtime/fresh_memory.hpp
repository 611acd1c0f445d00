#pragma once

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

}  // namespace troupe
