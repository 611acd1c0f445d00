#include "communicators/reduction.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <type_traits>

#include <troupe/kernels/cast.hpp>

namespace troupe::shards {
namespace {

template <class T>
T combined(ReduceOp op, T a, T b) {
  if constexpr (std::is_floating_point_v<T>)
    if ((op == ReduceOp::kMin || op == ReduceOp::kMax) && std::isnan(a))
      return a;  // as it does from the other side
  switch (op) {
    case ReduceOp::kSum:
    case ReduceOp::kMean:
      return static_cast<T>(a + b);
    case ReduceOp::kProduct:
      return static_cast<T>(a * b);
    case ReduceOp::kMin:
      return a < b ? a : b;
    case ReduceOp::kMax:
      return a > b ? a : b;
  }
  return a;
}

template <class T, ReduceOp kOp>
void combine(void* out, const void* a, const void* b, std::size_t n) {
  // Whole numbers wrap around, which of signed ones would be undefined.
  using Wrapping =
      std::conditional_t<std::is_integral_v<T> && (kOp == ReduceOp::kSum || kOp == ReduceOp::kProduct),
                         std::uint64_t, T>;
  auto* to = static_cast<T*>(out);
  const auto* left = static_cast<const T*>(a);
  const auto* right = static_cast<const T*>(b);
  for (std::size_t i = 0; i < n; ++i)
    to[i] = static_cast<T>(
        combined<Wrapping>(kOp, static_cast<Wrapping>(left[i]), static_cast<Wrapping>(right[i])));
}

using Widen = void (*)(const std::uint16_t*, std::int64_t, float*);
using Narrow = void (*)(const float*, std::int64_t, std::uint16_t*);

template <Widen kWiden, Narrow kNarrow, ReduceOp kOp>
void combine_wide(void* out, const void* a, const void* b, std::size_t n) {
  constexpr std::size_t kBlock = 256;
  float left[kBlock];
  float right[kBlock];
  for (std::size_t i = 0; i < n; i += kBlock) {
    const auto count = static_cast<std::int64_t>(std::min(kBlock, n - i));
    kWiden(static_cast<const std::uint16_t*>(a) + i, count, left);
    kWiden(static_cast<const std::uint16_t*>(b) + i, count, right);
    combine<float, kOp>(left, left, right, static_cast<std::size_t>(count));
    kNarrow(left, count, static_cast<std::uint16_t*>(out) + i);
  }
}

template <ReduceOp kOp>
Combine of(DType dtype) {
  using namespace kernels;
  switch (dtype) {
    case DType::kFloat32:
      return combine<float, kOp>;
    case DType::kFloat64:
      return combine<double, kOp>;
    case DType::kFloat16:
      return combine_wide<float16_to_float32, float32_to_float16, kOp>;
    case DType::kBFloat16:
      return combine_wide<bfloat16_to_float32, float32_to_bfloat16, kOp>;
    case DType::kInt8:
      return combine<std::int8_t, kOp>;
    case DType::kInt16:
      return combine<std::int16_t, kOp>;
    case DType::kInt32:
      return combine<std::int32_t, kOp>;
    case DType::kInt64:
      return combine<std::int64_t, kOp>;
    case DType::kUInt8:
      return combine<std::uint8_t, kOp>;
    case DType::kUInt16:
      return combine<std::uint16_t, kOp>;
    case DType::kUInt32:
      return combine<std::uint32_t, kOp>;
    case DType::kUInt64:
      return combine<std::uint64_t, kOp>;
    case DType::kBool:
      return nullptr;
  }
  return nullptr;
}

Combine of(DType dtype, ReduceOp op) {
  switch (op) {
    case ReduceOp::kSum:
    case ReduceOp::kMean:
      return of<ReduceOp::kSum>(dtype);
    case ReduceOp::kProduct:
      return of<ReduceOp::kProduct>(dtype);
    case ReduceOp::kMin:
      return of<ReduceOp::kMin>(dtype);
    case ReduceOp::kMax:
      return of<ReduceOp::kMax>(dtype);
  }
  return nullptr;
}

bool is_floating(DType dtype) {
  return dtype == DType::kFloat32 || dtype == DType::kFloat64 || dtype == DType::kFloat16 ||
         dtype == DType::kBFloat16;
}

template <Widen kWiden, Narrow kNarrow>
void divide_wide(void* data, std::size_t n, float members) {
  constexpr std::size_t kBlock = 256;
  float wide[kBlock];
  for (std::size_t i = 0; i < n; i += kBlock) {
    const auto count = static_cast<std::int64_t>(std::min(kBlock, n - i));
    auto* at = static_cast<std::uint16_t*>(data) + i;
    kWiden(at, count, wide);
    for (std::int64_t k = 0; k < count; ++k) wide[k] /= members;
    kNarrow(wide, count, at);
  }
}

}  // namespace

Combine combine_of(DType dtype, ReduceOp op) {
  return op == ReduceOp::kMean && !is_floating(dtype) ? nullptr : of(dtype, op);
}

void divide(DType dtype, void* data, std::size_t n, int members) {
  using namespace kernels;
  if (dtype == DType::kFloat32) {
    for (std::size_t i = 0; i < n; ++i) static_cast<float*>(data)[i] /= static_cast<float>(members);
  } else if (dtype == DType::kFloat64) {
    for (std::size_t i = 0; i < n; ++i) static_cast<double*>(data)[i] /= members;
  } else if (dtype == DType::kFloat16) {
    divide_wide<float16_to_float32, float32_to_float16>(data, n, static_cast<float>(members));
  } else if (dtype == DType::kBFloat16) {
    divide_wide<bfloat16_to_float32, float32_to_bfloat16>(data, n, static_cast<float>(members));
  }
}

}  // namespace troupe::shards
