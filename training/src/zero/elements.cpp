#include "zero/elements.hpp"

#include <algorithm>
#include <cassert>
#include <cstring>

#include <troupe/kernels/vector.hpp>

namespace troupe::training::zero {
namespace {

constexpr std::int64_t kPiece = 4096;

/// Numbers of 16 bits from this on, without their sign, are the type's largest or not finite.
std::uint16_t limit_of(DType dtype) {
  return dtype == DType::kFloat16 ? 0x7bff : 0x7f7f;
}

bool all_fit(DType dtype, const std::byte* data, std::int64_t n) {
  if (dtype == DType::kFloat32) return true;
  const std::uint16_t limit = limit_of(dtype);
  const auto* bits = reinterpret_cast<const std::uint16_t*>(data);
  std::uint16_t most = 0;
  for (std::int64_t i = 0; i < n; ++i) most = std::max<std::uint16_t>(most, bits[i] & 0x7fffU);
  return most < limit;
}

void convert(DType from_type, const std::byte* from, DType to_type, std::byte* to, std::int64_t n) {
  if (from_type == to_type) {
    std::memcpy(to, from, static_cast<std::size_t>(n) * size_of(to_type));
    return;
  }
  [[maybe_unused]] const kernels::Launch done =
      kernels::cast(kernels::Place::host(), element_of(from_type), from, element_of(to_type), to, n);
  assert(done.ok());
}

}  // namespace

kernels::Element element_of(DType dtype) {
  switch (dtype) {
    case DType::kFloat16:
      return kernels::Element::kFloat16;
    case DType::kBFloat16:
      return kernels::Element::kBFloat16;
    default:
      assert(dtype == DType::kFloat32);
      return kernels::Element::kFloat32;
  }
}

Tensor flat(DType dtype, std::int64_t n) {
  return Tensor::zeros(dtype, Shape{n});
}

bool put(const Tensor& from, const Tensor& to, float factor, Put how) {
  const std::int64_t n = to.elements();
  assert(from.elements() == n);
  const std::size_t from_width = size_of(from.dtype());
  const std::size_t to_width = size_of(to.dtype());
  if (how == Put::kReplace && factor == 1.0F && n > 0) {
    const bool fits = from.dtype() == to.dtype() || all_fit(from.dtype(), from.data(), n);
    convert(from.dtype(), from.data(), to.dtype(), to.data(), n);
    return all_fit(to.dtype(), to.data(), n) && fits;
  }
  alignas(64) float values[kPiece];
  alignas(64) float there[kPiece];
  bool fits = true;
  for (std::int64_t i = 0; i < n; i += kPiece) {
    const std::int64_t count = std::min(kPiece, n - i);
    std::byte* const at = to.data() + static_cast<std::size_t>(i) * to_width;
    const std::byte* const read = from.data() + static_cast<std::size_t>(i) * from_width;
    fits = all_fit(from.dtype(), read, count) && fits;  // the factor may make small what was too large
    convert(from.dtype(), read, DType::kFloat32, reinterpret_cast<std::byte*>(values), count);
    if (how == Put::kAdd) {
      convert(to.dtype(), at, DType::kFloat32, reinterpret_cast<std::byte*>(there), count);
      for (std::int64_t k = 0; k < count; ++k) values[k] = there[k] + factor * values[k];
    } else {
      for (std::int64_t k = 0; k < count; ++k) values[k] *= factor;
    }
    convert(DType::kFloat32, reinterpret_cast<const std::byte*>(values), to.dtype(), at, count);
    fits = all_fit(to.dtype(), at, count) && fits;
  }
  return fits;
}

double squares(const Tensor& values, bool& fits) {
  const std::int64_t n = values.elements();
  const std::size_t width = size_of(values.dtype());
  fits = all_fit(values.dtype(), values.data(), n) && fits;
  alignas(64) float piece[kPiece];
  double sum = 0;
  for (std::int64_t i = 0; i < n; i += kPiece) {
    const std::int64_t count = std::min(kPiece, n - i);
    convert(values.dtype(), values.data() + static_cast<std::size_t>(i) * width, DType::kFloat32,
            reinterpret_cast<std::byte*>(piece), count);
    for (std::int64_t k = 0; k < count; ++k) sum += double{piece[k]} * double{piece[k]};
  }
  return sum;
}

}  // namespace troupe::training::zero
