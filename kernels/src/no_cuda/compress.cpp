// Built where there is no CUDA toolkit: a place on a GPU does not exist.
#include "gpu_compress.hpp"

namespace troupe::kernels::gpu {

Launch quantize(Place, const float*, float*, std::int64_t, std::int64_t, std::int8_t*, float*) {
  return {"quantize", kBuiltWithoutCuda};
}
Launch dequantize(Place, const std::int8_t*, const float*, std::int64_t, std::int64_t, bool, float*) {
  return {"dequantize", kBuiltWithoutCuda};
}
std::size_t largest_workspace(std::int64_t) {
  return 0;
}
Launch select_largest(Place, const float*, float*, std::int64_t, std::int64_t, float*, std::uint32_t*,
                      void*) {
  return {"select_largest", kBuiltWithoutCuda};
}
Launch add_selected(Place, const float*, const std::uint32_t*, std::int64_t, float*) {
  return {"add_selected", kBuiltWithoutCuda};
}

}  // namespace troupe::kernels::gpu
