#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include <troupe/training/weight_stream.hpp>

namespace troupe::test {

using namespace troupe::training;

/// Tensors of three kinds, the whole of `elements` numbers or a little more, and of no round size.
inline std::vector<WeightSpec> weight_specs(std::int64_t elements) {
  return {{"layer.weight", DType::kFloat32, Shape{elements, 1}},
          {"layer.bias", DType::kInt64, Shape{3}},
          {"nothing", DType::kFloat16, Shape{0, 7}},
          {"scale", DType::kUInt8, Shape{5}}};
}

/// What element `i` of the weight holds in version `value`: most of it follows from the version, so that a
/// mix of two is seen; the first `fixed` never change.
inline float weight_at(std::uint64_t value, std::int64_t i, std::int64_t fixed) {
  return i < fixed ? static_cast<float>(i % 1000)
                   : static_cast<float>((value * 131 + static_cast<std::uint64_t>(i)) % 65521);
}

inline void fill_weights(const std::vector<Tensor>& tensors, std::uint64_t value, std::int64_t fixed) {
  const auto weight = tensors[0].as<float>();
  for (std::size_t i = 0; i < weight.size(); ++i)
    weight[i] = weight_at(value, static_cast<std::int64_t>(i), fixed);
  for (std::int64_t& each : tensors[1].as<std::int64_t>()) each = static_cast<std::int64_t>(value);
  for (std::uint8_t& each : tensors[3].as<std::uint8_t>()) each = static_cast<std::uint8_t>(value);
}

inline std::vector<Tensor> make_weights(const std::vector<WeightSpec>& specs, std::uint64_t value,
                                        std::int64_t fixed = 0) {
  std::vector<Tensor> tensors;
  for (const WeightSpec& spec : specs) tensors.push_back(Tensor::empty(spec.dtype, spec.shape));
  fill_weights(tensors, value, fixed);
  return tensors;
}

/// What is wrong with a version that is to hold `value` throughout; empty: nothing.
inline std::string fault_of(const Weights& weights, std::uint64_t value, std::int64_t fixed = 0) {
  const auto bias = weights.tensor(1).as<const std::int64_t>();
  for (const std::int64_t each : bias)
    if (each != static_cast<std::int64_t>(value))
      return "the bias is of " + std::to_string(each) + " in place of " + std::to_string(value);
  const auto weight = weights.tensor(0).as<const float>();
  for (std::size_t i = 0; i < weight.size(); ++i)
    if (weight[i] != weight_at(value, static_cast<std::int64_t>(i), fixed))
      return "element " + std::to_string(i) + " is not of " + std::to_string(value);
  for (const std::uint8_t each : weights.tensor(3).as<const std::uint8_t>())
    if (each != static_cast<std::uint8_t>(value)) return "the scale is of another version";
  return {};
}

}  // namespace troupe::test
