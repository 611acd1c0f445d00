// Stochastic gradient descent with L2 regularisation: w -= learning_rate * (g + weight_decay * w).
#include <troupe/kernels/optimizer.hpp>

#include "device_step.hpp"
#include "list.hpp"

namespace troupe::shards::optimizers {
namespace {

constexpr OptimizerParameter kParameters[] = {
    {"learning_rate", 0.01F, OptimizerParameter::Range::kRate},
    {"weight_decay", 0, OptimizerParameter::Range::kNotNegative},
};

void step(const StepBatch& batch) {
  kernels::sgd_rows(batch.rows, batch.gradients, batch.count, batch.dim,
                    {.learning_rate = batch.parameters[0], .weight_decay = batch.parameters[1]});
}

}  // namespace

constexpr OptimizerDef kSgd{.name = "sgd",
                            .parameters = kParameters,
                            .state = {},
                            .step = step,
                            .device_step = device_step<kernels::Rule::kSgd>};

}  // namespace troupe::shards::optimizers
