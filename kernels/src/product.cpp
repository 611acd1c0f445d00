// Matrix products: to the GPU's library, or OpenBLAS in float32.
#include "troupe/kernels/product.hpp"

#include <algorithm>
#include <cassert>
#include <tuple>
#include <vector>

#include "gpu_product.hpp"
#include "host_row.hpp"
#include "troupe/kernels/blas.hpp"

namespace troupe::kernels {
namespace {

/// A matrix as float32: itself, or read into `kept`.
const float* as_floats(Element element, const void* matrix, std::int64_t n, std::vector<float>& kept) {
  if (element == Element::kFloat32) return static_cast<const float*>(matrix);
  kept.resize(static_cast<std::size_t>(n));
  HostRow(element, const_cast<void*>(matrix), 0).read(n, kept.data());
  return kept.data();
}

void multiply_on_host(const Product& product, const void* a, const void* b, void* c) {
  const auto [m, n, k] = std::tuple(product.m, product.n, product.k);
  std::vector<float> a_kept;
  std::vector<float> b_kept;
  std::vector<float> c_kept;
  const float* const left = as_floats(product.element, a, m * k, a_kept);
  const float* const right = as_floats(product.element, b, k * n, b_kept);
  const HostRow stored(product.out_element, c, 0);
  auto* out = static_cast<float*>(c);
  if (product.out_element != Element::kFloat32) {
    c_kept.resize(static_cast<std::size_t>(m * n));
    if (product.beta != 0) stored.read(m * n, c_kept.data());
    out = c_kept.data();
  }
  // A bias is what the product is added to, if there is nothing else: one pass over the result less.
  const bool begins_with_bias = product.bias && product.beta == 0;
  if (begins_with_bias)
    for (std::int64_t i = 0; i < m; ++i) std::copy_n(product.bias, n, out + i * n);
  gemm(product.transpose_a, product.transpose_b, m, n, k, product.alpha, left, product.transpose_a ? m : k,
       right, product.transpose_b ? k : n, begins_with_bias ? 1 : product.beta, out, n);
  if (product.bias && !begins_with_bias)
    for (std::int64_t i = 0; i < m; ++i) axpy(n, 1, product.bias, out + i * n);
  if (product.out_element != Element::kFloat32) stored.write(out, m * n);
}

}  // namespace

Products::Products(Place place, const char* library)
    : multiplier_(place.on_gpu() ? gpu::make_multiplier(place.device(), library) : nullptr) {}

Products::~Products() = default;

std::string Products::missing() const {
  return multiplier_ ? multiplier_->missing() : "";
}

Launch Products::multiply(Place place, const Product& product, const void* a, const void* b, void* c,
                          void* workspace) const {
  assert(product.m > 0 && product.n > 0 && product.k > 0 && place.on_gpu() == (multiplier_ != nullptr));
  assert(product.out_element == Element::kFloat32 || product.out_element == product.element);
  if (multiplier_) return multiplier_->multiply(place, product, a, b, c, workspace);
  multiply_on_host(product, a, b, c);
  return {};
}

}  // namespace troupe::kernels
