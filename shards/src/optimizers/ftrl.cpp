// FTRL-Proximal (McMahan et al. 2013, algorithm 1), learning_rate being its alpha:
// s = (sqrt(n + g^2) - sqrt(n)) / alpha; z += g - s * w; n += g^2;
// w = 0 if |z| <= l1, else -(z - sign(z) * l1) / ((beta + sqrt(n)) / alpha + l2).
// What a row was when it was made counts for as little as the formula says: tables begin with zeros.
#include <cmath>

#include "device_step.hpp"
#include "for_rows.hpp"
#include "list.hpp"

namespace troupe::shards::optimizers {
namespace {

constexpr OptimizerParameter kParameters[] = {
    {"learning_rate", 0.1F, OptimizerParameter::Range::kRate},
    {"beta", 1, OptimizerParameter::Range::kNotNegative},
    {"l1", 0, OptimizerParameter::Range::kNotNegative},
    {"l2", 0, OptimizerParameter::Range::kNotNegative},
};
constexpr OptimizerState kState[] = {{.name = "z", .extent = Extent::kDim},
                                     {.name = "sum_of_squares", .extent = Extent::kDim}};

void step(const StepBatch& batch) {
  const float alpha = batch.parameters[0];
  if (alpha == 0) return;  // a rate of 0 moves nothing
  const float beta = batch.parameters[1];
  const float l1 = batch.parameters[2];
  const float l2 = batch.parameters[3];
  const std::int64_t dim = batch.dim;
  for_rows(batch, 3 * dim, [=](float* row, const float* gradient) {
    float* __restrict weights = row;
    float* __restrict zs = row + dim;
    float* __restrict squares = row + 2 * dim;
    for (std::int64_t j = 0; j < dim; ++j) {
      const float g = gradient[j];
      if (g == 0) continue;  // no step: an untouched column keeps what it was made with
      const float sum = squares[j] + g * g;
      const float root = std::sqrt(sum);
      const float z = zs[j] + g - (root - std::sqrt(squares[j])) / alpha * weights[j];
      zs[j] = z;
      squares[j] = sum;
      const float shrunk = std::fabs(z) <= l1 ? 0 : z - std::copysign(l1, z);
      weights[j] = -shrunk / ((beta + root) / alpha + l2);
    }
  });
}

}  // namespace

constexpr OptimizerDef kFtrl{.name = "ftrl",
                             .parameters = kParameters,
                             .state = kState,
                             .step = step,
                             .device_step = device_step<kernels::Rule::kFtrl>};

}  // namespace troupe::shards::optimizers
