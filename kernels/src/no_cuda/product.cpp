// Built where there is no CUDA toolkit: a place on a GPU does not exist.
#include "gpu_product.hpp"

namespace troupe::kernels::gpu {
namespace {

class NoMultiplier final : public Multiplier {
 public:
  Launch multiply(Place, const Product&, const void*, const void*, void*, void*) override {
    return {"multiply", kBuiltWithoutCuda};
  }
  std::string missing() const override { return "this Troupe was built without CUDA"; }
};

}  // namespace

std::unique_ptr<Multiplier> make_multiplier(int, const char*) {
  return std::make_unique<NoMultiplier>();
}

}  // namespace troupe::kernels::gpu
