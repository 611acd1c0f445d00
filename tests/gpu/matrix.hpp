#pragma once

#include <cstdint>
#include <vector>

#include <troupe/kernels/cast.hpp>
#include <troupe/kernels/place.hpp>

#include "places.hpp"

namespace troupe::test {

using Doubles = std::vector<double>;

inline const kernels::Element kElements[] = {kernels::Element::kFloat32, kernels::Element::kFloat16,
                                             kernels::Element::kBFloat16};

inline double tolerance_of(kernels::Element element) {
  return element == kernels::Element::kFloat32   ? 5e-6
         : element == kernels::Element::kFloat16 ? 1.0 / 1024
                                                 : 1.0 / 128;
}

/// A matrix as it is stored, and as doubles.
template <class Where>
class Matrix {
 public:
  /// Begins as many elements behind an aligned address as `shift` says.
  Matrix(Where& at, kernels::Element element, std::vector<float> values, std::size_t shift = 0)
      : at_(at), element_(element), n_(values.size()) {
    const auto n = static_cast<std::int64_t>(n_);
    if (element == kernels::Element::kFloat32) {
      base_ = at.put(values, shift);
    } else {
      std::vector<std::uint16_t> halves(n_);
      const bool half = element == kernels::Element::kFloat16;
      (half ? kernels::float32_to_float16 : kernels::float32_to_bfloat16)(values.data(), n, halves.data());
      (half ? kernels::float16_to_float32 : kernels::bfloat16_to_float32)(halves.data(), n, values.data());
      base_ = at.put(halves, shift);
    }
    doubles.assign(values.begin(), values.end());
  }
  void* base() const { return base_; }
  std::vector<float> get() const {
    if (element_ == kernels::Element::kFloat32) return at_.get(static_cast<const float*>(base_), n_);
    const auto halves = at_.get(static_cast<const std::uint16_t*>(base_), n_);
    std::vector<float> floats(n_);
    (element_ == kernels::Element::kFloat16 ? kernels::float16_to_float32 : kernels::bfloat16_to_float32)(
        halves.data(), static_cast<std::int64_t>(n_), floats.data());
    return floats;
  }

  Doubles doubles;

 private:
  Where& at_;
  kernels::Element element_;
  std::size_t n_;
  void* base_ = nullptr;
};

}  // namespace troupe::test
