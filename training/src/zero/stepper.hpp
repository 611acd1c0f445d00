#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
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

  /// Whether a step is finish()ed when all members know the norms of whole parameters.
  bool in_two_parts() const { return step_.rule == kernels::Rule::kLamb; }
  /// Steps weights by factor * gradients, which are of any of the three types. In two parts: moves the state
  /// alone, and adds to norms().
  void step(const Segment& segment, const Tensor& weights, const Tensor& gradients, float factor, float rate,
            std::uint64_t number);
  /// Of a step in two parts, of each parameter: the squares of weights and of updates that this member steps;
  /// and, from set_norms() on, those of all members. The latter ends with the step of all segments.
  const std::vector<double>& norms() const { return norms_; }
  void set_norms(std::vector<double> norms) { norms_ = std::move(norms); }
  void finish(const Segment& segment, const Tensor& weights, float rate, std::uint64_t number) const;
  /// Before the next step.
  void forget_norms() { norms_.assign(norms_.size(), 0); }

  /// The fields of state that have a number for each weight, by the names that checkpoints have.
  const std::vector<std::string>& names() const { return names_; }
  const std::vector<Tensor>& state() const { return state_; }
  std::size_t bytes() const;

 private:
  /// What LAMB moves a weight by, but for its rate (You et al. 2020, algorithm 2).
  struct LambUpdate;
  LambUpdate lamb_update(std::uint64_t number) const;

  const Plan& plan_;
  kernels::Step step_;
  std::vector<double> norms_;
  std::vector<std::string> names_;
  std::vector<Tensor> state_;  // [own elements] each
  Tensor scratch_;             // gradients of a piece, float32
};

}  // namespace troupe::training::zero
