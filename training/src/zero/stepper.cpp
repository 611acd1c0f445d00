#include "zero/stepper.hpp"

#include <algorithm>
#include <cassert>
#include <cmath>
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
      {"rmsprop", Rule::kRmsprop}, {"ftrl", Rule::kFtrl},         {"lamb", Rule::kLamb},
  };
  for (const auto& [name, rule] : kRules)
    if (optimizer.name() == name) return rule;
  return Error{Code::kUnimplemented,
               "optimizer '" + std::string(optimizer.name()) +
                   "' has no step for parameters that are cut: there are sgd, momentum, nesterov, adagrad, "
                   "adam, adamw, lamb, rmsprop, ftrl"};
}

Stepper::Stepper(const Plan& plan, const shards::Optimizer& optimizer)
    : plan_(plan), scratch_(flat(DType::kFloat32, std::min(kPiece, plan.own()))) {
  step_.rule = rule_of(optimizer).value();
  if (in_two_parts()) norms_.resize(2 * static_cast<std::size_t>(plan.parameters()));
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

struct Stepper::LambUpdate {
  float correction1;
  float correction2;
  float epsilon;
  float decay;
  float operator()(float w, float first, float second) const {
    return first / correction1 / (std::sqrt(second / correction2) + epsilon) + decay * w;
  }
};

Stepper::LambUpdate Stepper::lamb_update(std::uint64_t number) const {
  const auto correction = [&](float beta) {
    return static_cast<float>(1 - std::pow(double{beta}, static_cast<double>(number)));
  };
  return {correction(step_.numbers[1]), correction(step_.numbers[2]), step_.numbers[3], step_.numbers[4]};
}

void Stepper::step(const Segment& segment, const Tensor& weights, const Tensor& gradients, float factor,
                   float rate, std::uint64_t number) {
  kernels::Step step = step_;
  step.numbers[0] = rate;
  if (in_two_parts()) {  // Adam's moments are LAMB's; without a rate it moves nothing else
    step.rule = kernels::Rule::kAdam;
    step.numbers[0] = 0;
  }
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
        kernels::Place::host(), step, {&tensor, 1}, static_cast<std::int64_t>(number), nullptr);
    assert(done.ok());
  }
  if (!in_two_parts()) return;
  const LambUpdate update = lamb_update(number);
  const float* const first = state_[0].as<const float>().data() + segment.own_at;
  const float* const second = state_[1].as<const float>().data() + segment.own_at;
  const Range range = plan_.stepped(segment);
  for (const Piece& piece : plan_.pieces(segment.region, range)) {
    double* const norms = norms_.data() + 2 * static_cast<std::size_t>(piece.parameter);
    for (std::int64_t i = piece.at - range.at; i < piece.at - range.at + piece.n; ++i) {
      const float w = at[static_cast<std::size_t>(i)];
      const double u = double{update(w, first[i], second[i])};
      norms[0] += double{w} * double{w};
      norms[1] += u * u;
    }
  }
}

void Stepper::finish(const Segment& segment, const Tensor& weights, float rate, std::uint64_t number) const {
  const LambUpdate update = lamb_update(number);
  const auto at = weights.as<float>();
  const float* const first = state_[0].as<const float>().data() + segment.own_at;
  const float* const second = state_[1].as<const float>().data() + segment.own_at;
  const Range range = plan_.stepped(segment);
  for (const Piece& piece : plan_.pieces(segment.region, range)) {
    const double* const norms = norms_.data() + 2 * static_cast<std::size_t>(piece.parameter);
    const double trust = norms[0] > 0 && norms[1] > 0 ? std::sqrt(norms[0] / norms[1]) : 1.0;
    const auto scale = static_cast<float>(double{rate} * trust);
    for (std::int64_t i = piece.at - range.at; i < piece.at - range.at + piece.n; ++i) {
      float& w = at[static_cast<std::size_t>(i)];
      w -= scale * update(w, first[i], second[i]);
    }
  }
}

std::size_t Stepper::bytes() const {
  std::size_t bytes = 0;
  for (const Tensor& each : state_) bytes += each.bytes();
  return bytes;
}

}  // namespace troupe::training::zero
