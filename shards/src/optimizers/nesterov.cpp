// SGD with Nesterov's momentum in PyTorch's form (Sutskever et al. 2013, rewritten for the point where the
// gradient is taken): b = momentum * b + g; w -= learning_rate * (g + momentum * b), with
// g + weight_decay * w in place of g.
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
      weights[j] -= rate * (g + momentum * buffer[j]);
    }
  });
}

}  // namespace

constexpr OptimizerDef kNesterov{.name = "nesterov",
                                 .parameters = kMomentumParameters,
                                 .state = kMomentumState,
                                 .step = step,
                                 .device_step = device_step<kernels::Rule::kNesterov>};

}  // namespace troupe::shards::optimizers
