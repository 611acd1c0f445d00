#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <troupe/runtime/result.hpp>
#include <troupe/runtime/tensor.hpp>

namespace troupe::gpt {

/// How large a model is: GPT-2's form (Radford et al. 2019), with learned positions, norms before attention
/// and before the two layers after it, and a head that is the tokens' table.
struct ModelShape {
  std::int64_t vocabulary = 0;
  std::int64_t block = 0;  ///< the longest text that it sees, in tokens
  std::int64_t layers = 0;
  std::int64_t heads = 0;
  std::int64_t width = 0;
  float epsilon = 1e-5F;  ///< of the norms

  /// kInvalidArgument naming the number, and what would do.
  Result<void> validate() const;
  std::int64_t head_width() const { return width / heads; }
  friend bool operator==(const ModelShape&, const ModelShape&) = default;
};

/// The parameters of a layer, in the order in which it uses them. Matrices are [in, out].
enum LayerParameter : std::uint8_t {
  kAttentionGain,
  kAttentionShift,
  kQkvWeight,
  kQkvBias,
  kProjectionWeight,
  kProjectionBias,
  kFeedGain,
  kFeedShift,
  kFeedWeight,
  kFeedBias,
  kOutWeight,
  kOutBias,
};
inline constexpr int kPerLayer = 12;

struct Parameter {
  std::string name;  ///< Hugging Face's, without "transformer."
  Shape shape;
  int layer = 0;            ///< 0: the embeddings; then the layers; then the last norm
  std::int64_t offset = 0;  ///< elements before it, where all lie together
  std::int64_t n = 0;
  bool matrix() const { return shape.rank() == 2; }
};

/// A model's parameters, and where they lie in one piece of memory: each begins at a multiple of 64 elements.
class Parameters {
 public:
  explicit Parameters(const ModelShape& shape);

  static constexpr int kTokens = 0;
  static constexpr int kPositions = 1;
  static int of(std::int64_t layer, LayerParameter which) {
    return 2 + kPerLayer * static_cast<int>(layer) + static_cast<int>(which);
  }
  int last_gain() const { return count() - 2; }
  int last_shift() const { return count() - 1; }

  int count() const { return static_cast<int>(all_.size()); }
  const Parameter& operator[](int parameter) const { return all_[static_cast<std::size_t>(parameter)]; }
  const std::vector<Parameter>& all() const { return all_; }
  /// Elements with what lies between parameters.
  std::int64_t elements() const { return elements_; }
  /// Without.
  std::int64_t numbers() const;

  /// GPT-2's first values: normal with deviation 0.02, smaller by 1 / sqrt(2 * layers) where something is
  /// added to the residual; gains are 1, everything else is 0. `to` has elements() numbers.
  void first_values(std::int64_t layers, std::uint64_t seed, float* to) const;

 private:
  void add(std::string name, Shape shape, int layer);

  std::vector<Parameter> all_;
  std::int64_t elements_ = 0;
};

}  // namespace troupe::gpt
