#include <troupe/shards/optimizer.hpp>

#include <algorithm>
#include <cassert>
#include <cmath>

#include "optimizers/list.hpp"

namespace troupe::shards {
namespace {

Error refused(const OptimizerDef& def, const std::string& why) {
  return {Code::kInvalidArgument, "optimizer '" + std::string(def.name) + "': " + why};
}

bool in_range(OptimizerParameter::Range range, float value) {
  constexpr float kLargestRate = 1e6F;
  if (!std::isfinite(value) || value < 0) return false;
  switch (range) {
    case OptimizerParameter::Range::kRate:
      return value <= kLargestRate;
    case OptimizerParameter::Range::kNotNegative:
      return true;
    case OptimizerParameter::Range::kPositive:
      return value > 0;
    case OptimizerParameter::Range::kFraction:
      return value < 1;
  }
  return false;
}

const char* text_of(OptimizerParameter::Range range) {
  switch (range) {
    case OptimizerParameter::Range::kRate:
      return "a number from 0 to 1000000";
    case OptimizerParameter::Range::kNotNegative:
      return "a finite number, not negative";
    case OptimizerParameter::Range::kPositive:
      return "a finite number above 0";
    case OptimizerParameter::Range::kFraction:
      return "0 or more and less than 1";
  }
  return "";
}

/// Names that a checkpoint's file uses itself.
bool is_taken(std::string_view field) {
  return field.empty() || field == "keys" || field == "ranges" || field == "weights" || field == "workers";
}

OptimizerList make_builtin() {
  OptimizerList list;
  for (const OptimizerDef* def : optimizers::kAll) list.add(*def).value();
  return list;
}

}  // namespace

Result<void> OptimizerList::add(const OptimizerDef& def) {
  if (def.step == nullptr) return refused(def, "it has no step");
  if (def.parameters.empty() || def.parameters[0].name != "learning_rate")
    return refused(def, "its first parameter is to be 'learning_rate'");
  if (def.parameters.size() > OptimizerDef::kMaxParameters)
    return refused(def, "it has more than " + std::to_string(OptimizerDef::kMaxParameters) + " parameters");
  if (def.name.empty() || find(def.name) != nullptr) return refused(def, "the name is taken");
  for (const OptimizerState& field : def.state)
    if (is_taken(field.name))
      return refused(def, "a field of its state is named '" + std::string(field.name) + "'");
  defs_.push_back(&def);
  return {};
}

const OptimizerDef* OptimizerList::find(std::string_view name) const {
  const auto found =
      std::find_if(defs_.begin(), defs_.end(), [&](const auto* def) { return def->name == name; });
  return found == defs_.end() ? nullptr : *found;
}

const OptimizerList& builtin_optimizers() {
  static const OptimizerList list = make_builtin();
  return list;
}

Optimizer::Optimizer(const OptimizerDef& def) : def_(&def) {
  for (std::size_t i = 0; i < def.parameters.size(); ++i) numbers_[i] = def.parameters[i].usual;
}

Optimizer::Optimizer(std::string_view name, std::initializer_list<std::pair<std::string_view, float>> numbers)
    : def_(builtin_optimizers().find(name)) {
  assert(def_ != nullptr && "an optimizer of that name");
  *this = Optimizer(*def_);
  for (const auto& [parameter, value] : numbers) set(parameter, value);
}

std::size_t Optimizer::index_of(std::string_view parameter) const {
  std::size_t index = 0;
  while (index < def_->parameters.size() && def_->parameters[index].name != parameter) ++index;
  assert(index < def_->parameters.size() && "a parameter of that name");
  return index;
}

float Optimizer::get(std::string_view parameter) const {
  return numbers_[index_of(parameter)];
}

void Optimizer::set(std::string_view parameter, float value) {
  numbers_[index_of(parameter)] = value;
}

Result<void> Optimizer::validate() const {
  for (std::size_t i = 0; i < def_->parameters.size(); ++i) {
    const OptimizerParameter& parameter = def_->parameters[i];
    if (in_range(parameter.range, numbers_[i])) continue;
    return Error{Code::kInvalidArgument, std::string(parameter.name) + " is " + std::to_string(numbers_[i]) +
                                             ", expected " + text_of(parameter.range)};
  }
  return {};
}

RowLayout Optimizer::layout(DType weights, std::uint64_t dim) const {
  RowLayout layout{.weights = weights, .dim = dim, .state = {}};
  for (const OptimizerState& field : def_->state) {
    const float first = field.first_value_of.empty() ? 0 : get(field.first_value_of);
    layout.state.push_back({.name = std::string(field.name), .extent = field.extent, .first_value = first});
  }
  return layout;
}

Sgd::operator Optimizer() const {
  return Optimizer("sgd", {{"learning_rate", learning_rate}, {"weight_decay", weight_decay}});
}

Adagrad::operator Optimizer() const {
  return Optimizer(
      "adagrad",
      {{"learning_rate", learning_rate}, {"epsilon", epsilon}, {"initial_accumulator", initial_accumulator}});
}

Adam::operator Optimizer() const {
  return Optimizer(
      "adam", {{"learning_rate", learning_rate}, {"beta1", beta1}, {"beta2", beta2}, {"epsilon", epsilon}});
}

}  // namespace troupe::shards
