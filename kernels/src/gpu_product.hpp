#pragma once

#include <memory>

#include "troupe/kernels/product.hpp"

/// The GPU's side of product.hpp.
namespace troupe::kernels::gpu {

class Multiplier {
 public:
  virtual ~Multiplier() = default;
  virtual Launch multiply(Place place, const Product& product, const void* a, const void* b, void* c,
                          void* workspace) = 0;
  virtual std::string missing() const = 0;
};

std::unique_ptr<Multiplier> make_multiplier(int device, const char* library);

}  // namespace troupe::kernels::gpu
