// Adagrad, diagonal form (Duchi, Hazan, Singer 2011): a += g^2; w -= learning_rate * g / (sqrt(a) + epsilon).
#include <troupe/kernels/optimizer.hpp>

#include "device_step.hpp"
#include "families.hpp"
#include "list.hpp"

namespace troupe::shards::optimizers {
namespace {

constexpr auto kState = adagrad_state(Extent::kDim);

void step(const StepBatch& batch) {
  kernels::adagrad_rows(batch.rows, batch.gradients, batch.count, batch.dim,
                        {.learning_rate = batch.parameters[0], .epsilon = batch.parameters[1]});
}

}  // namespace

constexpr OptimizerDef kAdagrad{.name = "adagrad",
                                .parameters = kAdagradParameters,
                                .state = kState,
                                .step = step,
                                .device_step = device_step<kernels::Rule::kAdagrad>};

}  // namespace troupe::shards::optimizers
