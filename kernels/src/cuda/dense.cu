// Layers of dense models. A block takes a row; sums over rows go by pieces of rows, whose sums are summed.
#include "cuda/device.cuh"
#include "gelu.hpp"
#include "gpu_dense.hpp"

namespace troupe::kernels::gpu {
namespace {

constexpr int kWarps = kBlock / kWarp;
// Pieces of rows whose column sums are taken apart.
constexpr int kPieces = 128;
// Threads of a block that have the same row of a piece.
constexpr int kTeam = 64;
constexpr int kTeams = kBlock / kTeam;
// Rows up to this are in a warp's registers, fours of them in each lane.
constexpr int kFours = 8;
constexpr std::int64_t kShort = std::int64_t{kFours} * kWarp * 4;

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

/// A short row, in the registers of a warp.
struct ShortRow {
  float v[kFours][4];

  __device__ ShortRow(Element element, const void* base, std::int64_t first, std::int64_t columns) {
#pragma unroll
    for (int i = 0; i < kFours; ++i) {
      const std::int64_t at = column(i);
      const auto four = at < columns ? load<4>(element, base, first + at) : Floats<4>{};
#pragma unroll
      for (int k = 0; k < 4; ++k) v[i][k] = four.v[k];
    }
  }
  static __device__ std::int64_t column(int i) {
    return (std::int64_t{i} * kWarp + threadIdx.x % kWarp) * 4;
  }
  static __device__ std::int64_t row() {
    return std::int64_t{blockIdx.x} * kWarps + threadIdx.x / kWarp;
  }
};

/// A warp for each row.
__global__ void __launch_bounds__(kBlock)
    short_layer_norm_kernel(Element element, const void* x, std::int64_t rows, std::int64_t columns,
                            const float* __restrict__ gain, const float* __restrict__ shift, float epsilon,
                            void* out, float* __restrict__ means, float* __restrict__ deviations) {
  const std::int64_t row = ShortRow::row();
  if (row >= rows) return;
  const std::int64_t first = row * columns;
  const auto count = static_cast<float>(columns);
  const ShortRow values(element, x, first, columns);
  float sum = 0;
#pragma unroll
  for (int i = 0; i < kFours; ++i)
#pragma unroll
    for (int k = 0; k < 4; ++k) sum += values.v[i][k];
  const float mean = group_sum(sum, kWarp, 0xFFFFFFFFU) / count;
  float squares = 0;
#pragma unroll
  for (int i = 0; i < kFours; ++i)
#pragma unroll
    for (int k = 0; k < 4; ++k)
      if (ShortRow::column(i) < columns) squares += (values.v[i][k] - mean) * (values.v[i][k] - mean);
  const float deviation = rsqrtf(group_sum(squares, kWarp, 0xFFFFFFFFU) / count + epsilon);
  if (threadIdx.x % kWarp == 0) {
    means[row] = mean;
    deviations[row] = deviation;
  }
#pragma unroll
  for (int i = 0; i < kFours; ++i) {
    const std::int64_t at = ShortRow::column(i);
    if (at >= columns) continue;
    const auto by = load_floats<4>(gain, at);
    const auto plus = load_floats<4>(shift, at);
    Floats<4> normal;
#pragma unroll
    for (int k = 0; k < 4; ++k) normal.v[k] = (values.v[i][k] - mean) * deviation * by.v[k] + plus.v[k];
    store<4>(element, out, first + at, normal);
  }
}

__global__ void __launch_bounds__(kBlock)
    short_layer_norm_backward_kernel(Element element, const void* __restrict__ x, const void* out_gradients,
                                     std::int64_t rows, std::int64_t columns, const float* __restrict__ gain,
                                     const float* __restrict__ means, const float* __restrict__ deviations,
                                     void* x_gradients) {
  const std::int64_t row = ShortRow::row();
  if (row >= rows) return;
  const std::int64_t first = row * columns;
  const float mean = means[row];
  const float deviation = deviations[row];
  const auto count = static_cast<float>(columns);
  ShortRow normal(element, x, first, columns);
  ShortRow scaled(element, out_gradients, first, columns);
  float sum = 0;
  float along = 0;
#pragma unroll
  for (int i = 0; i < kFours; ++i) {
    const std::int64_t at = ShortRow::column(i);
    const auto by = at < columns ? load_floats<4>(gain, at) : Floats<4>{};
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      normal.v[i][k] = (normal.v[i][k] - mean) * deviation;
      scaled.v[i][k] *= by.v[k];
      sum += scaled.v[i][k];
      along += scaled.v[i][k] * normal.v[i][k];
    }
  }
  sum = group_sum(sum, kWarp, 0xFFFFFFFFU) / count;
  along = group_sum(along, kWarp, 0xFFFFFFFFU) / count;
#pragma unroll
  for (int i = 0; i < kFours; ++i) {
    const std::int64_t at = ShortRow::column(i);
    if (at >= columns) continue;
    Floats<4> result;
#pragma unroll
    for (int k = 0; k < 4; ++k) result.v[k] = deviation * (scaled.v[i][k] - sum - normal.v[i][k] * along);
    store<4>(element, x_gradients, first + at, result);
  }
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
/// gradients[r, j] * (x[r, j] - mean_r) * deviation_r. Teams of a block's threads have every fourth row.
template <int width>
__global__ void __launch_bounds__(kBlock)
    column_parts_kernel(Element element, const void* __restrict__ gradients, const void* __restrict__ x,
                        const float* __restrict__ means, const float* __restrict__ deviations,
                        std::int64_t rows, std::int64_t columns, float* __restrict__ parts) {
  __shared__ float shared[2][kTeams][kTeam * width];
  const int team = static_cast<int>(threadIdx.x) / kTeam;
  const int mine = static_cast<int>(threadIdx.x) % kTeam * width;
  const std::int64_t j = std::int64_t{blockIdx.x} * kTeam * width + mine;
  const std::int64_t piece = (rows + kPieces - 1) / kPieces;
  const std::int64_t begin = std::int64_t{blockIdx.y} * piece;
  const std::int64_t end = min(begin + piece, rows);
  Floats<width> sum{};
  Floats<width> along{};
  if (j < columns) {
#pragma unroll 4
    for (std::int64_t r = begin + team; r < end; r += kTeams) {
      const auto g = load<width>(element, gradients, r * columns + j);
#pragma unroll
      for (int k = 0; k < width; ++k) sum.v[k] += g.v[k];
      if (!x) continue;
      const auto values = load<width>(element, x, r * columns + j);
      const float mean = means[r];
      const float deviation = deviations[r];
#pragma unroll
      for (int k = 0; k < width; ++k) along.v[k] += g.v[k] * (values.v[k] - mean) * deviation;
    }
  }
#pragma unroll
  for (int k = 0; k < width; ++k) {
    shared[0][team][mine + k] = sum.v[k];
    shared[1][team][mine + k] = along.v[k];
  }
  __syncthreads();
  if (team != 0 || j >= columns) return;
#pragma unroll
  for (int k = 0; k < width; ++k) {
    float total = 0;
    float total_along = 0;
#pragma unroll
    for (int t = 0; t < kTeams; ++t) {
      total += shared[0][t][mine + k];
      total_along += shared[1][t][mine + k];
    }
    parts[std::int64_t{blockIdx.y} * columns + j + k] = total;
    if (x) parts[(std::int64_t{kPieces} + blockIdx.y) * columns + j + k] = total_along;
  }
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

/// Both factors are null where there is no norm.
void column_parts(Place place, Element element, const void* gradients, const void* x, const float* means,
                  const float* deviations, std::int64_t rows, std::int64_t columns, float* parts) {
  const bool fours = in_fours(element, columns, gradients, x, nullptr, nullptr);
  const dim3 blocks{static_cast<unsigned>(ceil_div(columns, kTeam * (fours ? 4 : 1))), kPieces, 1};
  const auto kernel = fours ? column_parts_kernel<4> : column_parts_kernel<1>;
  kernel<<<blocks, kBlock, 0, stream_of(place)>>>(element, gradients, x, means, deviations, rows, columns,
                                                  parts);
}

unsigned column_blocks(std::int64_t columns) {
  return static_cast<unsigned>(ceil_div(columns, kBlock));
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
  const bool fours = in_fours(element, columns, x, out, gain, shift);
  if (fours && columns <= kShort) {
    short_layer_norm_kernel<<<static_cast<unsigned>(ceil_div(rows, kWarps)), kBlock, 0, stream_of(place)>>>(
        element, x, rows, columns, gain, shift, epsilon, out, means, deviations);
  } else if (fours) {
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
  column_parts(place, element, out_gradients, x, means, deviations, rows, columns, parts);
  column_total_kernel<<<column_blocks(columns), kBlock, 0, stream>>>(parts, columns, shift_gradients);
  column_total_kernel<<<column_blocks(columns), kBlock, 0, stream>>>(parts + kPieces * columns, columns,
                                                                     gain_gradients);
  if (Launch first = launched("layer_norm_backward"); !first.ok()) return first;
  if (rows == 0) return {};
  const auto blocks = static_cast<unsigned>(rows);
  const bool fours = in_fours(element, columns, x, out_gradients, gain, nullptr) &&
                     aligned(x_gradients, 4 * size_of(element));
  if (fours && columns <= kShort) {
    short_layer_norm_backward_kernel<<<static_cast<unsigned>(ceil_div(rows, kWarps)), kBlock, 0, stream>>>(
        element, x, out_gradients, rows, columns, gain, means, deviations, x_gradients);
  } else if (fours) {
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
  column_parts(place, element, x, nullptr, nullptr, nullptr, rows, columns, parts);
  column_total_kernel<<<column_blocks(columns), kBlock, 0, stream>>>(parts, columns, out);
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
