#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <utility>

#include <troupe/runtime/tensor.hpp>

#include "cart_pole.hpp"

/// What each push is worth from each state, linear in the cosines of a Fourier basis of order 3 (Konidaris,
/// Osentoski and Thomas 2011): a weight for each of 256 features and both pushes.
class QValues {
 public:
  static constexpr int kFeatures = 256;
  using Features = std::array<float, kFeatures>;

  static Features features(const float* state) {
    constexpr std::array<float, 4> kRange{2.4F, 3.0F, 0.21F, 3.0F};
    Features features;
    std::array<std::array<float, 4>, 4> angles{};  // [number of the state][factor]
    for (std::size_t i = 0; i < 4; ++i)
      for (std::size_t c = 0; c < 4; ++c)
        angles[i][c] =
            3.14159265F * static_cast<float>(c) * std::clamp((state[i] / kRange[i] + 1) / 2, 0.0F, 1.0F);
    for (std::size_t f = 0; f < kFeatures; ++f)
      features[f] =
          std::cos(angles[0][f & 3] + angles[1][f >> 2 & 3] + angles[2][f >> 4 & 3] + angles[3][f >> 6]);
    return features;
  }

  QValues() : weights(troupe::Tensor::zeros(troupe::DType::kFloat32, troupe::Shape{2, kFeatures})) {}
  explicit QValues(troupe::Tensor tensor) : weights(std::move(tensor)) {}

  float value(const Features& features, bool right) const {
    const float* const w = weights.as<const float>().data() + (right ? kFeatures : 0);
    float sum = 0;
    for (std::size_t f = 0; f < kFeatures; ++f) sum += w[f] * features[f];
    return sum;
  }
  bool best(const Features& features) const { return value(features, true) > value(features, false); }
  bool best(const CartPole::State& state) const { return best(features(state.data())); }
  troupe::Tensor weights;
};
