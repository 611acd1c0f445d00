// The way back: from the gradients of a layer's output those of its input and of its parameters, the last
// one's first.
#include <utility>

#include <troupe/kernels/attention.hpp>
#include <troupe/kernels/dense.hpp>
#include <troupe/kernels/embedding.hpp>
#include <troupe/kernels/product.hpp>
#include <troupe/kernels/vector.hpp>

#include "gpt/dropout_sites.hpp"
#include "gpt/pass.hpp"

namespace troupe::gpt {

using kernels::Dropout;
using kernels::Element;
using kernels::GeluKind;

Result<void> Pass::backward(Weights& weights, float scale, Dropout dropout) {
  if (auto done = head_backward(weights, scale); !done) return done;
  for (std::int64_t i = shape_.layers - 1; i >= 0; --i)
    if (auto done = layer_backward(weights, i, dropout); !done) return done;
  if (auto done = embed_backward(weights, dropout); !done) return done;
  return machine_.status();
}

void Pass::norm_backward(Weights& weights, int gain, const void* x, const float* means,
                         const float* deviations) {
  machine_.give(kernels::layer_norm_backward(machine_.place(), options_.element, x, scratch_, rows_,
                                             shape_.width, weights.floats(gain), means, deviations, scratch_,
                                             weights.gradient(gain), weights.gradient(gain + 1), workspace_));
}

void Pass::add_to_gradients() {
  machine_.give(kernels::add_residual(machine_.place(), options_.element, gradients_, scratch_, nullptr,
                                      rows_, shape_.width, {}, gradients_));
}

const void* Pass::dropped_gradients(const Dropout& dropout) {
  if (dropout.rate == 0) return gradients_;
  machine_.give(
      kernels::drop(machine_.place(), options_.element, gradients_, rows_ * shape_.width, dropout, dropped_));
  return dropped_;
}

// The tokens' table gets its gradients from here first; those of the embedding are added at the end.
Result<void> Pass::head_backward(Weights& weights, float scale) {
  const int layer = static_cast<int>(shape_.layers) + 1;
  if (auto begun = weights.begin_layer(0); !begun) return begun;
  if (auto done = head_forward(weights); !done) return done;
  machine_.give(kernels::softmax_cross_entropy(machine_.place(), options_.element, logits_, targets_, rows_,
                                               shape_.vocabulary, scale, losses_, logits_));
  weight_gradient(shape_.vocabulary, shape_.width, logits_, last_norm_,
                  weights.gradient(Parameters::kTokens));
  multiply(rows_, shape_.width, shape_.vocabulary, logits_, weights.elements(Parameters::kTokens), false,
           nullptr, scratch_);
  if (auto ended = weights.end_layer(0); !ended) return ended;
  if (auto begun = weights.begin_layer(layer); !begun) return begun;
  norm_backward(weights, parameters_.last_gain(), last_, last_mean_, last_deviation_);
  std::swap(gradients_, scratch_);
  if (auto given = weights.gradient_done(parameters_.last_shift()); !given) return given;
  if (auto given = weights.gradient_done(parameters_.last_gain()); !given) return given;
  return weights.end_layer(layer);
}

Result<void> Pass::layer_backward(Weights& weights, std::int64_t layer, const Dropout& dropout) {
  if (auto begun = weights.begin_layer(static_cast<int>(layer) + 1); !begun) return begun;
  if (auto done = feed_backward(weights, layer, dropout); !done) return done;
  if (auto done = attention_part_backward(weights, layer, dropout); !done) return done;
  return weights.end_layer(static_cast<int>(layer) + 1);
}

Result<void> Pass::feed_backward(Weights& weights, std::int64_t layer, const Dropout& dropout) {
  const Layer& at = layers_[static_cast<std::size_t>(layer)];
  const std::int64_t width = shape_.width;
  const auto place = machine_.place();
  const auto number = [&](LayerParameter which) { return Parameters::of(layer, which); };
  const auto sums = [&](const void* x, std::int64_t columns, LayerParameter which) {
    machine_.give(kernels::column_sums(place, options_.element, x, rows_, columns,
                                       weights.gradient(number(which)), workspace_));
    return weights.gradient_done(number(which));
  };
  const void* const given = dropped_gradients(at_site(dropout, layer, DropoutSite::kOut));
  if (auto done = sums(given, width, kOutBias); !done) return done;
  weight_gradient(4 * width, width, at.active, given, weights.gradient(number(kOutWeight)));
  if (auto done = weights.gradient_done(number(kOutWeight)); !done) return done;
  multiply(rows_, 4 * width, width, given, weights.elements(number(kOutWeight)), true, nullptr, wide_);
  machine_.give(kernels::gelu_backward(place, options_.element, at.feed, weights.floats(number(kFeedBias)),
                                       wide_, rows_, 4 * width, wide_, GeluKind::kTanh));
  if (auto done = sums(wide_, 4 * width, kFeedBias); !done) return done;
  weight_gradient(width, 4 * width, at.norm2, wide_, weights.gradient(number(kFeedWeight)));
  if (auto done = weights.gradient_done(number(kFeedWeight)); !done) return done;
  multiply(rows_, width, 4 * width, wide_, weights.elements(number(kFeedWeight)), true, nullptr, scratch_);
  norm_backward(weights, number(kFeedGain), at.middle, at.mean2, at.deviation2);
  if (auto done = weights.gradient_done(number(kFeedShift)); !done) return done;
  if (auto done = weights.gradient_done(number(kFeedGain)); !done) return done;
  add_to_gradients();
  return {};
}

Result<void> Pass::attention_part_backward(Weights& weights, std::int64_t layer, const Dropout& dropout) {
  const Layer& at = layers_[static_cast<std::size_t>(layer)];
  const std::int64_t width = shape_.width;
  const auto place = machine_.place();
  const auto number = [&](LayerParameter which) { return Parameters::of(layer, which); };
  const void* const given = dropped_gradients(at_site(dropout, layer, DropoutSite::kProjection));
  machine_.give(kernels::column_sums(place, options_.element, given, rows_, width,
                                     weights.gradient(number(kProjectionBias)), workspace_));
  if (auto done = weights.gradient_done(number(kProjectionBias)); !done) return done;
  weight_gradient(width, width, at.attended, given, weights.gradient(number(kProjectionWeight)));
  if (auto done = weights.gradient_done(number(kProjectionWeight)); !done) return done;
  multiply(rows_, width, width, given, weights.elements(number(kProjectionWeight)), true, nullptr, scratch_);

  kernels::Attention attention = attention_shape();
  attention.dropout = at_site(dropout, layer, DropoutSite::kAttention);
  const auto part = static_cast<std::size_t>(width) * kernels::size_of(options_.element);
  machine_.give(kernels::attention_backward(place, attention, at.qkv, at.qkv + part, at.qkv + 2 * part,
                                            at.attended, scratch_, at.log_sums, qkv_, qkv_ + part,
                                            qkv_ + 2 * part, workspace_));
  machine_.give(kernels::column_sums(place, options_.element, qkv_, rows_, 3 * width,
                                     weights.gradient(number(kQkvBias)), workspace_));
  if (auto done = weights.gradient_done(number(kQkvBias)); !done) return done;
  weight_gradient(width, 3 * width, at.norm1, qkv_, weights.gradient(number(kQkvWeight)));
  if (auto done = weights.gradient_done(number(kQkvWeight)); !done) return done;
  multiply(rows_, width, 3 * width, qkv_, weights.elements(number(kQkvWeight)), true, nullptr, scratch_);
  norm_backward(weights, number(kAttentionGain), at.in, at.mean1, at.deviation1);
  if (auto done = weights.gradient_done(number(kAttentionShift)); !done) return done;
  if (auto done = weights.gradient_done(number(kAttentionGain)); !done) return done;
  add_to_gradients();
  return {};
}

Result<void> Pass::embed_backward(Weights& weights, const Dropout& dropout) {
  if (auto begun = weights.begin_layer(0); !begun) return begun;
  const auto place = machine_.place();
  const std::int64_t n = rows_ * shape_.width;
  const auto* gradients = static_cast<const float*>(
      static_cast<const void*>(dropped_gradients(at_site(dropout, 0, DropoutSite::kEmbedding))));
  if (options_.element != Element::kFloat32) {
    machine_.give(kernels::cast(place, options_.element, gradients, Element::kFloat32, embedded_, n));
    gradients = embedded_;
  }
  // A position's gradient is the sum over the sequences: a product with ones. Positions behind the batch's
  // last have none.
  float* const positions = weights.gradient(Parameters::kPositions);
  if (length_ < shape_.block)
    machine_.clear(positions, static_cast<std::size_t>(shape_.block * shape_.width) * 4);
  kernels::Product sum;
  sum.m = 1;
  sum.n = length_ * shape_.width;
  sum.k = sequences_;
  machine_.give(
      machine_.products().multiply(place, sum, ones_, gradients, positions, machine_.product_workspace()));
  if (auto done = weights.gradient_done(Parameters::kPositions); !done) return done;
  machine_.give(kernels::embedding_backward(place, tokens_, gradients, rows_, shape_.vocabulary, shape_.width,
                                            weights.gradient(Parameters::kTokens), workspace_,
                                            workspace_bytes_));
  if (auto done = weights.gradient_done(Parameters::kTokens); !done) return done;
  return weights.end_layer(0);
}

}  // namespace troupe::gpt
