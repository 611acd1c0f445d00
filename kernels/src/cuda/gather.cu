// Rows to batches. A group of lanes, 16 bytes each, takes some rows at a time: their loads are under way
// together.
#include "cuda/device.cuh"
#include "gpu_kernels.hpp"

namespace troupe::kernels::gpu {
namespace {

constexpr int kRowsAtOnce = 4;

template <int width>
__global__ void __launch_bounds__(kBlock)
    gather_kernel(Element element, const void* __restrict__ base, std::int64_t stride,
                  const std::uint64_t* __restrict__ indices, std::int64_t count, std::int64_t dim, int lanes,
                  float* __restrict__ out) {
  const std::int64_t thread = std::int64_t{blockIdx.x} * kBlock + threadIdx.x;
  const std::int64_t first = thread / lanes * kRowsAtOnce;
  const int lane = static_cast<int>(thread % lanes);
  if (first >= count) return;
  const int rows = static_cast<int>(min(static_cast<std::int64_t>(kRowsAtOnce), count - first));
  std::uint64_t index[kRowsAtOnce];
#pragma unroll
  for (int r = 0; r < kRowsAtOnce; ++r) index[r] = r < rows ? indices[first + r] : kNoRow;
  for (std::int64_t at = std::int64_t{lane} * width; at < dim; at += std::int64_t{lanes} * width) {
    Floats<width> row[kRowsAtOnce];
#pragma unroll
    for (int r = 0; r < kRowsAtOnce; ++r) {
      if (index[r] == kNoRow)
        row[r] = Floats<width>{};
      else
        row[r] = load<width>(element, base, static_cast<std::int64_t>(index[r]) * stride + at);
    }
#pragma unroll
    for (int r = 0; r < kRowsAtOnce; ++r)
      if (r < rows) store_floats<width>(out, (first + r) * dim + at, row[r]);
  }
}

template <int width>
__global__ void __launch_bounds__(kBlock)
    pooled_kernel(Element element, const void* __restrict__ base, std::int64_t stride,
                  const std::uint64_t* __restrict__ indices, const std::int64_t* __restrict__ offsets,
                  std::int64_t bags, std::int64_t dim, Pooling pooling, int lanes, float* __restrict__ out) {
  const std::int64_t thread = std::int64_t{blockIdx.x} * kBlock + threadIdx.x;
  const std::int64_t bag = thread / lanes;
  const int lane = static_cast<int>(thread % lanes);
  if (bag >= bags) return;
  const std::int64_t begin = offsets[bag];
  const std::int64_t end = offsets[bag + 1];
  const float scale =
      pooling == Pooling::kMean && end - begin > 1 ? 1.0F / static_cast<float>(end - begin) : 1.0F;
  for (std::int64_t at = std::int64_t{lane} * width; at < dim; at += std::int64_t{lanes} * width) {
    Floats<width> sum{};
    for (std::int64_t i = begin; i < end; i += kRowsAtOnce) {
      Floats<width> row[kRowsAtOnce];
#pragma unroll
      for (int r = 0; r < kRowsAtOnce; ++r) {
        if (i + r < end)
          row[r] = load<width>(element, base, static_cast<std::int64_t>(indices[i + r]) * stride + at);
        else
          row[r] = Floats<width>{};
      }
#pragma unroll
      for (int r = 0; r < kRowsAtOnce; ++r)
#pragma unroll
        for (int k = 0; k < width; ++k) sum.v[k] += row[r].v[k];
    }
#pragma unroll
    for (int k = 0; k < width; ++k) sum.v[k] *= scale;
    store_floats<width>(out, bag * dim + at, sum);
  }
}

/// Whether rows can be read, and the batch written, four elements at a time.
bool in_fours(Element element, const void* base, std::int64_t stride, std::int64_t dim, const float* out) {
  return dim % 4 == 0 && stride % 4 == 0 && aligned(base, 4 * size_of(element)) && aligned(out, 16);
}

}  // namespace

Launch gather_rows(Place place, Element element, const void* base, std::int64_t stride,
                   const std::uint64_t* indices, std::int64_t count, std::int64_t dim, float* out) {
  if (count == 0 || dim == 0) return {};
  const OnDevice here(place);
  const int width = in_fours(element, base, stride, dim, out) ? 4 : 1;
  const int lanes = lanes_for(dim, width);
  const auto blocks = static_cast<unsigned>(ceil_div(ceil_div(count, kRowsAtOnce) * lanes, kBlock));
  if (width == 4)
    gather_kernel<4>
        <<<blocks, kBlock, 0, stream_of(place)>>>(element, base, stride, indices, count, dim, lanes, out);
  else
    gather_kernel<1>
        <<<blocks, kBlock, 0, stream_of(place)>>>(element, base, stride, indices, count, dim, lanes, out);
  return launched("gather_rows");
}

Launch gather_pooled(Place place, Element element, const void* base, std::int64_t stride,
                     const std::uint64_t* indices, const std::int64_t* offsets, std::int64_t bags,
                     std::int64_t dim, Pooling pooling, float* out) {
  if (bags == 0 || dim == 0) return {};
  const OnDevice here(place);
  const int width = in_fours(element, base, stride, dim, out) ? 4 : 1;
  const int lanes = lanes_for(dim, width);
  const auto blocks = static_cast<unsigned>(ceil_div(bags * lanes, kBlock));
  if (width == 4) {
    pooled_kernel<4><<<blocks, kBlock, 0, stream_of(place)>>>(element, base, stride, indices, offsets, bags,
                                                              dim, pooling, lanes, out);
  } else {
    pooled_kernel<1><<<blocks, kBlock, 0, stream_of(place)>>>(element, base, stride, indices, offsets, bags,
                                                              dim, pooling, lanes, out);
  }
  return launched("gather_pooled");
}

}  // namespace troupe::kernels::gpu
