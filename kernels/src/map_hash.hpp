#pragma once

#include <cstdint>

#include "troupe/kernels/key_map.hpp"

#ifdef __CUDACC__
#define TROUPE_MAP_BOTH __host__ __device__ __forceinline__
#else
#define TROUPE_MAP_BOTH inline
#endif

namespace troupe::kernels {

/// A key's two buckets, which differ.
struct Homes {
  std::int64_t first;
  std::int64_t second;
};

/// The finalizer of splitmix64 (Steele, Lea, Flood 2014), whose bits all depend on all of the key's.
TROUPE_MAP_BOTH Homes homes_of(std::uint64_t key, std::int64_t buckets) {
  std::uint64_t h = key + 0x9E3779B97F4A7C15U;
  h = (h ^ (h >> 30)) * 0xBF58476D1CE4E5B9U;
  h = (h ^ (h >> 27)) * 0x94D049BB133111EBU;
  h ^= h >> 31;
  const std::uint64_t mask = static_cast<std::uint64_t>(buckets) - 1;
  const std::uint64_t first = h & mask;
  // Of the other half of the bits, as far as there are so many buckets.
  std::uint64_t second = (h >> 32 | h << 32) & mask;
  if (second == first) second ^= 1;
  return {static_cast<std::int64_t>(first), static_cast<std::int64_t>(second)};
}

/// Whether a new key goes to its first bucket, by how much room both have. Keys that are in their first are
/// found with one look; but where that runs full, the emptier one leaves room for more keys.
TROUPE_MAP_BOTH bool prefers_first(int free_first, int free_second) {
  constexpr int kRoomEnough = 6;
  return free_first >= kRoomEnough || free_first >= free_second;
}

}  // namespace troupe::kernels
