// LAMB (You et al. 2020, algorithm 2), a row being a layer: with Adam's corrected moments,
// u = m / (sqrt(v) + epsilon) + weight_decay * w; w -= learning_rate * (|w| / |u|) * u, the ratio being 1 if
// one of the norms is 0. Each row counts its own steps.
#include <cmath>

#include "device_step.hpp"
#include "families.hpp"
#include "for_rows.hpp"
#include "list.hpp"

namespace troupe::shards::optimizers {
namespace {

constexpr auto kParameters = adam_parameters(1e-6F);

/// What one row's update is made of.
struct Update {
  float correction1, correction2, epsilon, decay;
  float of(float weight, float mean, float square) const {
    return mean / correction1 / (std::sqrt(square / correction2) + epsilon) + decay * weight;
  }
};

void step(const StepBatch& batch) {
  const float rate = batch.parameters[0];
  const float beta1 = batch.parameters[1];
  const float beta2 = batch.parameters[2];
  const std::int64_t dim = batch.dim;
  Update update{
      .correction1 = 1, .correction2 = 1, .epsilon = batch.parameters[3], .decay = batch.parameters[4]};
  for_rows(batch, 3 * dim + 1, [&, dim](float* row, const float* gradient) {
    float* __restrict weights = row;
    float* __restrict means = row + dim;
    float* __restrict squares = row + 2 * dim;
    float& steps = row[3 * dim];
    steps += 1;  // stands still at 2^24, when both corrections are 1 long since
    update.correction1 = static_cast<float>(1 - std::pow(double{beta1}, double{steps}));
    update.correction2 = static_cast<float>(1 - std::pow(double{beta2}, double{steps}));
    double update_norm = 0;
    for (std::int64_t j = 0; j < dim; ++j) {
      means[j] = beta1 * means[j] + (1 - beta1) * gradient[j];
      squares[j] = beta2 * squares[j] + (1 - beta2) * gradient[j] * gradient[j];
      const double u = update.of(weights[j], means[j], squares[j]);
      update_norm += u * u;
    }
    double weight_norm = 0;
    for (std::int64_t j = 0; j < dim; ++j) weight_norm += double{weights[j]} * weights[j];
    const double trust = weight_norm > 0 && update_norm > 0 ? std::sqrt(weight_norm / update_norm) : 1;
    const auto scale = static_cast<float>(rate * trust);
    for (std::int64_t j = 0; j < dim; ++j) weights[j] -= scale * update.of(weights[j], means[j], squares[j]);
  });
}

}  // namespace

constexpr OptimizerDef kLamb{.name = "lamb",
                             .parameters = kParameters,
                             .state = kAdamState,
                             .step = step,
                             .device_step = device_step<kernels::Rule::kLamb>};

}  // namespace troupe::shards::optimizers
