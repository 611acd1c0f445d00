// The way through the model, and back. Activations are [sequences * length, width], of one type; parameters'
// gradients and all sums are of float32.
#include "gpt/pass.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>
#include <utility>

#include <troupe/kernels/dense.hpp>
#include <troupe/kernels/embedding.hpp>
#include <troupe/kernels/product.hpp>
#include <troupe/kernels/vector.hpp>

#include "gpt/dropout_sites.hpp"

namespace troupe::gpt {

using kernels::Dropout;
using kernels::Element;
using kernels::GeluKind;

Pass::Pass(Machine& machine, const ModelShape& shape, PassOptions options)
    : machine_(machine),
      shape_(shape),
      options_(options),
      parameters_(shape),
      layers_(static_cast<std::size_t>(shape.layers)) {}

Result<std::unique_ptr<Pass>> Pass::create(Machine& machine, const ModelShape& shape, PassOptions options) {
  if (auto valid = shape.validate(); !valid) return valid.error();
  if (options.sequences < 1 || options.sequences > (1 << 20))
    return Error{Code::kInvalidArgument,
                 std::to_string(options.sequences) + " sequences at once: from 1 to 1048576 would do"};
  std::unique_ptr<Pass> pass(new Pass(machine, shape, options));
  Arena counted(nullptr);
  pass->lay_out(counted);
  auto memory = machine.allocate(counted.used());
  if (!memory) return with_context(memory.error(), "memory for a pass");
  pass->memory_ = *std::move(memory);
  Arena arena(pass->memory_.data());
  pass->lay_out(arena);
  const auto rows = static_cast<std::size_t>(options.sequences * shape.block);
  auto staging = machine.allocate_staging(2 * 2 * rows * sizeof(std::int64_t));
  if (!staging) return with_context(staging.error(), "memory for batches");
  pass->staging_ = *std::move(staging);
  const std::vector<float> ones(static_cast<std::size_t>(options.sequences), 1.0F);
  if (pass->ones_) machine.upload(pass->ones_, ones.data(), ones.size() * sizeof(float));
  if (auto ready = machine.finish(); !ready) return ready.error();
  return pass;
}

void Pass::lay_out(Arena& arena) {
  const auto rows = static_cast<std::size_t>(options_.sequences * shape_.block);
  const auto width = static_cast<std::size_t>(shape_.width);
  const std::size_t size = kernels::size_of(options_.element);
  const std::size_t narrow = rows * width * size;
  arena.take(tokens_, rows);
  arena.take(targets_, rows);
  arena.take(losses_, std::max(rows, static_cast<std::size_t>(shape_.vocabulary)));
  if (options_.element != Element::kFloat32) arena.take(embedded_, rows * width);
  // Without a way back all layers have the same memory, but for what goes from one to the next.
  const std::size_t kept = options_.training ? layers_.size() : 1;
  for (std::size_t i = 0; i < kept; ++i) {
    Layer& layer = layers_[i];
    arena.take(layer.in, narrow);
    arena.take(layer.norm1, narrow);
    arena.take(layer.qkv, 3 * narrow);
    arena.take(layer.attended, narrow);
    arena.take(layer.middle, narrow);
    arena.take(layer.norm2, narrow);
    arena.take(layer.feed, 4 * narrow);
    arena.take(layer.active, 4 * narrow);
    for (float** each : {&layer.mean1, &layer.deviation1, &layer.mean2, &layer.deviation2})
      arena.take(*each, rows);
    arena.take(layer.log_sums, rows * static_cast<std::size_t>(shape_.heads));
  }
  arena.take(last_, narrow);
  for (std::size_t i = kept; i < layers_.size(); ++i) {
    layers_[i] = layers_[0];
    if (i % 2 == 1) layers_[i].in = last_;
  }
  arena.take(last_norm_, narrow);
  arena.take(last_mean_, rows);
  arena.take(last_deviation_, rows);
  arena.take(scratch_, narrow);
  if (!options_.training) return;
  arena.take(logits_, rows * static_cast<std::size_t>(shape_.vocabulary) * size);
  arena.take(gradients_, narrow);
  arena.take(dropped_, narrow);
  arena.take(wide_, 4 * narrow);
  arena.take(qkv_, 3 * narrow);
  arena.take(ones_, static_cast<std::size_t>(options_.sequences));
  // As aligned as the gradients will be.
  const auto* const somewhere = reinterpret_cast<const float*>(std::uintptr_t{512});
  kernels::Attention attention = attention_shape();
  attention.sequences = options_.sequences;
  attention.length = shape_.block;
  workspace_bytes_ = std::max(
      {kernels::column_workspace(machine_.place(), 4 * shape_.width), kernels::attention_workspace(attention),
       kernels::embedding_workspace(machine_.place(), somewhere, static_cast<std::int64_t>(rows),
                                    shape_.vocabulary, shape_.width, somewhere)});
  arena.take(workspace_, workspace_bytes_);
}

std::byte* Pass::after(std::int64_t layer) const {
  const auto next = static_cast<std::size_t>(layer) + 1;
  if (options_.training) return next < layers_.size() ? layers_[next].in : last_;
  return layers_[next - 1].in == last_ ? layers_[0].in : last_;
}

kernels::Attention Pass::attention_shape() const {
  kernels::Attention attention;
  attention.element = options_.element;
  attention.sequences = sequences_;
  attention.heads = shape_.heads;
  attention.length = length_;
  attention.width = shape_.head_width();
  attention.stride = 3 * shape_.width;
  attention.out_stride = shape_.width;
  attention.scale = 1 / std::sqrt(static_cast<float>(shape_.head_width()));
  return attention;
}

Result<void> Pass::load(const Batch& batch) {
  const auto rows = static_cast<std::size_t>(batch.sequences * batch.length);
  if (batch.sequences < 1 || batch.sequences > options_.sequences || batch.length < 1 ||
      batch.length > shape_.block || batch.tokens.size() != rows ||
      (!batch.targets.empty() && batch.targets.size() != rows))
    return Error{Code::kInvalidArgument, "a batch of " + std::to_string(batch.sequences) + " texts of " +
                                             std::to_string(batch.length) + " tokens; at most " +
                                             std::to_string(options_.sequences) + " of " +
                                             std::to_string(shape_.block) + " would do"};
  for (const std::int64_t token : batch.tokens)
    if (token < 0 || token >= shape_.vocabulary)
      return Error{Code::kInvalidArgument, "token " + std::to_string(token) + " is none of the " +
                                               std::to_string(shape_.vocabulary) + " that the model knows"};
  counted_ = 0;
  for (const std::int64_t target : batch.targets) {
    if (target >= shape_.vocabulary)
      return Error{Code::kInvalidArgument, "target " + std::to_string(target) + " is no token of the model"};
    counted_ += target >= 0 ? 1 : 0;
  }
  Event& staged = staged_[next_stage_];
  if (auto passed = staged.wait(std::chrono::seconds(120)); !passed) return passed;
  const std::size_t bytes = rows * sizeof(std::int64_t);
  std::byte* const stage = staging_.data() + next_stage_ * (staging_.size() / 2);
  std::memcpy(stage, batch.tokens.data(), bytes);
  machine_.upload(tokens_, stage, bytes);
  has_targets_ = !batch.targets.empty();
  if (has_targets_) {
    std::memcpy(stage + bytes, batch.targets.data(), bytes);
    machine_.upload(targets_, stage + bytes, bytes);
  }
  staged = machine_.event();
  next_stage_ = 1 - next_stage_;
  sequences_ = batch.sequences;
  length_ = batch.length;
  rows_ = static_cast<std::int64_t>(rows);
  return machine_.status();
}

void Pass::give_product(const kernels::Product& product, const void* a, const void* b, void* out) {
  const std::string size = machine_.profiles() ? std::to_string(product.m) + "x" + std::to_string(product.n) +
                                                     "x" + std::to_string(product.k)
                                               : "";
  machine_.give(
      machine_.products().multiply(machine_.place(), product, a, b, out, machine_.product_workspace()), size);
}

void Pass::multiply(std::int64_t m, std::int64_t n, std::int64_t k, const void* a, const void* b,
                    bool transpose_b, const float* bias, void* out) {
  kernels::Product product;
  product.element = product.out_element = options_.element;
  product.transpose_b = transpose_b;
  product.m = m;
  product.n = n;
  product.k = k;
  product.bias = bias;
  give_product(product, a, b, out);
}

void Pass::weight_gradient(std::int64_t k, std::int64_t n, const void* x, const void* gradients, float* out) {
  kernels::Product product;
  product.element = options_.element;
  product.transpose_a = true;
  product.m = k;
  product.n = n;
  product.k = rows_;
  give_product(product, x, gradients, out);
}

Result<void> Pass::forward(Weights& weights, Dropout dropout) {
  if (rows_ == 0) return Error{Code::kFailedPrecondition, "no batch has been loaded"};
  if (auto done = embed(weights, dropout); !done) return done;
  for (std::int64_t i = 0; i < shape_.layers; ++i)
    if (auto done = layer_forward(weights, i, dropout); !done) return done;
  const int layer = static_cast<int>(shape_.layers) + 1;
  if (auto begun = weights.begin_layer(layer); !begun) return begun;
  machine_.give(kernels::layer_norm(machine_.place(), options_.element, after(shape_.layers - 1), rows_,
                                    shape_.width, weights.floats(parameters_.last_gain()),
                                    weights.floats(parameters_.last_shift()), shape_.epsilon, last_norm_,
                                    last_mean_, last_deviation_));
  if (auto ended = weights.end_layer(layer); !ended) return ended;
  return machine_.status();
}

Result<void> Pass::embed(Weights& weights, const Dropout& dropout) {
  if (auto begun = weights.begin_layer(0); !begun) return begun;
  const bool cast = options_.element != Element::kFloat32;
  float* const out = cast ? embedded_ : reinterpret_cast<float*>(layers_[0].in);
  const auto place = machine_.place();
  machine_.give(kernels::embedding(place, Element::kFloat32, weights.floats(Parameters::kTokens), tokens_,
                                   rows_, shape_.width, out));
  machine_.give(kernels::add_bias(place, Element::kFloat32, out, weights.floats(Parameters::kPositions),
                                  sequences_, length_ * shape_.width, out));
  const std::int64_t n = rows_ * shape_.width;
  if (dropout.rate > 0)
    machine_.give(
        kernels::drop(place, Element::kFloat32, out, n, at_site(dropout, 0, DropoutSite::kEmbedding), out));
  if (cast) machine_.give(kernels::cast(place, Element::kFloat32, out, options_.element, layers_[0].in, n));
  return weights.end_layer(0);
}

Result<void> Pass::layer_forward(Weights& weights, std::int64_t layer, const Dropout& dropout) {
  if (auto begun = weights.begin_layer(static_cast<int>(layer) + 1); !begun) return begun;
  const Layer& at = layers_[static_cast<std::size_t>(layer)];
  const std::int64_t width = shape_.width;
  const auto place = machine_.place();
  const Element element = options_.element;
  const auto floats = [&](LayerParameter which) { return weights.floats(Parameters::of(layer, which)); };
  const auto matrix = [&](LayerParameter which) { return weights.elements(Parameters::of(layer, which)); };

  machine_.give(kernels::layer_norm(place, element, at.in, rows_, width, floats(kAttentionGain),
                                    floats(kAttentionShift), shape_.epsilon, at.norm1, at.mean1,
                                    at.deviation1));
  multiply(rows_, 3 * width, width, at.norm1, matrix(kQkvWeight), false, floats(kQkvBias), at.qkv);
  kernels::Attention attention = attention_shape();
  attention.dropout = at_site(dropout, layer, DropoutSite::kAttention);
  const auto part = static_cast<std::size_t>(width) * kernels::size_of(element);
  machine_.give(kernels::attention(place, attention, at.qkv, at.qkv + part, at.qkv + 2 * part, at.attended,
                                   at.log_sums));
  multiply(rows_, width, width, at.attended, matrix(kProjectionWeight), false, nullptr, scratch_);
  machine_.give(kernels::add_residual(place, element, at.in, scratch_, floats(kProjectionBias), rows_, width,
                                      at_site(dropout, layer, DropoutSite::kProjection), at.middle));

  machine_.give(kernels::layer_norm(place, element, at.middle, rows_, width, floats(kFeedGain),
                                    floats(kFeedShift), shape_.epsilon, at.norm2, at.mean2, at.deviation2));
  multiply(rows_, 4 * width, width, at.norm2, matrix(kFeedWeight), false, nullptr, at.feed);
  machine_.give(kernels::gelu(place, element, at.feed, floats(kFeedBias), rows_, 4 * width, at.active,
                              GeluKind::kTanh));
  multiply(rows_, width, 4 * width, at.active, matrix(kOutWeight), false, nullptr, scratch_);
  machine_.give(kernels::add_residual(place, element, at.middle, scratch_, floats(kOutBias), rows_, width,
                                      at_site(dropout, layer, DropoutSite::kOut), after(layer)));
  return weights.end_layer(static_cast<int>(layer) + 1);
}

Result<void> Pass::head_forward(Weights& weights) {
  if (!has_targets_ || !logits_)
    return Error{Code::kFailedPrecondition, "losses need targets, and a pass for training"};
  multiply(rows_, shape_.vocabulary, shape_.width, last_norm_, weights.elements(Parameters::kTokens), true,
           nullptr, logits_);
  return {};
}

Result<void> Pass::losses(Weights& weights) {
  if (auto begun = weights.begin_layer(0); !begun) return begun;
  if (auto done = head_forward(weights); !done) return done;
  machine_.give(kernels::softmax_cross_entropy(machine_.place(), options_.element, logits_, targets_, rows_,
                                               shape_.vocabulary, 1, losses_, nullptr));
  return weights.end_layer(0);
}

Result<double> Pass::loss() {
  std::vector<float> each(static_cast<std::size_t>(rows_));
  if (auto got = machine_.download(each.data(), losses_, each.size() * sizeof(float)); !got)
    return got.error();
  double sum = 0;
  for (const float loss : each) sum += double{loss};
  return counted_ == 0 ? 0.0 : sum / static_cast<double>(counted_);
}

Result<std::vector<float>> Pass::logits(Weights& weights, std::int64_t sequence, std::int64_t position) {
  if (sequence < 0 || sequence >= sequences_ || position < 0 || position >= length_)
    return Error{Code::kInvalidArgument, "there is no such position in the batch"};
  if (auto begun = weights.begin_layer(0); !begun) return begun.error();
  const auto row = static_cast<std::size_t>((sequence * length_ + position) * shape_.width);
  kernels::Product product;
  product.element = options_.element;
  product.transpose_b = true;
  product.m = 1;
  product.n = shape_.vocabulary;
  product.k = shape_.width;
  machine_.give(machine_.products().multiply(
      machine_.place(), product, last_norm_ + row * kernels::size_of(options_.element),
      weights.elements(Parameters::kTokens), losses_, machine_.product_workspace()));
  std::vector<float> all(static_cast<std::size_t>(shape_.vocabulary));
  if (auto got = machine_.download(all.data(), losses_, all.size() * sizeof(float)); !got) return got.error();
  if (auto ended = weights.end_layer(0); !ended) return ended.error();
  return all;
}

}  // namespace troupe::gpt
