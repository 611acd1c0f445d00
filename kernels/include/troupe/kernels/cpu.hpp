#pragma once

#include <string>

namespace troupe::kernels {

/// The instruction set that the vectorised kernels use on this CPU, as Highway names it: "AVX3" (AVX-512),
/// "AVX2", "SSE4", "SSSE3", "SCALAR". Chosen at the first call of a kernel, the same for all of them.
std::string simd_target();

}  // namespace troupe::kernels
