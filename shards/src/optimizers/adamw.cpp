// Adam with decoupled weight decay (Loshchilov and Hutter 2019, algorithm 2, as PyTorch's AdamW):
// w *= 1 - learning_rate * weight_decay, then Adam's step. Each row counts its own steps.
#include <troupe/kernels/elementwise.hpp>
#include <troupe/kernels/optimizer.hpp>

#include "device_step.hpp"
#include "families.hpp"
#include "list.hpp"

namespace troupe::shards::optimizers {
namespace {

constexpr auto kParameters = adam_parameters(1e-8F);

// Some rows at a time, so that the step finds them in the cache.
constexpr std::int64_t kBlock = 16;

void step(const StepBatch& batch) {
  const kernels::Adam adam{.learning_rate = batch.parameters[0],
                           .beta1 = batch.parameters[1],
                           .beta2 = batch.parameters[2],
                           .epsilon = batch.parameters[3]};
  const float keep = 1 - batch.parameters[0] * batch.parameters[4];
  for (std::int64_t i = 0; i < batch.count; i += kBlock) {
    const std::int64_t count = batch.count - i < kBlock ? batch.count - i : kBlock;
    for (std::int64_t k = i; k < i + count; ++k)
      kernels::scale(batch.rows[k], batch.dim, keep, batch.rows[k]);
    kernels::adam_rows(batch.rows + i, batch.gradients + i * batch.dim, count, batch.dim, adam);
  }
}

}  // namespace

constexpr OptimizerDef kAdamW{.name = "adamw",
                              .parameters = kParameters,
                              .state = kAdamState,
                              .step = step,
                              .device_step = device_step<kernels::Rule::kAdamW>};

}  // namespace troupe::shards::optimizers
