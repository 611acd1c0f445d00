#pragma once

#include <algorithm>
#include <cstdint>

#include <troupe/runtime/tensor.hpp>
#include <troupe/training/zero.hpp>

namespace troupe::training::zero {

/// The loss scale, as each member works it out from what all of them know.
class LossScaler {
 public:
  struct State {
    float scale = 1;
    std::int32_t overflows_left = 1;  ///< until it is halved
    std::int64_t good_steps = 0;      ///< since the last overflow, or the last time it doubled
  };

  LossScaler(const LossScaling& options, DType dtype) : options_(options) {
    dynamic_ = dtype == DType::kFloat16 && options.fixed <= 0;
    if (dtype == DType::kFloat16) state_.scale = dynamic_ ? options.first : options.fixed;
    state_.overflows_left = options.hysteresis;
  }

  float scale() const { return state_.scale; }
  /// False: it cannot be smaller.
  bool overflowed() {
    if (!dynamic_) return true;
    state_.good_steps = 0;
    if (--state_.overflows_left > 0) return true;
    state_.overflows_left = 1;  // the next one halves, too
    if (state_.scale <= options_.least) return false;
    state_.scale = std::max(state_.scale / 2, options_.least);
    return true;
  }
  void good() {
    if (!dynamic_) return;
    if (options_.refill) state_.overflows_left = options_.hysteresis;
    if (++state_.good_steps < options_.window) return;
    state_.good_steps = 0;
    state_.overflows_left = options_.hysteresis;
    if (state_.scale < kLargest) state_.scale *= 2;
  }

  const State& state() const { return state_; }
  /// Of a checkpoint, whose options may have been others.
  void set_state(const State& state) {
    if (!dynamic_) return;
    state_.scale = std::clamp(state.scale, kSmallest, kLargest);
    state_.overflows_left = std::clamp(state.overflows_left, 1, options_.hysteresis);
    state_.good_steps = std::clamp<std::int64_t>(state.good_steps, 0, options_.window - 1);
  }

  static constexpr float kSmallest = 0x1p-100F;
  static constexpr float kLargest = 0x1p100F;

 private:
  LossScaling options_;
  State state_;
  bool dynamic_ = false;
};

}  // namespace troupe::training::zero
