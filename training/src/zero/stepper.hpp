#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include <troupe/kernels/step.hpp>
#include <troupe/runtime/result.hpp>
#include <troupe/runtime/tensor.hpp>
#include <troupe/shards/optimizer.hpp>

#include "zero/plan.hpp"

namespace troupe::training::zero {

/// The rule of that optimizer for dense tensors. kUnimplemented if there is none.
Result<kernels::Rule> rule_of(const shards::Optimizer& optimizer);

/// An optimizer with the state of what this member steps.
class Stepper {
 public:
  /// Precondition: rule_of() has one.
  Stepper(const Plan& plan, const shards::Optimizer& optimizer);

  /// Steps weights by factor * gradients, which are of any of the three types.
  void step(const Segment& segment, const Tensor& weights, const Tensor& gradients, float factor, float rate,
            std::uint64_t number);

  /// The fields of state that have a number for each weight, by the names that checkpoints have.
  const std::vector<std::string>& names() const { return names_; }
  const std::vector<Tensor>& state() const { return state_; }
  std::size_t bytes() const;

 private:
  kernels::Step step_;
  std::vector<std::string> names_;
  std::vector<Tensor> state_;  // [own elements] each
  Tensor scratch_;             // gradients of a piece, float32
};

}  // namespace troupe::training::zero
