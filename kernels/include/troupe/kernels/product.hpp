#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include <troupe/kernels/place.hpp>

/// Matrix products on the host, over OpenBLAS, or on a GPU, over cuBLASLt, which is loaded when it is needed.
namespace troupe::kernels {

namespace gpu {
class Multiplier;
}

/// c = alpha * op(a) * op(b) + beta * c + bias, op(x) being x or its transpose: c [m, n], op(a) [m, k], op(b)
/// [k, n]; all row-major without gaps, sizes above 0. Sums are of float32. c does not overlap the others.
struct Product {
  Element element = Element::kFloat32;      ///< of a and b
  Element out_element = Element::kFloat32;  ///< of c; if it is not float32, that of a and b
  bool transpose_a = false;                 ///< a is stored [k, m]
  bool transpose_b = false;                 ///< b is stored [n, k]
  std::int64_t m = 0;
  std::int64_t n = 0;
  std::int64_t k = 0;
  float alpha = 1;
  float beta = 0;               ///< 0: c is not read
  const float* bias = nullptr;  ///< [n], added to each row; null: none
  bool round_factors = false;   ///< on a GPU, float32 factors may be rounded to 10 bits (TF32)
};

/// What products need besides: on a GPU cuBLASLt's handle, and what was found out about products of each
/// size. Made once for each GPU, or for the host. Any thread; those of a GPU are given one after the other.
class Products {
 public:
  /// Of memory that multiply() needs on a GPU, 256-byte aligned.
  static constexpr std::size_t kWorkspaceBytes = std::size_t{32} << 20;

  /// `library`: a path, or a name that the dynamic linker finds.
  explicit Products(Place place, const char* library = "libcublasLt.so.13");
  ~Products();
  Products(const Products&) = delete;
  Products& operator=(const Products&) = delete;

  /// At the host, or at any stream of this GPU. On a GPU results do not depend on what else runs, but may on
  /// the kind of GPU; 16 bits that are too small for a number become infinite. The error is kNoLibrary if
  /// cuBLASLt cannot be loaded.
  Launch multiply(Place place, const Product& product, const void* a, const void* b, void* c,
                  void* workspace) const;

  static constexpr int kNoLibrary = 303;
  /// Why cuBLASLt is not there; empty: it is, or is not needed.
  std::string missing() const;

 private:
  std::unique_ptr<gpu::Multiplier> multiplier_;
};

}  // namespace troupe::kernels
