// Adagrad, diagonal form (Duchi, Hazan, Singer 2011): a += g^2; w -= learning_rate * g / (sqrt(a) + epsilon).
#include <troupe/kernels/optimizer.hpp>

#include "list.hpp"

namespace troupe::shards::optimizers {
namespace {

constexpr OptimizerParameter kParameters[] = {
    {"learning_rate", 0.1F, OptimizerParameter::Range::kRate},
    {"epsilon", 1e-10F, OptimizerParameter::Range::kPositive},
    {"initial_accumulator", 0, OptimizerParameter::Range::kNotNegative},
};
constexpr OptimizerState kState[] = {
    {.name = "sum_of_squares", .extent = Extent::kDim, .first_value_of = "initial_accumulator"}};

void step(const StepBatch& batch) {
  kernels::adagrad_rows(batch.rows, batch.gradients, batch.count, batch.dim,
                        {.learning_rate = batch.parameters[0], .epsilon = batch.parameters[1]});
}

}  // namespace

constexpr OptimizerDef kAdagrad{.name = "adagrad", .parameters = kParameters, .state = kState, .step = step};

}  // namespace troupe::shards::optimizers
