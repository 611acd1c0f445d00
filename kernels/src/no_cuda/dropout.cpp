// Built where there is no CUDA toolkit: a place on a GPU does not exist.
#include "gpu_dropout.hpp"

namespace troupe::kernels::gpu {

Launch drop(Place, Element, const void*, std::int64_t, Dropout, void*) {
  return {"drop", kBuiltWithoutCuda};
}
Launch add_residual(Place, Element, const void*, const void*, const float*, std::int64_t, std::int64_t,
                    Dropout, void*) {
  return {"add_residual", kBuiltWithoutCuda};
}

}  // namespace troupe::kernels::gpu
