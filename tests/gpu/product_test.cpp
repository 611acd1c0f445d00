// Matrix products, on the host and on a GPU, against sums in double precision.
#include <troupe/kernels/product.hpp>

#include <algorithm>

#include "matrix.hpp"
#include "places.hpp"

using namespace troupe::kernels;
using namespace troupe::test;

namespace {

/// What `product` makes of doubles.
Doubles expected_of(const Product& product, const Doubles& a, const Doubles& b, Doubles c,
                    const std::vector<float>& bias) {
  const auto at = [](std::int64_t row, std::int64_t column, std::int64_t columns) {
    return static_cast<std::size_t>(row * columns + column);
  };
  for (std::int64_t i = 0; i < product.m; ++i) {
    for (std::int64_t j = 0; j < product.n; ++j) {
      double sum = 0;
      for (std::int64_t l = 0; l < product.k; ++l)
        sum += a[product.transpose_a ? at(l, i, product.m) : at(i, l, product.k)] *
               b[product.transpose_b ? at(j, l, product.k) : at(l, j, product.n)];
      double& out = c[at(i, j, product.n)];
      out = double{product.alpha} * sum + (product.beta == 0 ? 0 : double{product.beta} * out);
      if (product.bias) out += double{bias[static_cast<std::size_t>(j)]};
    }
  }
  return c;
}

template <class Where>
void check(Where& at, const Products& products, void* workspace, Product product) {
  CAPTURE(static_cast<int>(product.element));
  CAPTURE(static_cast<int>(product.out_element));
  CAPTURE(product.m);
  CAPTURE(product.n);
  CAPTURE(product.k);
  CAPTURE(product.transpose_a);
  CAPTURE(product.transpose_b);
  const auto elements = [](std::int64_t rows, std::int64_t columns) {
    return static_cast<std::size_t>(rows * columns);
  };
  Matrix<Where> a(at, product.element, random_floats(elements(product.m, product.k), 21, -1, 1));
  Matrix<Where> b(at, product.element, random_floats(elements(product.k, product.n), 22, -1, 1));
  Matrix<Where> c(at, product.out_element, random_floats(elements(product.m, product.n), 23, -1, 1));
  const auto bias = random_floats(static_cast<std::size_t>(product.n), 24);
  if (product.bias) product.bias = at.put(bias);
  const Doubles expected = expected_of(product, a.doubles, b.doubles, c.doubles, bias);
  at.finish(products.multiply(at.place(), product, a.base(), b.base(), c.base(), workspace));
  CHECK(all_close(c.get(), expected, 4 * tolerance_of(product.out_element)));
}

}  // namespace

TEST_CASE_TEMPLATE("products are those of double precision, transposed or not, with a bias or on top", Where,
                   OnHost, OnGpu) {
  Where at;
  if (!at.here()) return;
  const Products products(at.place());
  void* const workspace =
      at.place().on_gpu() ? at.put(std::vector<std::byte>(Products::kWorkspaceBytes)) : nullptr;
  const std::int64_t sizes[][3] = {{1, 1, 1},    {2, 3, 5},     {8, 8, 8},     {16, 31, 33},  {17, 64, 15},
                                   {63, 65, 64}, {128, 130, 7}, {1, 257, 129}, {300, 1, 100}, {64, 96, 256}};
  const float some_bias = 0;
  for (const Element element : kElements) {
    for (const Element out : {Element::kFloat32, element}) {
      int odd = 0;
      for (const auto& [m, n, k] : sizes) {
        Product product;
        product.element = element;
        product.out_element = out;
        product.m = m;
        product.n = n;
        product.k = k;
        for (const bool transpose_a : {false, true}) {
          for (const bool transpose_b : {false, true}) {
            product.transpose_a = transpose_a;
            product.transpose_b = transpose_b;
            product.bias = ++odd % 2 == 0 ? &some_bias : nullptr;
            product.alpha = odd % 3 == 0 ? 0.5F : 1.0F;
            product.beta = odd % 5 == 0 ? 2.0F : 0.0F;
            check(at, products, workspace, product);
          }
        }
      }
    }
  }
}

TEST_CASE("a product on a GPU where cuBLASLt is not says so") {
  OnGpu at;
  if (!at.here()) return;
  const Products products(at.place(), "libcublasLt-that-is-not-there.so");
  Product product;
  product.m = product.n = product.k = 1;
  float* const one = at.put(std::vector<float>{1});
  const Launch launch = products.multiply(at.place(), product, one, one, one, nullptr);
  CHECK(launch.error == Products::kNoLibrary);
  CHECK(products.missing().find("that-is-not-there") != std::string::npos);
}
