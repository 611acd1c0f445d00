#include "large_memory.hpp"

#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <mutex>
#include <new>
#include <unordered_map>
#include <vector>

namespace troupe {
namespace {

constexpr std::size_t kPage = 4096;
constexpr std::size_t kLargePage = std::size_t{2} << 20;
constexpr std::align_val_t kLineAlignment{64};
constexpr std::align_val_t kLargePageAlignment{kLargePage};
constexpr std::size_t kMostParts = kLargePage / kLargeBytes;

/// Begins at a large page, so that all whole ones in it can be such; the rest is in small pages.
std::byte* allocate_aligned(std::size_t bytes) {
  void* memory = ::operator new(bytes, kLargePageAlignment);
  ::madvise(memory, bytes / kLargePage * kLargePage, MADV_HUGEPAGE);  // a wish; refusal is fine
  return static_cast<std::byte*>(memory);
}

/// One large page, from the system and given back to it, past malloc, which would keep it.
std::byte* map_page() {
  constexpr std::size_t kMapped = 2 * kLargePage;
  void* const mapped = ::mmap(nullptr, kMapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapped == MAP_FAILED) throw std::bad_alloc();
  auto* const begin = static_cast<std::byte*>(mapped);
  const std::size_t before = -reinterpret_cast<std::uintptr_t>(begin) % kLargePage;
  if (before > 0) ::munmap(begin, before);
  ::munmap(begin + before + kLargePage, kMapped - before - kLargePage);
  ::madvise(begin + before, kLargePage, MADV_HUGEPAGE);
  return begin + before;
}

/// Blocks that are smaller than a large page and of which some fill one nearly: two of 1 MiB, four of 512
/// KiB.
class Parts {
 public:
  /// How many blocks of `bytes` share a large page; 0 if so much of it would be left over that they do not.
  static std::size_t in_a_page(std::size_t bytes) {
    const std::size_t count = kLargePage / part_bytes_for(bytes);
    return count >= 2 && count * bytes >= kLargePage / 8 * 7 ? count : 0;
  }

  std::byte* take(std::size_t count) {
    const std::lock_guard lock(mutex_);
    auto& free = free_[count];
    if (free.empty()) {
      free.reserve(parts_[count] + count);  // so that giving one back needs no memory
      std::byte* const page = map_page();
      used_[page] = 0;
      parts_[count] += count;
      for (std::size_t i = count; i > 0; --i) free.push_back(page + (i - 1) * part_bytes(count));
    }
    std::byte* const part = free.back();
    free.pop_back();
    ++used_[page_of(part)];
    return part;
  }

  void give(std::byte* part, std::size_t count) noexcept {
    const std::lock_guard lock(mutex_);
    auto& free = free_[count];
    free.push_back(part);
    std::byte* const page = page_of(part);
    const auto use = used_.find(page);
    if (--use->second > 0 || free.size() == count) return;  // one page without use is kept
    std::erase_if(free, [&](std::byte* other) { return page_of(other) == page; });
    used_.erase(use);
    parts_[count] -= count;
    ::munmap(page, kLargePage);
  }

 private:
  static std::size_t part_bytes(std::size_t count) { return kLargePage / count / kPage * kPage; }
  static std::size_t part_bytes_for(std::size_t bytes) { return (bytes + kPage - 1) / kPage * kPage; }
  static std::byte* page_of(std::byte* part) {
    return reinterpret_cast<std::byte*>(reinterpret_cast<std::uintptr_t>(part) & ~(kLargePage - 1));
  }

  std::mutex mutex_;
  std::array<std::vector<std::byte*>, kMostParts + 1> free_;  // by blocks in a page
  std::array<std::size_t, kMostParts + 1> parts_{};           // in use or free, likewise
  std::unordered_map<std::byte*, std::size_t> used_;          // parts in use of each page
};

/// As malloc's, it is the process's, and lives as long.
Parts& parts() {
  static auto* const instance = new Parts;
  return *instance;
}

/// An address sanitizer sees more when each block is its own.
std::size_t parts_in_a_page([[maybe_unused]] std::size_t bytes) {
#ifdef TROUPE_SANITIZER
  return 0;
#else
  return Parts::in_a_page(bytes);
#endif
}

}  // namespace

std::byte* allocate_large(std::size_t bytes) {
  if (const std::size_t count = parts_in_a_page(bytes); count > 0) return parts().take(count);
  if (bytes >= kLargePage) return allocate_aligned(bytes);
  return static_cast<std::byte*>(::operator new(bytes, kLineAlignment));
}

void free_large(std::byte* data, std::size_t bytes) noexcept {
  if (const std::size_t count = parts_in_a_page(bytes); count > 0) return parts().give(data, count);
  ::operator delete(data, bytes >= kLargePage ? kLargePageAlignment : kLineAlignment);
}

}  // namespace troupe
