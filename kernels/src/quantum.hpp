#pragma once

#include <cmath>
#include <cstdint>

#ifdef __CUDACC__
#define TROUPE_BOTH __host__ __device__ __forceinline__
#else
#define TROUPE_BOTH inline
#endif

/// One number of eight bits, the same on the host and on a GPU.
namespace troupe::kernels {

inline constexpr float kSteps = 127;

/// What a block's numbers are divided by: 0 where all are 0, or so small that the quotient is no number.
TROUPE_BOTH float inverse_of(float scale) {
  const float inverse = 1 / scale;
  return scale > 0 && inverse < 3.4028235e38F ? inverse : 0;
}

TROUPE_BOTH std::int8_t quantum(float x, float inverse) {
  return static_cast<std::int8_t>(fminf(fmaxf(rintf(x * inverse), -kSteps), kSteps));
}

}  // namespace troupe::kernels

#undef TROUPE_BOTH
