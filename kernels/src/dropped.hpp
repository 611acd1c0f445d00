#pragma once

#include <cstdint>

#include "troupe/kernels/dropout.hpp"

#ifdef __CUDACC__
#define TROUPE_DROPPED_BOTH __host__ __device__ __forceinline__
#else
#define TROUPE_DROPPED_BOTH inline
#endif

namespace troupe::kernels {

/// What an element is multiplied with: 0, or 1 / (1 - rate).
struct Dropper {
  explicit Dropper(const Dropout& dropout)
      : seed(dropout.seed),
        below(static_cast<std::uint32_t>(static_cast<double>(dropout.rate) * 4294967296.0)),
        kept(1.0F / (1.0F - dropout.rate)) {}

  TROUPE_DROPPED_BOTH bool any() const { return below != 0; }
  /// Of the element of that number: a mix of its bits with the seed's, after Wellons' "lowbias32".
  TROUPE_DROPPED_BOTH float of(std::uint64_t number) const {
    std::uint32_t x = static_cast<std::uint32_t>(number) * 0x9e3779b1U + seed;
    x ^= static_cast<std::uint32_t>(number >> 32) * 0x85ebca6bU;
    x = (x ^ (x >> 16)) * 0x7feb352dU;
    x = (x ^ (x >> 15)) * 0x846ca68bU;
    return (x ^ (x >> 16)) < below ? 0.0F : kept;
  }

  std::uint32_t seed;
  std::uint32_t below;
  float kept;
};

}  // namespace troupe::kernels
