#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include <troupe/runtime/gpu.hpp>

namespace troupe {

/// What this process has had of a GPU, by our own means.
struct GpuUsage {
  std::size_t device_bytes = 0;                                     ///< slabs of pools, in use or kept
  std::size_t pinned_bytes = 0;                                     ///< likewise of the host's memory
  std::vector<std::pair<std::string, std::uint64_t>> kernels = {};  ///< how many were launched, by name
};
/// Any thread; looks at each stream.
GpuUsage usage_of(const Gpu& gpu);

}  // namespace troupe
