// SGD with momentum, as PyTorch defines it (dampening 0): b = momentum * b + g; w -= learning_rate * b,
// with g + weight_decay * w in place of g.
#include "for_rows.hpp"
#include "list.hpp"

namespace troupe::shards::optimizers {
namespace {

constexpr OptimizerParameter kParameters[] = {
    {"learning_rate", 0.01F, OptimizerParameter::Range::kRate},
    {"momentum", 0.9F, OptimizerParameter::Range::kFraction},
    {"weight_decay", 0, OptimizerParameter::Range::kNotNegative},
};
constexpr OptimizerState kState[] = {{.name = "momentum_buffer", .extent = Extent::kDim}};

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

constexpr OptimizerDef kMomentum{
    .name = "momentum", .parameters = kParameters, .state = kState, .step = step};

}  // namespace troupe::shards::optimizers
