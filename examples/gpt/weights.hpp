#pragma once

#include <cstdint>

#include <troupe/kernels/place.hpp>
#include <troupe/runtime/result.hpp>

#include "gpt/model_shape.hpp"

namespace troupe::gpt {

/// Where a pass finds parameters, and leaves their gradients. Parameters of a layer may be asked for between
/// begin_layer() and end_layer().
class Weights {
 public:
  virtual ~Weights() = default;
  virtual Result<void> begin_layer(int layer) = 0;
  virtual Result<void> end_layer(int layer) = 0;
  /// As float32.
  virtual const float* floats(int parameter) const = 0;
  /// In the type of the pass's activations.
  virtual const void* elements(int parameter) const = 0;
  /// To be written whole; then comes gradient_done(), the last parameter's first.
  virtual float* gradient(int parameter) = 0;
  virtual Result<void> gradient_done(int parameter) = 0;
};

/// All parameters whole, and all gradients, each in one piece of memory.
class FlatWeights final : public Weights {
 public:
  /// `halves` are the same as `floats` in 16 bits, or null; `gradients` may be null where there is no way
  /// back.
  FlatWeights(const Parameters& parameters, const float* floats, const std::uint16_t* halves,
              float* gradients)
      : parameters_(parameters), floats_(floats), halves_(halves), gradients_(gradients) {}

  Result<void> begin_layer(int) override { return {}; }
  Result<void> end_layer(int) override { return {}; }
  const float* floats(int parameter) const override { return floats_ + parameters_[parameter].offset; }
  const void* elements(int parameter) const override {
    if (!halves_) return floats(parameter);
    return halves_ + parameters_[parameter].offset;
  }
  float* gradient(int parameter) override { return gradients_ + parameters_[parameter].offset; }
  Result<void> gradient_done(int) override { return {}; }

 private:
  const Parameters& parameters_;
  const float* floats_;
  const std::uint16_t* halves_;
  float* gradients_;
};

}  // namespace troupe::gpt
