#include "gpt/sampler.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>

#include <troupe/runtime/random.hpp>

#include "gpt/pass.hpp"
#include "gpt/weights.hpp"

namespace troupe::gpt {
namespace {

/// A model that only reads.
struct Reader {
  Reader(Machine& machine, const ModelShape& shape) : parameters(shape), machine_(machine) {}
  Result<void> open(const ModelShape& shape, const std::vector<float>& values) {
    auto memory = machine_.allocate(values.size() * sizeof(float));
    if (!memory) return memory.error();
    floats_ = *std::move(memory);
    machine_.upload(floats_.data(), values.data(), floats_.size());
    weights.emplace(parameters, reinterpret_cast<const float*>(floats_.data()), nullptr, nullptr);
    auto made = Pass::create(machine_, shape, {.sequences = 1, .training = false});
    if (!made) return made.error();
    pass = *std::move(made);
    return {};
  }
  Result<void> read(const std::vector<std::int32_t>& tokens, std::size_t begin) {
    Batch batch{1, static_cast<std::int64_t>(tokens.size() - begin), {}, {}};
    batch.tokens.assign(tokens.begin() + static_cast<std::ptrdiff_t>(begin), tokens.end());
    if (auto loaded = pass->load(batch); !loaded) return loaded;
    return pass->forward(*weights);
  }

  Parameters parameters;
  std::optional<FlatWeights> weights;
  std::unique_ptr<Pass> pass;

 private:
  Machine& machine_;
  Buffer floats_;
};

std::int32_t choose(const std::vector<float>& logits, const SampleOptions& options, Random& random) {
  std::vector<std::int32_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  const auto likelier = [&](std::int32_t a, std::int32_t b) {
    const float la = logits[static_cast<std::size_t>(a)];
    const float lb = logits[static_cast<std::size_t>(b)];
    return la > lb || (la == lb && a < b);
  };
  const std::size_t count = options.temperature <= 0 ? 1
                            : options.most > 0
                                ? std::min(order.size(), static_cast<std::size_t>(options.most))
                                : order.size();
  std::partial_sort(order.begin(), order.begin() + static_cast<std::ptrdiff_t>(count), order.end(), likelier);
  if (count == 1) return order[0];
  std::vector<double> sums;
  sums.reserve(count);
  const double most{logits[static_cast<std::size_t>(order[0])]};
  double sum = 0;
  for (std::size_t i = 0; i < count; ++i)
    sums.push_back(
        sum += std::exp((double{logits[static_cast<std::size_t>(order[i])]} - most) / options.temperature));
  const auto at = std::upper_bound(sums.begin(), sums.end(), random.uniform() * sum) - sums.begin();
  return order[std::min(static_cast<std::size_t>(at), count - 1)];
}

}  // namespace

Result<std::string> sample(Machine& machine, const ModelShape& shape, const std::vector<float>& weights,
                           const Tokenizer& tokenizer, std::string_view prompt,
                           const SampleOptions& options) {
  auto tokens = tokenizer.encode(prompt);
  if (!tokens) return with_context(tokens.error(), "the prompt");
  if (tokens->empty()) return Error{Code::kInvalidArgument, "the prompt is empty: one character at least"};
  Reader reader(machine, shape);
  if (auto opened = reader.open(shape, weights); !opened) return opened.error();
  Random random(options.seed);
  const std::size_t before = tokens->size();
  for (std::int64_t i = 0; i < options.tokens; ++i) {
    const std::size_t seen = std::min(tokens->size(), static_cast<std::size_t>(shape.block));
    if (auto read = reader.read(*tokens, tokens->size() - seen); !read) return read.error();
    const auto logits = reader.pass->logits(*reader.weights, 0, static_cast<std::int64_t>(seen) - 1);
    if (!logits) return logits.error();
    tokens->push_back(choose(*logits, options, random));
  }
  return tokenizer.decode(std::span(*tokens).subspan(before));
}

Result<std::vector<float>> all_logits(Machine& machine, const ModelShape& shape,
                                      const std::vector<float>& weights,
                                      const std::vector<std::int32_t>& tokens) {
  Reader reader(machine, shape);
  if (auto opened = reader.open(shape, weights); !opened) return opened.error();
  if (auto read = reader.read(tokens, 0); !read) return read.error();
  std::vector<float> all;
  for (std::size_t t = 0; t < tokens.size(); ++t) {
    const auto logits = reader.pass->logits(*reader.weights, 0, static_cast<std::int64_t>(t));
    if (!logits) return logits.error();
    all.insert(all.end(), logits->begin(), logits->end());
  }
  return all;
}

}  // namespace troupe::gpt
