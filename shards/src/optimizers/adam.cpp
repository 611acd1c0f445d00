// Adam (Kingma and Ba 2015, algorithm 1). Each row counts its own steps.
#include <troupe/kernels/optimizer.hpp>

#include "device_step.hpp"
#include "families.hpp"
#include "list.hpp"

namespace troupe::shards::optimizers {
namespace {

constexpr auto kWithDecay = adam_parameters(1e-8F);
constexpr std::span kParameters = std::span(kWithDecay).first(4);

void step(const StepBatch& batch) {
  kernels::adam_rows(batch.rows, batch.gradients, batch.count, batch.dim,
                     {.learning_rate = batch.parameters[0],
                      .beta1 = batch.parameters[1],
                      .beta2 = batch.parameters[2],
                      .epsilon = batch.parameters[3]});
}

}  // namespace

constexpr OptimizerDef kAdam{.name = "adam",
                             .parameters = kParameters,
                             .state = kAdamState,
                             .step = step,
                             .device_step = device_step<kernels::Rule::kAdam>};

}  // namespace troupe::shards::optimizers
