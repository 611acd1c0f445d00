#pragma once

#include <cstdint>
#include <variant>

#include <troupe/runtime/result.hpp>

namespace troupe::shards {

// What the learning rate is multiplied with after t steps, t being 0 for the first.

/// 1.
struct ConstantRate {
  friend bool operator==(const ConstantRate&, const ConstantRate&) = default;
};
/// factor^(t / every), rounded down: PyTorch's StepLR.
struct StepDecay {
  std::uint64_t every = 1;  ///< steps, 1 or more
  float factor = 0.1F;      ///< 0 .. 1
  friend bool operator==(const StepDecay&, const StepDecay&) = default;
};
/// factor^t: ExponentialLR.
struct ExponentialDecay {
  float factor = 1;  ///< 0 .. 1
  friend bool operator==(const ExponentialDecay&, const ExponentialDecay&) = default;
};
/// least + (1 - least) * (1 + cos(pi * t / steps)) / 2, from `steps` on `least`: CosineAnnealingLR up to its
/// T_max (Loshchilov and Hutter 2017, without restarts).
struct CosineDecay {
  std::uint64_t steps = 1;  ///< 1 or more
  float least = 0;          ///< 0 .. 1
  friend bool operator==(const CosineDecay&, const CosineDecay&) = default;
};
/// sqrt(steps / (steps + t)). After a warm-up of as many steps that is Vaswani et al. 2017, equation 3.
struct InverseSquareRoot {
  std::uint64_t steps = 1;  ///< 1 or more
  friend bool operator==(const InverseSquareRoot&, const InverseSquareRoot&) = default;
};
/// least + (1 - least) * (1 - t / steps)^power, from `steps` on `least`: PolynomialLR, whose least is 0.
struct PolynomialDecay {
  std::uint64_t steps = 1;  ///< 1 or more
  float power = 1;          ///< 0 or more; 1 is a line
  float least = 0;          ///< 0 .. 1
  friend bool operator==(const PolynomialDecay&, const PolynomialDecay&) = default;
};

using Decay =
    std::variant<ConstantRate, StepDecay, ExponentialDecay, CosineDecay, InverseSquareRoot, PolynomialDecay>;

/// How a table's learning rate changes with the steps that the table has made: a warm-up along a line, then a
/// decay that counts from its end. Never above 1, so that the optimizer's own rate is the largest.
struct Schedule {
  std::uint64_t warm_up = 0;  ///< steps; 0: none
  float warm_up_from = 0;     ///< 0 .. 1: the first step's factor, from + (1 - from) * t / warm_up: LinearLR
  Decay decay = ConstantRate{};

  /// The factor of the step that comes after `step` others; 0 .. 1.
  float at(std::uint64_t step) const;
  /// kInvalidArgument naming the field, its value and what would do.
  Result<void> validate() const;
  friend bool operator==(const Schedule&, const Schedule&) = default;
};

}  // namespace troupe::shards
