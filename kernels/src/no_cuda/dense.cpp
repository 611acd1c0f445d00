// Built where there is no CUDA toolkit: a place on a GPU does not exist.
#include "gpu_dense.hpp"

namespace troupe::kernels::gpu {

Launch softmax_cross_entropy(Place, Element, const void*, const std::int64_t*, std::int64_t, std::int64_t,
                             float, float*, void*) {
  return {"softmax_cross_entropy", kBuiltWithoutCuda};
}
Launch layer_norm(Place, Element, const void*, std::int64_t, std::int64_t, const float*, const float*, float,
                  void*, float*, float*) {
  return {"layer_norm", kBuiltWithoutCuda};
}
std::size_t column_workspace(Place, std::int64_t) {
  return 0;
}
Launch layer_norm_backward(Place, Element, const void*, const void*, std::int64_t, std::int64_t, const float*,
                           const float*, const float*, void*, float*, float*, void*) {
  return {"layer_norm_backward", kBuiltWithoutCuda};
}
Launch add_bias(Place, Element, const void*, const float*, std::int64_t, std::int64_t, void*) {
  return {"add_bias", kBuiltWithoutCuda};
}
Launch column_sums(Place, Element, const void*, std::int64_t, std::int64_t, float*, void*) {
  return {"column_sums", kBuiltWithoutCuda};
}
Launch gelu(Place, Element, const void*, const float*, std::int64_t, std::int64_t, void*, GeluKind) {
  return {"gelu", kBuiltWithoutCuda};
}
Launch gelu_backward(Place, Element, const void*, const float*, const void*, std::int64_t, std::int64_t,
                     void*, GeluKind) {
  return {"gelu_backward", kBuiltWithoutCuda};
}

}  // namespace troupe::kernels::gpu
