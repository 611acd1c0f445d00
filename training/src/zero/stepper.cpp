#include "zero/stepper.hpp"

#include <algorithm>
#include <cassert>
#include <string_view>
#include <utility>

#include "zero/elements.hpp"

namespace troupe::training::zero {
namespace {

/// Elements whose gradients are made float32 at once: they stay in the cache.
constexpr std::int64_t kPiece = 8192;

}  // namespace

Result<kernels::Rule> rule_of(const shards::Optimizer& optimizer) {
  using kernels::Rule;
  constexpr std::pair<std::string_view, Rule> kRules[] = {
      {"sgd", Rule::kSgd},         {"momentum", Rule::kMomentum}, {"nesterov", Rule::kNesterov},
      {"adagrad", Rule::kAdagrad}, {"adam", Rule::kAdam},         {"adamw", Rule::kAdamW},
      {"rmsprop", Rule::kRmsprop}, {"ftrl", Rule::kFtrl},
  };
  for (const auto& [name, rule] : kRules)
    if (optimizer.name() == name) return rule;
  return Error{Code::kUnimplemented,
               "optimizer '" + std::string(optimizer.name()) +
                   "' looks at whole tensors, or is not known for dense ones: parameters that are cut need "
                   "one of sgd, momentum, nesterov, adagrad, adam, adamw, rmsprop, ftrl"};
}

Stepper::Stepper(const Plan& plan, const shards::Optimizer& optimizer)
    : scratch_(flat(DType::kFloat32, std::min(kPiece, plan.own()))) {
  step_.rule = rule_of(optimizer).value();
  const auto numbers = optimizer.numbers();
  std::copy_n(numbers.begin(), std::min(numbers.size(), std::size(step_.numbers)), step_.numbers);
  for (const shards::OptimizerState& field : optimizer.def().state) {
    if (field.extent != shards::Extent::kDim) continue;
    names_.emplace_back(field.name);
    state_.push_back(flat(DType::kFloat32, plan.own()));
    if (field.first_value_of.empty()) continue;
    const auto values = state_.back().as<float>();
    std::fill(values.begin(), values.end(), optimizer.get(field.first_value_of));
  }
  assert(static_cast<int>(state_.size()) == kernels::state_of(step_.rule).vectors);
}

void Stepper::step(const Segment& segment, const Tensor& weights, const Tensor& gradients, float factor,
                   float rate, std::uint64_t number) {
  step_.numbers[0] = rate;
  const std::int64_t n = weights.elements();
  const auto at = weights.as<float>();
  for (std::int64_t i = 0; i < n; i += kPiece) {
    const std::int64_t count = std::min(kPiece, n - i);
    (void)put(part(gradients, {i, count}), part(scratch_, {0, count}), factor, Put::kReplace);
    kernels::DenseTensor tensor;
    tensor.weights = at.data() + i;
    tensor.gradients = scratch_.as<const float>().data();
    for (std::size_t k = 0; k < state_.size(); ++k)
      tensor.state[k] = state_[k].as<float>().data() + segment.own_at + i;
    tensor.n = count;
    [[maybe_unused]] const kernels::Launch done = kernels::dense_step(
        kernels::Place::host(), step_, {&tensor, 1}, static_cast<std::int64_t>(number), nullptr);
    assert(done.ok());
  }
}

std::size_t Stepper::bytes() const {
  std::size_t bytes = 0;
  for (const Tensor& each : state_) bytes += each.bytes();
  return bytes;
}

}  // namespace troupe::training::zero
