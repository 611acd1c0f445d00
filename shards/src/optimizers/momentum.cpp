// SGD with momentum, as PyTorch defines it (dampening 0): b = momentum * b + g; w -= learning_rate * b,
// with g + weight_decay * w in place of g.
#include "device_step.hpp"
#include "families.hpp"
#include "for_rows.hpp"
#include "list.hpp"

namespace troupe::shards::optimizers {
namespace {

void step(const StepBatch& batch) {
  const float rate = batch.parameters[0];
  const float momentum = batch.parameters[1];
  const float decay = batch.parameters[2];
  const std::int64_t dim = batch.dim;
  for_rows(batch, 2 * dim, [=](float* row, const float* gradient) {
    float* __restrict weights = row;
    float* __restrict buffer = row + dim;
    for (std::int64_t j = 0; j < dim; ++j) {
      const float g = gradient[j] + decay * weights[j];
      buffer[j] = momentum * buffer[j] + g;
      weights[j] -= rate * buffer[j];
    }
  });
}

}  // namespace

constexpr OptimizerDef kMomentum{.name = "momentum",
                                 .parameters = kMomentumParameters,
                                 .state = kMomentumState,
                                 .step = step,
                                 .device_step = device_step<kernels::Rule::kMomentum>};

}  // namespace troupe::shards::optimizers
