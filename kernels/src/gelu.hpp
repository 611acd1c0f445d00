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

/// GPT-2's approximation: u times the logistic function of twice sqrt(2 / pi) * (u + 0.044715 u^3).
TROUPE_GELU_BOTH float gelu_tanh_share(float u) {
  return 1.0F / (1.0F + std::exp(-1.5957691216057308F * (u + 0.044715F * u * u * u)));
}

TROUPE_GELU_BOTH float gelu_tanh_of(float u) {
  return u * gelu_tanh_share(u);
}

TROUPE_GELU_BOTH float gelu_tanh_slope(float u) {
  const float share = gelu_tanh_share(u);
  return share + u * share * (1.0F - share) * 1.5957691216057308F * (1.0F + 0.134145F * u * u);
}

}  // namespace troupe::kernels
