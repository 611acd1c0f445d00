// Built where there is no CUDA toolkit.
#include <troupe/runtime/gpu.hpp>

#include "gpu/driver.hpp"

namespace troupe {
namespace {

Error without_cuda() {
  return {Code::kUnimplemented, "this Troupe was built without CUDA: no GPU can be used"};
}

}  // namespace

Result<std::vector<GpuInfo>> list_gpus() {
  return without_cuda();
}

Result<Gpu> Gpu::open(std::int32_t) {
  return without_cuda();
}

}  // namespace troupe
