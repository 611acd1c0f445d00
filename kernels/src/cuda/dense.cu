// Layers of dense models. A block takes a row; sums over rows go by pieces of rows, whose sums are summed.
#include "cuda/device.cuh"
#include "gelu.hpp"
#include "gpu_dense.hpp"

namespace troupe::kernels::gpu {
namespace {

constexpr int kWarps = kBlock / kWarp;
// Pieces of rows whose column sums are taken apart.
constexpr int kPieces = 128;

/// The sum over a block, in each thread. `shared` has a place for each warp, and one block_sum() at a time.
__device__ float block_sum(float value, float* shared) {
  value = group_sum(value, kWarp, 0xFFFFFFFFU);
  __syncthreads();
  if (threadIdx.x % kWarp == 0) shared[threadIdx.x / kWarp] = value;
  __syncthreads();
  float sum = 0;
#pragma unroll
  for (int w = 0; w < kWarps; ++w) sum += shared[w];
  return sum;
}

__device__ float block_max(float value, float* shared) {
  for (int step = kWarp / 2; step > 0; step /= 2)
    value = fmaxf(value, __shfl_xor_sync(0xFFFFFFFFU, value, step));
  __syncthreads();
  if (threadIdx.x % kWarp == 0) shared[threadIdx.x / kWarp] = value;
  __syncthreads();
  float most = shared[0];
#pragma unroll
  for (int w = 1; w < kWarps; ++w) most = fmaxf(most, shared[w]);
  return most;
}

/// Calls visit(column, elements) for this thread's elements of a row that begins at `first`.
template <int width, class Visit>
__device__ __forceinline__ void for_row(std::int64_t columns, const Visit& visit) {
  for (std::int64_t at = std::int64_t{threadIdx.x} * width; at < columns; at += std::int64_t{kBlock} * width)
    visit(at);
}

template <int width>
__global__ void __launch_bounds__(kBlock)
    cross_entropy_kernel(Element element, const void* logits, const std::int64_t* __restrict__ labels,
                         std::int64_t columns, float scale, float* __restrict__ losses, void* gradients) {
  __shared__ float shared[kWarps];
  const std::int64_t row = blockIdx.x;
  const std::int64_t first = row * columns;
  const std::int64_t label = labels[row];
  // Maximum and sum in one pass: the sum so far is scaled when the maximum grows.
  float most = -INFINITY;
  float sum = 0;
  for_row<width>(columns, [&](std::int64_t at) {
    const auto x = load<width>(element, logits, first + at);
    float larger = most;
#pragma unroll
    for (int k = 0; k < width; ++k) larger = fmaxf(larger, x.v[k]);
    if (larger == -INFINITY) return;
    sum *= expf(most - larger);
    most = larger;
#pragma unroll
    for (int k = 0; k < width; ++k) sum += expf(x.v[k] - most);
  });
  const float all_most = block_max(most, shared);
  const float all_sum = block_sum(most == -INFINITY ? 0.0F : sum * expf(most - all_most), shared);
  const float log_sum = all_most + logf(all_sum);
  if (threadIdx.x == 0)
    losses[row] = label < 0 ? 0.0F : log_sum - load<1>(element, logits, first + label).v[0];
  if (!gradients) return;
  __syncthreads();  // the label's logit may be overwritten now
  for_row<width>(columns, [&](std::int64_t at) {
    auto x = load<width>(element, logits, first + at);
#pragma unroll
    for (int k = 0; k < width; ++k)
      x.v[k] = label < 0 ? 0.0F : scale * (expf(x.v[k] - log_sum) - (at + k == label ? 1.0F : 0.0F));
    store<width>(element, gradients, first + at, x);
  });
}

template <int width>
__global__ void __launch_bounds__(kBlock)
    layer_norm_kernel(Element element, const void* x, std::int64_t columns, const float* __restrict__ gain,
                      const float* __restrict__ shift, float epsilon, void* out, float* __restrict__ means,
                      float* __restrict__ deviations) {
  __shared__ float shared[kWarps];
  const std::int64_t row = blockIdx.x;
  const std::int64_t first = row * columns;
  const auto count = static_cast<float>(columns);
  float sum = 0;
  for_row<width>(columns, [&](std::int64_t at) {
    for (const float each : load<width>(element, x, first + at).v) sum += each;
  });
  const float mean = block_sum(sum, shared) / count;
  float squares = 0;
  for_row<width>(columns, [&](std::int64_t at) {
    for (const float each : load<width>(element, x, first + at).v) squares += (each - mean) * (each - mean);
  });
  const float deviation = rsqrtf(block_sum(squares, shared) / count + epsilon);
  if (threadIdx.x == 0) {
    means[row] = mean;
    deviations[row] = deviation;
  }
  for_row<width>(columns, [&](std::int64_t at) {
    auto values = load<width>(element, x, first + at);
    const auto by = load_floats<width>(gain, at);
    const auto plus = load_floats<width>(shift, at);
#pragma unroll
    for (int k = 0; k < width; ++k) values.v[k] = (values.v[k] - mean) * deviation * by.v[k] + plus.v[k];
    store<width>(element, out, first + at, values);
  });
}

template <int width>
__global__ void __launch_bounds__(kBlock)
    layer_norm_backward_kernel(Element element, const void* __restrict__ x, const void* out_gradients,
                               std::int64_t columns, const float* __restrict__ gain,
                               const float* __restrict__ means, const float* __restrict__ deviations,
                               void* x_gradients) {
  __shared__ float shared[kWarps];
  const std::int64_t first = std::int64_t{blockIdx.x} * columns;
  const float mean = means[blockIdx.x];
  const float deviation = deviations[blockIdx.x];
  const auto count = static_cast<float>(columns);
  float sum = 0;
  float along = 0;
  for_row<width>(columns, [&](std::int64_t at) {
    const auto values = load<width>(element, x, first + at);
    const auto gradients = load<width>(element, out_gradients, first + at);
    const auto by = load_floats<width>(gain, at);
#pragma unroll
    for (int k = 0; k < width; ++k) {
      const float g = gradients.v[k] * by.v[k];
      sum += g;
      along += g * (values.v[k] - mean) * deviation;
    }
  });
  sum = block_sum(sum, shared) / count;
  along = block_sum(along, shared) / count;
  for_row<width>(columns, [&](std::int64_t at) {
    const auto values = load<width>(element, x, first + at);
    auto gradients = load<width>(element, out_gradients, first + at);
    const auto by = load_floats<width>(gain, at);
#pragma unroll
    for (int k = 0; k < width; ++k) {
      const float normal = (values.v[k] - mean) * deviation;
      gradients.v[k] = deviation * (gradients.v[k] * by.v[k] - sum - normal * along);
    }
    store<width>(element, x_gradients, first + at, gradients);
  });
}

/// parts[piece, j] = the sum over a piece's rows of gradients[r, j], and, with x, behind all of them that of
/// gradients[r, j] * (x[r, j] - mean_r) * deviation_r.
__global__ void __launch_bounds__(kBlock)
    column_parts_kernel(Element element, const void* __restrict__ gradients, const void* __restrict__ x,
                        const float* __restrict__ means, const float* __restrict__ deviations,
                        std::int64_t rows, std::int64_t columns, float* __restrict__ parts) {
  const std::int64_t j = std::int64_t{blockIdx.x} * kBlock + threadIdx.x;
  if (j >= columns) return;
  const std::int64_t piece = (rows + kPieces - 1) / kPieces;
  const std::int64_t begin = std::int64_t{blockIdx.y} * piece;
  const std::int64_t end = min(begin + piece, rows);
  float sum = 0;
  float along = 0;
#pragma unroll 4
  for (std::int64_t r = begin; r < end; ++r) {
    const float g = load<1>(element, gradients, r * columns + j).v[0];
    sum += g;
    if (x) along += g * (load<1>(element, x, r * columns + j).v[0] - means[r]) * deviations[r];
  }
  parts[std::int64_t{blockIdx.y} * columns + j] = sum;
  if (x) parts[(std::int64_t{kPieces} + blockIdx.y) * columns + j] = along;
}

__global__ void __launch_bounds__(kBlock)
    column_total_kernel(const float* __restrict__ parts, std::int64_t columns, float* __restrict__ out) {
  const std::int64_t j = std::int64_t{blockIdx.x} * kBlock + threadIdx.x;
  if (j >= columns) return;
  float sum = 0;
#pragma unroll 8
  for (int p = 0; p < kPieces; ++p) sum += parts[std::int64_t{p} * columns + j];
  out[j] = sum;
}

struct Plus {
  static __device__ float of(float u, float) { return u; }
};
struct Gelu {
  static __device__ float of(float u, float) { return gelu_of(u); }
};
struct GeluBackward {
  static __device__ float of(float u, float gradient) { return gradient * gelu_slope(u); }
};
struct GeluTanh {
  static __device__ float of(float u, float) { return gelu_tanh_of(u); }
};
struct GeluTanhBackward {
  static __device__ float of(float u, float gradient) { return gradient * gelu_tanh_slope(u); }
};

/// out = Function::of(x + bias, gradient), element by element.
template <class Function, int width>
__global__ void __launch_bounds__(kBlock)
    elements_kernel(Element element, const void* x, const float* __restrict__ bias, const void* gradients,
                    std::int64_t columns, std::int64_t n, void* out) {
  const std::int64_t at = (std::int64_t{blockIdx.x} * kBlock + threadIdx.x) * width;
  if (at >= n) return;
  auto values = load<width>(element, x, at);
  const auto plus = bias ? load_floats<width>(bias, at % columns) : Floats<width>{};
  const auto given = gradients ? load<width>(element, gradients, at) : Floats<width>{};
#pragma unroll
  for (int k = 0; k < width; ++k) values.v[k] = Function::of(values.v[k] + plus.v[k], given.v[k]);
  store<width>(element, out, at, values);
}

/// Whether rows can be taken four elements at a time; null pointers do not mind.
bool in_fours(Element element, std::int64_t columns, const void* a, const void* b, const float* c,
              const float* d) {
  const std::size_t bytes = 4 * size_of(element);
  return columns % 4 == 0 && aligned(a, bytes) && aligned(b, bytes) && aligned(c, 16) && aligned(d, 16);
}

template <class Function>
Launch elements(const char* name, Place place, Element element, const void* x, const float* bias,
                const void* gradients, std::int64_t rows, std::int64_t columns, void* out) {
  const std::int64_t n = rows * columns;
  if (n == 0) return {};
  const OnDevice here(place);
  const bool fours =
      in_fours(element, columns, x, out, bias, nullptr) && aligned(gradients, 4 * size_of(element));
  const auto blocks = static_cast<unsigned>(ceil_div(ceil_div(n, fours ? 4 : 1), kBlock));
  if (fours)
    elements_kernel<Function, 4>
        <<<blocks, kBlock, 0, stream_of(place)>>>(element, x, bias, gradients, columns, n, out);
  else
    elements_kernel<Function, 1>
        <<<blocks, kBlock, 0, stream_of(place)>>>(element, x, bias, gradients, columns, n, out);
  return launched(name);
}

dim3 column_blocks(std::int64_t columns, int pieces) {
  return {static_cast<unsigned>(ceil_div(columns, kBlock)), static_cast<unsigned>(pieces), 1};
}

}  // namespace

Launch softmax_cross_entropy(Place place, Element element, const void* logits, const std::int64_t* labels,
                             std::int64_t rows, std::int64_t columns, float scale, float* losses,
                             void* gradients) {
  if (rows == 0) return {};
  const OnDevice here(place);
  const auto blocks = static_cast<unsigned>(rows);
  if (in_fours(element, columns, logits, gradients, nullptr, nullptr)) {
    cross_entropy_kernel<4>
        <<<blocks, kBlock, 0, stream_of(place)>>>(element, logits, labels, columns, scale, losses, gradients);
  } else {
    cross_entropy_kernel<1>
        <<<blocks, kBlock, 0, stream_of(place)>>>(element, logits, labels, columns, scale, losses, gradients);
  }
  return launched("softmax_cross_entropy");
}

Launch layer_norm(Place place, Element element, const void* x, std::int64_t rows, std::int64_t columns,
                  const float* gain, const float* shift, float epsilon, void* out, float* means,
                  float* deviations) {
  if (rows == 0 || columns == 0) return {};
  const OnDevice here(place);
  const auto blocks = static_cast<unsigned>(rows);
  if (in_fours(element, columns, x, out, gain, shift)) {
    layer_norm_kernel<4><<<blocks, kBlock, 0, stream_of(place)>>>(element, x, columns, gain, shift, epsilon,
                                                                  out, means, deviations);
  } else {
    layer_norm_kernel<1><<<blocks, kBlock, 0, stream_of(place)>>>(element, x, columns, gain, shift, epsilon,
                                                                  out, means, deviations);
  }
  return launched("layer_norm");
}

std::size_t column_workspace(Place, std::int64_t columns) {
  return static_cast<std::size_t>(columns) * 2 * kPieces * sizeof(float);
}

Launch layer_norm_backward(Place place, Element element, const void* x, const void* out_gradients,
                           std::int64_t rows, std::int64_t columns, const float* gain, const float* means,
                           const float* deviations, void* x_gradients, float* gain_gradients,
                           float* shift_gradients, void* workspace) {
  if (columns == 0) return {};
  const OnDevice here(place);
  const cudaStream_t stream = stream_of(place);
  auto* const parts = static_cast<float*>(workspace);
  // The parameters first: the gradients that they are made of may be overwritten.
  column_parts_kernel<<<column_blocks(columns, kPieces), kBlock, 0, stream>>>(
      element, out_gradients, x, means, deviations, rows, columns, parts);
  column_total_kernel<<<column_blocks(columns, 1), kBlock, 0, stream>>>(parts, columns, shift_gradients);
  column_total_kernel<<<column_blocks(columns, 1), kBlock, 0, stream>>>(parts + kPieces * columns, columns,
                                                                        gain_gradients);
  if (Launch first = launched("layer_norm_backward"); !first.ok()) return first;
  if (rows == 0) return {};
  const auto blocks = static_cast<unsigned>(rows);
  if (in_fours(element, columns, x, out_gradients, gain, nullptr) &&
      aligned(x_gradients, 4 * size_of(element))) {
    layer_norm_backward_kernel<4><<<blocks, kBlock, 0, stream>>>(element, x, out_gradients, columns, gain,
                                                                 means, deviations, x_gradients);
  } else {
    layer_norm_backward_kernel<1><<<blocks, kBlock, 0, stream>>>(element, x, out_gradients, columns, gain,
                                                                 means, deviations, x_gradients);
  }
  return launched("layer_norm_backward");
}

Launch add_bias(Place place, Element element, const void* x, const float* bias, std::int64_t rows,
                std::int64_t columns, void* out) {
  return elements<Plus>("add_bias", place, element, x, bias, nullptr, rows, columns, out);
}

Launch column_sums(Place place, Element element, const void* x, std::int64_t rows, std::int64_t columns,
                   float* out, void* workspace) {
  if (columns == 0) return {};
  const OnDevice here(place);
  const cudaStream_t stream = stream_of(place);
  auto* const parts = static_cast<float*>(workspace);
  column_parts_kernel<<<column_blocks(columns, kPieces), kBlock, 0, stream>>>(element, x, nullptr, nullptr,
                                                                              nullptr, rows, columns, parts);
  column_total_kernel<<<column_blocks(columns, 1), kBlock, 0, stream>>>(parts, columns, out);
  return launched("column_sums");
}

Launch gelu(Place place, Element element, const void* x, const float* bias, std::int64_t rows,
            std::int64_t columns, void* out, GeluKind kind) {
  if (kind == GeluKind::kTanh)
    return elements<GeluTanh>("gelu", place, element, x, bias, nullptr, rows, columns, out);
  return elements<Gelu>("gelu", place, element, x, bias, nullptr, rows, columns, out);
}

Launch gelu_backward(Place place, Element element, const void* x, const float* bias,
                     const void* out_gradients, std::int64_t rows, std::int64_t columns, void* x_gradients,
                     GeluKind kind) {
  if (kind == GeluKind::kTanh)
    return elements<GeluTanhBackward>("gelu_backward", place, element, x, bias, out_gradients, rows, columns,
                                      x_gradients);
  return elements<GeluBackward>("gelu_backward", place, element, x, bias, out_gradients, rows, columns,
                                x_gradients);
}

}  // namespace troupe::kernels::gpu
