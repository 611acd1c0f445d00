#pragma once

#include <cstdint>
#include <vector>

#include "gpt/model_shape.hpp"
#include "gpt/pass.hpp"

namespace troupe::gpt::test {

using Doubles = std::vector<double>;

/// The model as its formulas say, in double precision and plain loops. `weights` lie as Parameters has them.
/// Logits [sequences * length, vocabulary].
Doubles reference_logits(const ModelShape& shape, const Doubles& weights, const Batch& batch);
/// The mean loss of the tokens that count.
double reference_loss(const ModelShape& shape, const Doubles& weights, const Batch& batch);

}  // namespace troupe::gpt::test
