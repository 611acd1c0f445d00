// RMSProp (Tieleman and Hinton 2012, as PyTorch's, neither centred nor with momentum):
// v = alpha * v + (1 - alpha) * g^2; w -= learning_rate * g / (sqrt(v) + epsilon), with g + weight_decay * w
// in place of g.
#include <cmath>

#include "device_step.hpp"
#include "for_rows.hpp"
#include "list.hpp"

namespace troupe::shards::optimizers {
namespace {

constexpr OptimizerParameter kParameters[] = {
    {"learning_rate", 0.01F, OptimizerParameter::Range::kRate},
    {"alpha", 0.99F, OptimizerParameter::Range::kFraction},
    {"epsilon", 1e-8F, OptimizerParameter::Range::kPositive},
    {"weight_decay", 0, OptimizerParameter::Range::kNotNegative},
};
constexpr OptimizerState kState[] = {{.name = "mean_of_squares", .extent = Extent::kDim}};

void step(const StepBatch& batch) {
  const float rate = batch.parameters[0];
  const float alpha = batch.parameters[1];
  const float epsilon = batch.parameters[2];
  const float decay = batch.parameters[3];
  const std::int64_t dim = batch.dim;
  for_rows(batch, 2 * dim, [=](float* row, const float* gradient) {
    float* __restrict weights = row;
    float* __restrict squares = row + dim;
    for (std::int64_t j = 0; j < dim; ++j) {
      const float g = gradient[j] + decay * weights[j];
      squares[j] = alpha * squares[j] + (1 - alpha) * g * g;
      weights[j] -= rate * g / (std::sqrt(squares[j]) + epsilon);
    }
  });
}

}  // namespace

constexpr OptimizerDef kRmsprop{.name = "rmsprop",
                                .parameters = kParameters,
                                .state = kState,
                                .step = step,
                                .device_step = device_step<kernels::Rule::kRmsprop>};

}  // namespace troupe::shards::optimizers
