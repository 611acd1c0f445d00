#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include <troupe/kernels/attention.hpp>
#include <troupe/kernels/dropout.hpp>
#include <troupe/kernels/place.hpp>

#include "gpt/machine.hpp"
#include "gpt/weights.hpp"

namespace troupe::gpt {

struct PassOptions {
  kernels::Element element = kernels::Element::kFloat32;  ///< of activations and their gradients
  std::int64_t sequences = 1;                             ///< at most
  bool training = true;                                   ///< else there is no way back
};

/// Texts of equal length, one after the other, and for each token the one that comes after it.
struct Batch {
  std::int64_t sequences = 0;
  std::int64_t length = 0;
  std::vector<std::int64_t> tokens;   ///< [sequences, length]
  std::vector<std::int64_t> targets;  ///< likewise; below 0: counts for nothing; empty: no loss is wanted
};

/// A way through the model and back, with the memory for both, all taken in the beginning. One thread at a
/// time; several passes may share weights that nobody changes meanwhile.
class Pass {
 public:
  /// kInvalidArgument for a shape that cannot be; kResourceExhausted: no memory.
  static Result<std::unique_ptr<Pass>> create(Machine& machine, const ModelShape& shape, PassOptions options);

  /// kInvalidArgument: too many sequences, too long, or a token that is none.
  Result<void> load(const Batch& batch);
  /// `dropout.seed` is this step's. What was given to a GPU may still be under way.
  Result<void> forward(Weights& weights, kernels::Dropout dropout = {});
  /// Gradients of `scale` times the sum of all tokens' losses, after forward() with the same dropout. The
  /// last loss can be asked for afterwards, logits cannot.
  Result<void> backward(Weights& weights, float scale, kernels::Dropout dropout = {});
  /// After forward(), instead of the way back: makes what loss() tells.
  Result<void> losses(Weights& weights);
  /// The mean loss of the tokens that count. Waits.
  Result<double> loss();
  /// After forward() alone: the logits of what comes after position `position` of a sequence. Waits.
  Result<std::vector<float>> logits(Weights& weights, std::int64_t sequence, std::int64_t position);

  std::int64_t tokens() const { return rows_; }
  std::size_t bytes() const { return memory_.size(); }

 private:
  /// What a layer keeps for the way back.
  struct Layer {
    std::byte *in, *norm1, *qkv, *attended, *middle, *norm2, *feed, *active;
    float *mean1, *deviation1, *log_sums, *mean2, *deviation2;
  };
  /// Hands out memory one piece after the other; from null it only counts.
  class Arena {
   public:
    explicit Arena(std::byte* base) : base_(base) {}
    template <class T>
    void take(T*& to, std::size_t count) {
      to = base_ ? reinterpret_cast<T*>(base_ + used_) : nullptr;
      used_ += (count * sizeof(T) + 511) / 512 * 512;
    }
    std::size_t used() const { return used_; }

   private:
    std::byte* base_;
    std::size_t used_ = 0;
  };

  Pass(Machine& machine, const ModelShape& shape, PassOptions options);
  void lay_out(Arena& arena);
  Result<void> embed(Weights& weights, const kernels::Dropout& dropout);
  Result<void> layer_forward(Weights& weights, std::int64_t layer, const kernels::Dropout& dropout);
  Result<void> head_forward(Weights& weights);
  Result<void> head_backward(Weights& weights, float scale);
  Result<void> layer_backward(Weights& weights, std::int64_t layer, const kernels::Dropout& dropout);
  Result<void> feed_backward(Weights& weights, std::int64_t layer, const kernels::Dropout& dropout);
  Result<void> attention_part_backward(Weights& weights, std::int64_t layer, const kernels::Dropout& dropout);
  Result<void> embed_backward(Weights& weights, const kernels::Dropout& dropout);

  kernels::Attention attention_shape() const;
  void give_product(const kernels::Product& product, const void* a, const void* b, void* out);
  /// out [m, n] = a [m, k] * b [k, n] + bias, elements all.
  void multiply(std::int64_t m, std::int64_t n, std::int64_t k, const void* a, const void* b,
                bool transpose_b, const float* bias, void* out);
  /// A matrix' gradient, float32 [k, n] = x [rows, k] transposed * gradients [rows, n].
  void weight_gradient(std::int64_t k, std::int64_t n, const void* x, const void* gradients, float* out);
  void norm_backward(Weights& weights, int gain, const void* x, const float* means, const float* deviations);
  /// gradients_ += scratch_.
  void add_to_gradients();
  const void* dropped_gradients(const kernels::Dropout& dropout);
  std::byte* after(std::int64_t layer) const;

  Machine& machine_;
  ModelShape shape_;
  PassOptions options_;
  Parameters parameters_;
  Buffer memory_;
  Buffer staging_;
  std::byte* stage_ = nullptr;
  std::array<Event, 2> staged_;
  std::size_t next_stage_ = 0;

  std::int64_t sequences_ = 0;  // of the batch that is loaded
  std::int64_t length_ = 0;
  std::int64_t rows_ = 0;
  std::int64_t counted_ = 0;
  bool has_targets_ = false;

  std::vector<Layer> layers_;
  std::byte* last_ = nullptr;  // what the last layer gives
  std::byte* last_norm_ = nullptr;
  float *last_mean_ = nullptr, *last_deviation_ = nullptr;
  std::byte* logits_ = nullptr;
  float* losses_ = nullptr;
  std::int64_t *tokens_ = nullptr, *targets_ = nullptr;
  float* embedded_ = nullptr;  // float32, where activations are not
  // Of the way back:
  std::byte *gradients_ = nullptr, *scratch_ = nullptr, *dropped_ = nullptr, *wide_ = nullptr,
            *qkv_ = nullptr;
  float* ones_ = nullptr;
  std::byte* workspace_ = nullptr;
  std::size_t workspace_bytes_ = 0;
};

}  // namespace troupe::gpt
