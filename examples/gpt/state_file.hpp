#pragma once

#include <cstdint>
#include <filesystem>
#include <vector>

#include <troupe/runtime/result.hpp>

#include "gpt/model_shape.hpp"

namespace troupe::gpt {

/// What training goes on from: all laid out as Parameters says.
struct State {
  std::uint64_t steps = 0;
  std::vector<float> weights;
  std::vector<float> first_moments;
  std::vector<float> second_moments;
};

/// training.safetensors in the folder, written in the place of an older one.
Result<void> write_state(const std::filesystem::path& folder, const Parameters& parameters,
                         const State& state);
/// kNotFound, kDataLoss naming the file.
Result<State> read_state(const std::filesystem::path& folder, const Parameters& parameters);

}  // namespace troupe::gpt
