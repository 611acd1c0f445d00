#pragma once

#include <cstdint>

#include "troupe/kernels/cast.hpp"
#include "troupe/kernels/elementwise.hpp"
#include "troupe/kernels/place.hpp"

namespace troupe::kernels {

/// A row's elements as float32, read and written.
class HostRow {
 public:
  HostRow(Element element, void* base, std::int64_t first)
      : element_(element),
        at_(static_cast<char*>(base) + first * static_cast<std::int64_t>(size_of(element))) {}
  void read(std::int64_t n, float* out) const {
    switch (element_) {
      case Element::kFloat32:
        return scale(reinterpret_cast<const float*>(at_), n, 1.0F, out);
      case Element::kFloat16:
        return float16_to_float32(reinterpret_cast<const std::uint16_t*>(at_), n, out);
      case Element::kBFloat16:
        return bfloat16_to_float32(reinterpret_cast<const std::uint16_t*>(at_), n, out);
    }
  }
  void write(const float* from, std::int64_t n) const {
    switch (element_) {
      case Element::kFloat32:
        return scale(from, n, 1.0F, reinterpret_cast<float*>(at_));
      case Element::kFloat16:
        return float32_to_float16(from, n, reinterpret_cast<std::uint16_t*>(at_));
      case Element::kBFloat16:
        return float32_to_bfloat16(from, n, reinterpret_cast<std::uint16_t*>(at_));
    }
  }

 private:
  Element element_;
  char* at_;
};

}  // namespace troupe::kernels
