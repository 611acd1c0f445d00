// Attention with a warp for a row, for elements and widths of any kind: each lane has some of the row's
// elements.
#include "cuda/device.cuh"
#include "dropped.hpp"
#include "gpu_attention.hpp"

namespace troupe::kernels::gpu {
namespace {

constexpr int kWarps = kBlock / kWarp;
constexpr int kMostEach = static_cast<int>(Attention::kMostWidth) / kWarp;

struct Lanes {
  float v[kMostEach];
};

__device__ __forceinline__ Lanes load_row(const Attention& shape, const void* base, std::int64_t first) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  Lanes row;
#pragma unroll
  for (int e = 0; e < kMostEach; ++e) {
    const int j = lane + e * kWarp;
    row.v[e] = j < shape.width ? load<1>(shape.element, base, first + j).v[0] : 0.0F;
  }
  return row;
}

__device__ __forceinline__ void store_row(const Attention& shape, void* base, std::int64_t first,
                                          const Lanes& row) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
#pragma unroll
  for (int e = 0; e < kMostEach; ++e) {
    const int j = lane + e * kWarp;
    if (j < shape.width) store<1>(shape.element, base, first + j, Floats<1>{{row.v[e]}});
  }
}

/// In each lane.
__device__ __forceinline__ float dot(const Lanes& a, const Lanes& b) {
  float sum = 0;
#pragma unroll
  for (int e = 0; e < kMostEach; ++e) sum += a.v[e] * b.v[e];
  return group_sum(sum, kWarp, 0xFFFFFFFFU);
}

/// The row that this warp has: position t of head h of sequence s; false: none.
struct Place3 {
  std::int64_t s, h, t;
};
__device__ __forceinline__ bool find_place(const Attention& shape, Place3& place) {
  const std::int64_t at = std::int64_t{blockIdx.x} * kWarps + threadIdx.x / kWarp;
  place.t = at % shape.length;
  place.h = at / shape.length % shape.heads;
  place.s = at / shape.length / shape.heads;
  return place.s < shape.sequences;
}
__device__ __forceinline__ std::int64_t first_of(const Attention& shape, const Place3& place, std::int64_t t,
                                                 std::int64_t stride) {
  return (place.s * shape.length + t) * stride + place.h * shape.width;
}
__device__ __forceinline__ std::int64_t number_of(const Attention& shape, const Place3& place,
                                                  std::int64_t t) {
  return (place.s * shape.heads + place.h) * shape.length + t;
}

/// What the weight of position t for position u is multiplied with.
__device__ __forceinline__ float dropped(const Attention& shape, const Dropper& dropper, const Place3& place,
                                         std::int64_t t, std::int64_t u) {
  return dropper.any() ? dropper.of(static_cast<std::uint64_t>(number_of(shape, place, t) * shape.length + u))
                       : 1.0F;
}

__global__ void __launch_bounds__(kBlock)
    attention_kernel(Attention shape, AttentionParts parts, Dropper dropper, void* out,
                     float* __restrict__ log_sums) {
  Place3 place;
  if (!find_place(shape, place)) return;
  const Lanes q = load_row(shape, parts.queries, first_of(shape, place, place.t, shape.stride));
  Lanes sum{};
  float most = -INFINITY;
  float weights = 0;
  const std::int64_t seen = shape.causal ? place.t + 1 : shape.length;
  for (std::int64_t u = 0; u < seen; ++u) {
    const std::int64_t first = first_of(shape, place, u, shape.stride);
    const float score = shape.scale * dot(q, load_row(shape, parts.keys, first));
    const Lanes v = load_row(shape, parts.values, first);
    const float larger = fmaxf(most, score);
    const float shrinks = expf(most - larger);
    const float weight = expf(score - larger);
    most = larger;
    weights = weights * shrinks + weight;
    const float used = weight * dropped(shape, dropper, place, place.t, u);
#pragma unroll
    for (int e = 0; e < kMostEach; ++e) sum.v[e] = sum.v[e] * shrinks + used * v.v[e];
  }
#pragma unroll
  for (int e = 0; e < kMostEach; ++e) sum.v[e] /= weights;
  store_row(shape, out, first_of(shape, place, place.t, shape.out_stride), sum);
  if (threadIdx.x % kWarp == 0) log_sums[number_of(shape, place, place.t)] = most + logf(weights);
}

/// along = out . its gradients, for each row.
__global__ void __launch_bounds__(kBlock) along_kernel(Attention shape, AttentionParts parts) {
  Place3 place;
  if (!find_place(shape, place)) return;
  const std::int64_t first = first_of(shape, place, place.t, shape.out_stride);
  const float along = dot(load_row(shape, parts.out, first), load_row(shape, parts.out_gradients, first));
  if (threadIdx.x % kWarp == 0) parts.along[number_of(shape, place, place.t)] = along;
}

__global__ void __launch_bounds__(kBlock)
    query_gradients_kernel(Attention shape, AttentionParts parts, Dropper dropper) {
  Place3 place;
  if (!find_place(shape, place)) return;
  const std::int64_t mine = first_of(shape, place, place.t, shape.stride);
  const Lanes q = load_row(shape, parts.queries, mine);
  const Lanes given = load_row(shape, parts.out_gradients, first_of(shape, place, place.t, shape.out_stride));
  const float log_sum = parts.log_sums[number_of(shape, place, place.t)];
  const float along = parts.along[number_of(shape, place, place.t)];
  Lanes sum{};
  const std::int64_t seen = shape.causal ? place.t + 1 : shape.length;
  for (std::int64_t u = 0; u < seen; ++u) {
    const std::int64_t first = first_of(shape, place, u, shape.stride);
    const Lanes k = load_row(shape, parts.keys, first);
    const float weight = expf(shape.scale * dot(q, k) - log_sum);
    const float reaches =
        dot(given, load_row(shape, parts.values, first)) * dropped(shape, dropper, place, place.t, u);
    const float slope = shape.scale * weight * (reaches - along);
#pragma unroll
    for (int e = 0; e < kMostEach; ++e) sum.v[e] += slope * k.v[e];
  }
  store_row(shape, parts.query_gradients, mine, sum);
}

__global__ void __launch_bounds__(kBlock)
    key_gradients_kernel(Attention shape, AttentionParts parts, Dropper dropper) {
  Place3 place;
  if (!find_place(shape, place)) return;
  const std::int64_t mine = first_of(shape, place, place.t, shape.stride);
  const Lanes k = load_row(shape, parts.keys, mine);
  const Lanes v = load_row(shape, parts.values, mine);
  Lanes key_sum{};
  Lanes value_sum{};
  for (std::int64_t t = shape.causal ? place.t : 0; t < shape.length; ++t) {
    const Lanes q = load_row(shape, parts.queries, first_of(shape, place, t, shape.stride));
    const Lanes given = load_row(shape, parts.out_gradients, first_of(shape, place, t, shape.out_stride));
    const float weight = expf(shape.scale * dot(q, k) - parts.log_sums[number_of(shape, place, t)]);
    const float kept = dropped(shape, dropper, place, t, place.t);
    const float slope =
        shape.scale * weight * (dot(given, v) * kept - parts.along[number_of(shape, place, t)]);
#pragma unroll
    for (int e = 0; e < kMostEach; ++e) {
      value_sum.v[e] += weight * kept * given.v[e];
      key_sum.v[e] += slope * q.v[e];
    }
  }
  store_row(shape, parts.key_gradients, mine, key_sum);
  store_row(shape, parts.value_gradients, mine, value_sum);
}

unsigned blocks_for(const Attention& shape) {
  return static_cast<unsigned>(ceil_div(shape.sequences * shape.heads * shape.length, kWarps));
}

bool nothing_in(const Attention& shape) {
  return shape.sequences == 0 || shape.heads == 0 || shape.length == 0 || shape.width == 0;
}

constexpr Launch kTooWide{"attention: its heads are too wide", static_cast<int>(cudaErrorInvalidValue)};

}  // namespace

Launch attention(Place place, const Attention& shape, const AttentionParts& parts, void* out,
                 float* log_sums) {
  if (nothing_in(shape)) return {};
  if (shape.width > Attention::kMostWidth) return kTooWide;
  const OnDevice here(place);
  if (fit_for_tensor_cores(shape, parts, out))
    return attention_on_tensor_cores(place, shape, parts, out, log_sums);
  attention_kernel<<<blocks_for(shape), kBlock, 0, stream_of(place)>>>(shape, parts, Dropper(shape.dropout),
                                                                       out, log_sums);
  return launched("attention");
}

Launch attention_backward(Place place, const Attention& shape, const AttentionParts& parts) {
  if (nothing_in(shape)) return {};
  if (shape.width > Attention::kMostWidth) return kTooWide;
  const OnDevice here(place);
  const cudaStream_t stream = stream_of(place);
  along_kernel<<<blocks_for(shape), kBlock, 0, stream>>>(shape, parts);
  if (fit_for_tensor_cores(shape, parts, parts.out))
    return attention_backward_on_tensor_cores(place, shape, parts);
  const Dropper dropper(shape.dropout);
  query_gradients_kernel<<<blocks_for(shape), kBlock, 0, stream>>>(shape, parts, dropper);
  key_gradients_kernel<<<blocks_for(shape), kBlock, 0, stream>>>(shape, parts, dropper);
  return launched("attention_backward");
}

}  // namespace troupe::kernels::gpu
