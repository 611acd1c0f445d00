// Adam (Kingma and Ba 2015, algorithm 1). Each row counts its own steps.
#include <troupe/kernels/optimizer.hpp>

#include "list.hpp"

namespace troupe::shards::optimizers {
namespace {

constexpr OptimizerParameter kParameters[] = {
    {"learning_rate", 0.001F, OptimizerParameter::Range::kRate},
    {"beta1", 0.9F, OptimizerParameter::Range::kFraction},
    {"beta2", 0.999F, OptimizerParameter::Range::kFraction},
    {"epsilon", 1e-8F, OptimizerParameter::Range::kPositive},
};
// The kernel's layout.
constexpr OptimizerState kState[] = {{.name = "first_moment", .extent = Extent::kDim},
                                     {.name = "second_moment", .extent = Extent::kDim},
                                     {.name = "steps", .extent = Extent::kOne}};

void step(const StepBatch& batch) {
  kernels::adam_rows(batch.rows, batch.gradients, batch.count, batch.dim,
                     {.learning_rate = batch.parameters[0],
                      .beta1 = batch.parameters[1],
                      .beta2 = batch.parameters[2],
                      .epsilon = batch.parameters[3]});
}

}  // namespace

constexpr OptimizerDef kAdam{.name = "adam", .parameters = kParameters, .state = kState, .step = step};

}  // namespace troupe::shards::optimizers
