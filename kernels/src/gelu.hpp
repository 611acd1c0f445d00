#pragma once

#include <cmath>

#ifdef __CUDACC__
#define TROUPE_GELU_BOTH __host__ __device__ __forceinline__
#else
#define TROUPE_GELU_BOTH inline
#endif

namespace troupe::kernels {

/// The normal distribution's function: Phi(u) = (1 + erf(u / sqrt(2))) / 2.
TROUPE_GELU_BOTH float normal_below(float u) {
  return 0.5F * (1.0F + std::erf(u * 0.70710678118654752F));
}

TROUPE_GELU_BOTH float gelu_of(float u) {
  return u * normal_below(u);
}

/// Its derivative: Phi(u) + u * phi(u).
TROUPE_GELU_BOTH float gelu_slope(float u) {
  return normal_below(u) + u * 0.39894228040143268F * std::exp(-0.5F * u * u);
}

}  // namespace troupe::kernels
