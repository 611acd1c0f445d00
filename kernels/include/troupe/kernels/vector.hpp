#pragma once

#include <cstddef>
#include <cstdint>

#include <troupe/kernels/place.hpp>

/// Long vectors, on the host or on a GPU.
namespace troupe::kernels {

/// to[i] = from[i] in the other type, to the nearest, ties to even; what is too large for float16 or bfloat16
/// becomes its largest number of the same sign, and NaN stays NaN. They do not overlap.
Launch cast(Place place, Element from_element, const void* from, Element to_element, void* to,
            std::int64_t n);

/// Bytes that squared_norm() needs on a GPU, 8-byte aligned.
inline constexpr std::size_t kNormWorkspaceBytes = 8 * 2048;

/// *out = the sum of x[i]^2, added up in double precision, in an order that depends on n alone: the same bits
/// each time. `out` lies where x lies; `workspace` is kNormWorkspaceBytes of it, on the host null.
Launch squared_norm(Place place, const float* x, std::int64_t n, double* out, void* workspace);

/// x[i] *= max_norm / norm where norm = sqrt(*squared) is more than that; nothing else. An infinite or NaN
/// norm leaves x alone. `squared` lies where x lies, so that nobody waits for it on the host. max_norm > 0.
Launch clip_to_norm(Place place, float* x, std::int64_t n, const double* squared, float max_norm);

}  // namespace troupe::kernels
