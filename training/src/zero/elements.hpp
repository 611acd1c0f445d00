#pragma once

#include <cstdint>

#include <troupe/kernels/place.hpp>
#include <troupe/runtime/tensor.hpp>

#include "zero/plan.hpp"

/// Flat tensors of float32, float16 and bfloat16 in host memory.
namespace troupe::training::zero {

kernels::Element element_of(DType dtype);

/// Zeros, of one dimension.
Tensor flat(DType dtype, std::int64_t n);

/// A part of a flat tensor, sharing its memory.
inline Tensor part(const Tensor& tensor, Range range) {
  return tensor.rows(range.at, range.at + range.n);
}

enum class Put : std::uint8_t { kReplace, kAdd };

/// to[i] = factor * from[i], or that added to it; both flat, of any of the three types. False if a number of
/// 16 bits, in `from` or `to`, is the type's largest, or not finite: it may have been too large. Of float32
/// nothing is said.
bool put(const Tensor& from, const Tensor& to, float factor, Put how);

/// The sum of squares, in double precision and in order; `fits` becomes false as put() says.
double squares(const Tensor& values, bool& fits);

}  // namespace troupe::training::zero
