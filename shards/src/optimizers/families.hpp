#pragma once

#include <array>

#include <troupe/shards/optimizer.hpp>

/// What optimizers of one family have in common: their parameters with their ranges, from which validation
/// and JSON follow, and the fields of their state.
namespace troupe::shards::optimizers {

/// SGD with a buffer: momentum, nesterov.
inline constexpr std::array<OptimizerParameter, 3> kMomentumParameters = {{
    {"learning_rate", 0.01F, OptimizerParameter::Range::kRate},
    {"momentum", 0.9F, OptimizerParameter::Range::kFraction},
    {"weight_decay", 0, OptimizerParameter::Range::kNotNegative},
}};
inline constexpr std::array<OptimizerState, 1> kMomentumState = {
    {{.name = "momentum_buffer", .extent = Extent::kDim}}};

/// Sums of squares: adagrad, rowwise_adagrad.
inline constexpr std::array<OptimizerParameter, 3> kAdagradParameters = {{
    {"learning_rate", 0.1F, OptimizerParameter::Range::kRate},
    {"epsilon", 1e-10F, OptimizerParameter::Range::kPositive},
    {"initial_accumulator", 0, OptimizerParameter::Range::kNotNegative},
}};
/// One sum for each weight, or one for the whole row.
constexpr std::array<OptimizerState, 1> adagrad_state(Extent extent) {
  return {{{.name = "sum_of_squares", .extent = extent, .first_value_of = "initial_accumulator"}}};
}

/// Two moments: adam, which has all but the last parameter; adamw, lamb. Each row counts its own steps.
constexpr std::array<OptimizerParameter, 5> adam_parameters(float epsilon) {
  return {{
      {"learning_rate", 0.001F, OptimizerParameter::Range::kRate},
      {"beta1", 0.9F, OptimizerParameter::Range::kFraction},
      {"beta2", 0.999F, OptimizerParameter::Range::kFraction},
      {"epsilon", epsilon, OptimizerParameter::Range::kPositive},
      {"weight_decay", 0.01F, OptimizerParameter::Range::kNotNegative},
  }};
}
/// The kernel's layout.
inline constexpr std::array<OptimizerState, 3> kAdamState = {
    {{.name = "first_moment", .extent = Extent::kDim},
     {.name = "second_moment", .extent = Extent::kDim},
     {.name = "steps", .extent = Extent::kOne}}};

}  // namespace troupe::shards::optimizers
