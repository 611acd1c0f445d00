#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include <troupe/runtime/result.hpp>

#include "gpt/machine.hpp"
#include "gpt/model_shape.hpp"
#include "gpt/tokenizer.hpp"

namespace troupe::gpt {

struct SampleOptions {
  std::int64_t tokens = 400;
  double temperature = 0.8;  ///< 0: always the likeliest token
  std::int64_t most = 200;   ///< only of so many of the likeliest; 0: of all
  std::uint64_t seed = 1;
};

/// Text that goes on from `prompt`, without it. kInvalidArgument: the prompt has no tokens, or some that are
/// not known.
Result<std::string> sample(Machine& machine, const ModelShape& shape, const std::vector<float>& weights,
                           const Tokenizer& tokenizer, std::string_view prompt, const SampleOptions& options);

/// The logits after each token of a text, [tokens, vocabulary].
Result<std::vector<float>> all_logits(Machine& machine, const ModelShape& shape,
                                      const std::vector<float>& weights,
                                      const std::vector<std::int32_t>& tokens);

}  // namespace troupe::gpt
