#pragma once

#include <cstdint>

/// The learning rates of DeepSpeed's schedulers, by the steps taken so far.
namespace troupe::training::zero {

/// DeepSpeed moves its schedulers after each step, to 0 after the first one, which is made with their first
/// rate: and so is the second.
constexpr std::uint64_t iteration_of(std::uint64_t step) {
  return step == 0 ? 0 : step - 1;
}

/// WarmupLR and WarmupDecayLR: up to the most within so many steps, by the logarithm or along a line; then it
/// stays, or goes down along a line.
struct WarmUpRate {
  float least = 0;
  float most = 0.001F;
  std::uint64_t steps = 1000;  ///< 2 or more
  bool logarithm = true;
  std::uint64_t total = 0;  ///< steps after which it is at its least again; 0: it stays

  float operator()(std::uint64_t step) const;
};

}  // namespace troupe::training::zero
