// Optimizer steps on whole tensors: one launch for some dozens of them, whose addresses travel as its
// arguments.
#include "cuda/device.cuh"
#include "gpu_kernels.hpp"
#include "rules.hpp"

namespace troupe::kernels::gpu {
namespace {

constexpr int kTensorsAtOnce = 64;  // what fits into a launch's arguments, 4 KiB
constexpr int kFoursAThread = 2;
constexpr std::int64_t kChunk = std::int64_t{kBlock} * 4 * kFoursAThread;  // elements of a block

struct Tensors {
  DenseTensor tensor[kTensorsAtOnce];
  std::int64_t first_chunk[kTensorsAtOnce];
  int count;
};
static_assert(sizeof(Tensors) < 3900);

/// Sums that a tensor's elements have in common, of those rules that have such.
struct Sums {
  double weights;  // row-wise Adagrad: squares of the gradient
  double updates;
};

constexpr bool has_sums(Rule rule) {
  return rule == Rule::kLamb || rule == Rule::kRowwiseAdagrad;
}

/// The tensor to which this block's chunk belongs.
__device__ int tensor_of_block(const Tensors& all) {
  int low = 0;
  int high = all.count - 1;
  while (low < high) {
    const int middle = (low + high + 1) / 2;
    if (all.first_chunk[middle] <= std::int64_t{blockIdx.x})
      low = middle;
    else
      high = middle - 1;
  }
  return low;
}

template <int width>
__device__ __forceinline__ Floats<width> load_state(const float* state, std::int64_t at, bool there) {
  return there ? load_floats<width>(state, at) : Floats<width>{};
}

/// Visits this thread's elements of this block's chunk, in fours where the tensor's memory allows.
template <Rule rule, class Visit>
__device__ void for_elements(const DenseTensor& tensor, std::int64_t chunk, const Visit& visit) {
  constexpr StateShape kState = state_of(rule);
  const std::int64_t begin = chunk * kChunk;
  const auto is_aligned = [](const void* at) { return reinterpret_cast<std::uintptr_t>(at) % 16 == 0; };
  const bool fours = begin + kChunk <= tensor.n && is_aligned(tensor.weights) &&
                     is_aligned(tensor.gradients) && (kState.vectors < 1 || is_aligned(tensor.state[0])) &&
                     (kState.vectors < 2 || is_aligned(tensor.state[1]));
  if (fours) {
    visit.template operator()<4>(begin + std::int64_t{threadIdx.x} * 4, std::int64_t{kBlock} * 4,
                                 kFoursAThread);
  } else {
    const std::int64_t end = min(begin + kChunk, tensor.n);
    const std::int64_t first = begin + threadIdx.x;
    const int steps = first < end ? static_cast<int>((end - first + kBlock - 1) / kBlock) : 0;
    visit.template operator()<1>(first, std::int64_t{kBlock}, steps);
  }
}

template <Rule rule>
__device__ RowFacts facts_of_sums(const Numbers& numbers, RowFacts facts, const DenseTensor& tensor,
                                  const Sums& sums) {
  if constexpr (rule == Rule::kLamb) facts.scale = lamb_scale(numbers, sums.weights, sums.updates);
  if constexpr (rule == Rule::kRowwiseAdagrad)
    facts.scale = numbers.n[0] / (sqrtf(tensor.state[0][0]) + numbers.n[1]);
  return facts;
}

/// LAMB: moves the moments and sums the norms. Row-wise Adagrad: sums the squares.
template <Rule rule>
__global__ void __launch_bounds__(kBlock)
    sums_kernel(Numbers numbers, RowFacts facts, const __grid_constant__ Tensors all, Sums* sums) {
  const int which = tensor_of_block(all);
  const DenseTensor& tensor = all.tensor[which];
  Sums mine{};
  for_elements<rule>(tensor, std::int64_t{blockIdx.x} - all.first_chunk[which],
                     [&]<int width>(std::int64_t first, std::int64_t step, int steps) {
                       for (int s = 0; s < steps; ++s) {
                         const std::int64_t at = first + s * step;
                         const auto gradient = load_floats<width>(tensor.gradients, at);
                         if constexpr (rule == Rule::kRowwiseAdagrad) {
                           for (const float g : gradient.v)
                             mine.weights += static_cast<double>(g) * static_cast<double>(g);
                         } else {
                           auto w = load_floats<width>(tensor.weights, at);
                           auto a = load_floats<width>(tensor.state[0], at);
                           auto b = load_floats<width>(tensor.state[1], at);
                           for (int k = 0; k < width; ++k) {
                             step_element<rule>(numbers, facts, gradient.v[k], w.v[k], a.v[k], b.v[k]);
                             const double u = lamb_update(numbers, facts, w.v[k], a.v[k], b.v[k]);
                             mine.updates += u * u;
                             mine.weights += static_cast<double>(w.v[k]) * static_cast<double>(w.v[k]);
                           }
                           store_floats<width>(tensor.state[0], at, a);
                           store_floats<width>(tensor.state[1], at, b);
                         }
                       }
                     });
  mine.weights = group_sum(mine.weights, kWarp, 0xFFFFFFFFU);
  mine.updates = group_sum(mine.updates, kWarp, 0xFFFFFFFFU);
  if (threadIdx.x % kWarp == 0) {
    atomicAdd(&sums[which].weights, mine.weights);
    if constexpr (rule == Rule::kLamb) atomicAdd(&sums[which].updates, mine.updates);
  }
}

/// Row-wise Adagrad: the sums to the tensors' own.
__global__ void move_sums_kernel(const __grid_constant__ Tensors all, const Sums* sums) {
  const int i = static_cast<int>(threadIdx.x);
  if (i < all.count && all.tensor[i].n > 0)
    all.tensor[i].state[0][0] += static_cast<float>(sums[i].weights / static_cast<double>(all.tensor[i].n));
}

template <Rule rule>
__global__ void __launch_bounds__(kBlock)
    step_kernel(Numbers numbers, RowFacts facts, const __grid_constant__ Tensors all, const Sums* sums) {
  constexpr StateShape kState = state_of(rule);
  const int which = tensor_of_block(all);
  const DenseTensor& tensor = all.tensor[which];
  if constexpr (has_sums(rule)) facts = facts_of_sums<rule>(numbers, facts, tensor, sums[which]);
  for_elements<rule>(
      tensor, std::int64_t{blockIdx.x} - all.first_chunk[which],
      [&]<int width>(std::int64_t first, std::int64_t step, int steps) {
        constexpr int kAtOnce = width == 4 ? kFoursAThread : 1;
        for (int s = 0; s < steps; s += kAtOnce) {
          Floats<width> gradient[kAtOnce], w[kAtOnce], a[kAtOnce], b[kAtOnce];
#pragma unroll
          for (int i = 0; i < kAtOnce; ++i) {
            const std::int64_t at = first + (s + i) * step;
            w[i] = load_floats<width>(tensor.weights, at);
            gradient[i] = load_state<width>(tensor.gradients, at, rule != Rule::kLamb);
            a[i] = load_state<width>(tensor.state[0], at, kState.vectors > 0);
            b[i] = load_state<width>(tensor.state[1], at, kState.vectors > 1);
          }
#pragma unroll
          for (int i = 0; i < kAtOnce; ++i) {
            const std::int64_t at = first + (s + i) * step;
#pragma unroll
            for (int k = 0; k < width; ++k) {
              if constexpr (rule == Rule::kLamb)
                w[i].v[k] -= facts.scale * lamb_update(numbers, facts, w[i].v[k], a[i].v[k], b[i].v[k]);
              else
                step_element<rule>(numbers, facts, gradient[i].v[k], w[i].v[k], a[i].v[k], b[i].v[k]);
            }
            store_floats<width>(tensor.weights, at, w[i]);
            if constexpr (rule != Rule::kLamb) {
              if (kState.vectors > 0) store_floats<width>(tensor.state[0], at, a[i]);
              if (kState.vectors > 1) store_floats<width>(tensor.state[1], at, b[i]);
            }
          }
        }
      });
}

template <Rule rule>
Launch step_some(cudaStream_t stream, const Numbers& numbers, const Tensors& some, std::int64_t chunks,
                 std::int64_t number, Sums* sums) {
  const RowFacts facts = facts_at<rule>(numbers, static_cast<float>(number));
  const auto blocks = static_cast<unsigned>(chunks);
  if constexpr (has_sums(rule)) {
    if (const cudaError_t cleared = cudaMemsetAsync(sums, 0, some.count * sizeof(Sums), stream);
        cleared != cudaSuccess)
      return {"dense_step", static_cast<int>(cleared)};
    sums_kernel<rule><<<blocks, kBlock, 0, stream>>>(numbers, facts, some, sums);
    if (Launch first = launched("dense_step"); !first.ok()) return first;
    if constexpr (rule == Rule::kRowwiseAdagrad) {
      move_sums_kernel<<<1, kTensorsAtOnce, 0, stream>>>(some, sums);
      if (Launch second = launched("dense_step"); !second.ok()) return second;
    }
  }
  step_kernel<rule><<<blocks, kBlock, 0, stream>>>(numbers, facts, some, sums);
  return launched("dense_step");
}

}  // namespace

Launch dense_step(Place place, const Step& step, std::span<const DenseTensor> tensors, std::int64_t number,
                  void* workspace) {
  const OnDevice here(place);
  const Numbers numbers = numbers_of(step);
  Tensors some{};
  std::int64_t chunks = 0;
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    if (tensors[i].n > 0) {
      some.tensor[some.count] = tensors[i];
      some.first_chunk[some.count++] = chunks;
      chunks += ceil_div(tensors[i].n, kChunk);
    }
    if (some.count == 0 || (some.count < kTensorsAtOnce && i + 1 < tensors.size())) continue;
    const Launch given = for_rule(step.rule, [&]<Rule rule>() {
      // Each launch uses the workspace after the one before, in the stream's order.
      return step_some<rule>(stream_of(place), numbers, some, chunks, number, static_cast<Sums*>(workspace));
    });
    if (!given.ok()) return given;
    some.count = 0;
    chunks = 0;
  }
  return {};
}

}  // namespace troupe::kernels::gpu
