#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>

#include "cuda/on_device.hpp"
#include "troupe/kernels/place.hpp"

/// What the kernels of this folder share.
namespace troupe::kernels::gpu {

constexpr int kWarp = 32;
constexpr int kBlock = 256;  // threads

inline cudaStream_t stream_of(const Place& place) {
  return static_cast<cudaStream_t>(place.stream());
}

/// After a launch.
inline Launch launched(const char* kernel) {
  return {kernel, static_cast<int>(cudaGetLastError())};
}

inline std::int64_t ceil_div(std::int64_t a, std::int64_t b) {
  return (a + b - 1) / b;
}

inline bool aligned(const void* pointer, std::size_t bytes) {
  return reinterpret_cast<std::uintptr_t>(pointer) % bytes == 0;
}

/// Lanes for a row whose lanes take `per_lane` elements each: a power of two, at most a warp.
inline int lanes_for(std::int64_t dim, int per_lane) {
  int lanes = 1;
  while (lanes < kWarp && lanes * per_lane < dim) lanes *= 2;
  return lanes;
}

/// Four elements, or one.
template <int width>
struct Floats {
  float v[width];
};

__device__ __forceinline__ float half_to_float(Element element, std::uint16_t bits) {
  return element == Element::kFloat16 ? __half2float(__ushort_as_half(bits))
                                      : __uint_as_float(static_cast<unsigned>(bits) << 16);
}

/// To the nearest, what is too large to the largest number; NaN stays.
__device__ __forceinline__ std::uint16_t float_to_half(Element element, float x) {
  if (element == Element::kFloat16) {
    if (!isnan(x)) x = fminf(fmaxf(x, -65504.0F), 65504.0F);
    return __half_as_ushort(__float2half_rn(x));
  }
  constexpr float kLargest = 3.3895313892515355e38F;  // of bfloat16
  if (!isnan(x)) x = fminf(fmaxf(x, -kLargest), kLargest);
  return __bfloat16_as_ushort(__float2bfloat16_rn(x));
}

/// `width` elements from number `at` on, which is a multiple of it.
template <int width>
__device__ __forceinline__ Floats<width> load(Element element, const void* base, std::int64_t at) {
  Floats<width> out;
  if (element == Element::kFloat32) {
    const auto* from = static_cast<const float*>(base) + at;
    if constexpr (width == 4) {
      const float4 four = *reinterpret_cast<const float4*>(from);
      out = {{four.x, four.y, four.z, four.w}};
    } else {
      out.v[0] = *from;
    }
  } else {
    const auto* from = static_cast<const std::uint16_t*>(base) + at;
    if constexpr (width == 4) {
      const ushort4 four = *reinterpret_cast<const ushort4*>(from);
      out = {{half_to_float(element, four.x), half_to_float(element, four.y), half_to_float(element, four.z),
              half_to_float(element, four.w)}};
    } else {
      out.v[0] = half_to_float(element, *from);
    }
  }
  return out;
}

template <int width>
__device__ __forceinline__ void store(Element element, void* base, std::int64_t at, const Floats<width>& x) {
  if (element == Element::kFloat32) {
    auto* to = static_cast<float*>(base) + at;
    if constexpr (width == 4)
      *reinterpret_cast<float4*>(to) = make_float4(x.v[0], x.v[1], x.v[2], x.v[3]);
    else
      *to = x.v[0];
  } else {
    auto* to = static_cast<std::uint16_t*>(base) + at;
    if constexpr (width == 4) {
      *reinterpret_cast<ushort4*>(to) =
          make_ushort4(float_to_half(element, x.v[0]), float_to_half(element, x.v[1]),
                       float_to_half(element, x.v[2]), float_to_half(element, x.v[3]));
    } else {
      *to = float_to_half(element, x.v[0]);
    }
  }
}

template <int width>
__device__ __forceinline__ Floats<width> load_floats(const float* base, std::int64_t at) {
  return load<width>(Element::kFloat32, base, at);
}

template <int width>
__device__ __forceinline__ void store_floats(float* base, std::int64_t at, const Floats<width>& x) {
  store<width>(Element::kFloat32, base, at, x);
}

/// The lanes of the group, of `lanes`, to which this thread belongs.
__device__ __forceinline__ unsigned group_mask(int lanes) {
  if (lanes == kWarp) return 0xFFFFFFFFU;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  return ((1U << lanes) - 1U) << (lane / lanes * lanes);
}

/// The sum over the lanes of a group, in each of them. The order is that of the lanes' numbers.
template <class T>
__device__ __forceinline__ T group_sum(T value, int lanes, unsigned mask) {
  for (int step = lanes / 2; step > 0; step /= 2) value += __shfl_xor_sync(mask, value, step, lanes);
  return value;
}

}  // namespace troupe::kernels::gpu
