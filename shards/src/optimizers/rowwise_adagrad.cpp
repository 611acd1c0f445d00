// Adagrad with one accumulator a row, as embedding tables use it (Gupta et al. 2014; FBGEMM's definition):
// a += mean over the columns of g^2; w -= learning_rate * g / (sqrt(a) + epsilon).
#include <cmath>

#include <troupe/kernels/elementwise.hpp>

#include "device_step.hpp"
#include "families.hpp"
#include "for_rows.hpp"
#include "list.hpp"

namespace troupe::shards::optimizers {
namespace {

constexpr auto kState = adagrad_state(Extent::kOne);

void step(const StepBatch& batch) {
  const float rate = batch.parameters[0];
  const float epsilon = batch.parameters[1];
  const std::int64_t dim = batch.dim;
  for_rows(batch, dim + 1, [=](float* row, const float* gradient) {
    float& sum = row[dim];
    sum += kernels::squared_l2_norm(gradient, dim) / static_cast<float>(dim);
    const float scale = rate / (std::sqrt(sum) + epsilon);
    float* __restrict weights = row;
    for (std::int64_t j = 0; j < dim; ++j) weights[j] -= scale * gradient[j];
  });
}

}  // namespace

constexpr OptimizerDef kRowwiseAdagrad{.name = "rowwise_adagrad",
                                       .parameters = kAdagradParameters,
                                       .state = kState,
                                       .step = step,
                                       .device_step = device_step<kernels::Rule::kRowwiseAdagrad>};

}  // namespace troupe::shards::optimizers
