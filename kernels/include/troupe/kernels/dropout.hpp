#pragma once

#include <cstdint>

#include <troupe/kernels/place.hpp>

/// Dropout (Srivastava et al. 2014), on the host or on a GPU: elements become 0 with the probability `rate`,
/// and the others are divided by 1 - rate. Which ones follows from the seed and an element's number alone, so
/// that nothing is kept for the way back, which takes the same seed.
namespace troupe::kernels {

struct Dropout {
  float rate = 0;  ///< in [0, 1); 0: nothing is dropped
  std::uint32_t seed = 0;
};

/// out = x with elements dropped; also from out's gradients to x's. `out` may be x.
Launch drop(Place place, Element element, const void* x, std::int64_t n, Dropout dropout, void* out);

/// out[r, j] = residual[r, j] + dropped(x[r, j] + bias[j]); a null bias is zeros. `out` may be either.
Launch add_residual(Place place, Element element, const void* residual, const void* x, const float* bias,
                    std::int64_t rows, std::int64_t columns, Dropout dropout, void* out);

}  // namespace troupe::kernels
