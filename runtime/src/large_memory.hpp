#pragma once

#include <cstddef>

namespace troupe {

/// From so many bytes on, memory for buffers comes from here.
constexpr std::size_t kLargeBytes = std::size_t{256} << 10;

/// Host memory on the processor's large pages (2 MiB) where that wastes little: each byte of it is found with
/// fewer looks into page tables, by us and by the kernel, which gives tensors to sockets and to other
/// processes by pages. 64-byte aligned, contents undefined. Throws std::bad_alloc. Any thread. Precondition:
/// bytes >= kLargeBytes.
std::byte* allocate_large(std::size_t bytes);
/// Precondition: `data` came from allocate_large(bytes).
void free_large(std::byte* data, std::size_t bytes) noexcept;

}  // namespace troupe
