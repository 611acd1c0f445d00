// Built where there is no CUDA toolkit: a place on a GPU does not exist.
#include "gpu_attention.hpp"

namespace troupe::kernels::gpu {

Launch attention(Place, const Attention&, const AttentionParts&, void*, float*) {
  return {"attention", kBuiltWithoutCuda};
}
Launch attention_backward(Place, const Attention&, const AttentionParts&) {
  return {"attention_backward", kBuiltWithoutCuda};
}

}  // namespace troupe::kernels::gpu
