#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include <troupe/kernels/place.hpp>
#include <troupe/kernels/row_table.hpp>

/// Optimizer steps on the host or on a GPU: on rows of a table, and on whole tensors. The formulas, and the
/// names and order of their numbers, are those of shards/src/optimizers/.
namespace troupe::kernels {

enum class Rule : std::uint8_t {
  kSgd,             ///< learning_rate, weight_decay
  kMomentum,        ///< learning_rate, momentum, weight_decay; state: buffer
  kNesterov,        ///< likewise
  kAdagrad,         ///< learning_rate, epsilon; state: sum of squares
  kRowwiseAdagrad,  ///< learning_rate, epsilon; state: one sum of mean squares
  kAdam,     ///< learning_rate, beta1, beta2, epsilon; state: first moment, second moment, one step count
  kAdamW,    ///< those, weight_decay; likewise
  kLamb,     ///< likewise
  kRmsprop,  ///< learning_rate, alpha, epsilon, weight_decay; state: mean of squares
  kFtrl,     ///< learning_rate, beta, l1, l2; state: z, sum of squares
};
inline constexpr int kRules = 10;

struct Step {
  Rule rule = Rule::kSgd;
  float numbers[5] = {};
};

/// Fields of state as long as the row, and whether there is one number more.
struct StateShape {
  int vectors = 0;
  bool scalar = false;
};
constexpr StateShape state_of(Rule rule) {
  switch (rule) {
    case Rule::kSgd:
      return {0, false};
    case Rule::kMomentum:
    case Rule::kNesterov:
    case Rule::kAdagrad:
    case Rule::kRmsprop:
      return {1, false};
    case Rule::kRowwiseAdagrad:
      return {0, true};
    case Rule::kFtrl:
      return {2, false};
    case Rule::kAdam:
    case Rule::kAdamW:
    case Rule::kLamb:
      return {2, true};
  }
  return {};
}

/// Row r: weights at weights + r * weight_stride elements, state at state + r * state_stride floats: the
/// vectors, [dim] each, then the scalar. Weights may be of 16 bits, state is float32. A record of weights and
/// state as RowLayout has it is one with state = weights + dim.
struct RowTable {
  Element element = Element::kFloat32;
  void* weights = nullptr;
  std::int64_t weight_stride = 0;
  float* state = nullptr;
  std::int64_t state_stride = 0;
  std::int64_t dim = 0;
};

/// One step of row rows[i] with gradients[i, :], for each i; nothing for kNoRow. No row may come twice.
Launch update_rows(Place place, const Step& step, const RowTable& table, const std::uint64_t* rows,
                   const float* gradients, std::int64_t count);

/// Bytes that update_rows_summed() needs, given the same; 0 on the host. `row_count`: rows of the table,
/// below 2^32; `count` below 2^31. Some dozens a gradient, but as much as the gradients where dim is no
/// multiple of 4, is above 512, or rows or gradients do not begin at multiples of 16 bytes.
std::size_t update_rows_summed_workspace(Place place, const Step& step, const RowTable& table,
                                         std::int64_t row_count, const float* gradients, std::int64_t count);

/// The same where a row may come more than once: one step with the sum of its gradients. The sums are added
/// in an order that depends on the arguments alone. `workspace` is 512-byte aligned.
Launch update_rows_summed(Place place, const Step& step, const RowTable& table, std::int64_t row_count,
                          const std::uint64_t* rows, const float* gradients, std::int64_t count,
                          void* workspace, std::size_t workspace_bytes);

/// A tensor with its gradient and the vectors of its state, n elements each; vectors that the rule has not
/// are null.
struct DenseTensor {
  float* weights = nullptr;
  const float* gradients = nullptr;
  float* state[2] = {};
  std::int64_t n = 0;
};

/// Bytes that dense_step() needs for so many tensors, 8-byte aligned; there only for kLamb and
/// kRowwiseAdagrad.
constexpr std::size_t dense_step_workspace(std::size_t tensors) {
  return tensors * 2 * sizeof(double);
}

/// One step of all elements of `tensors`, `number` being that of the step, from 1 on, for rules that count.
/// kLamb takes each tensor for a layer; kRowwiseAdagrad each for a row, with its sum at state[0][0]. On a GPU
/// the norms of kLamb and the sum of kRowwiseAdagrad are added in an order that may change, in double
/// precision.
Launch dense_step(Place place, const Step& step, std::span<const DenseTensor> tensors, std::int64_t number,
                  void* workspace);

}  // namespace troupe::kernels
