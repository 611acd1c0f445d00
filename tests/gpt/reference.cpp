#include "reference.hpp"

#include <algorithm>
#include <cmath>

namespace troupe::gpt::test {
namespace {

std::size_t index(std::int64_t i) {
  return static_cast<std::size_t>(i);
}

struct Reference {
  const ModelShape& shape;
  const Parameters parameters{shape};
  const Doubles& weights;

  const double* at(int parameter) const { return weights.data() + parameters[parameter].offset; }

  Doubles norm(const Doubles& x, int gain) const {
    Doubles out(x.size());
    for (std::int64_t r = 0; r < std::int64_t(x.size()) / shape.width; ++r) {
      const double* row = x.data() + r * shape.width;
      double mean = 0;
      double variance = 0;
      for (std::int64_t j = 0; j < shape.width; ++j) mean += row[j] / double(shape.width);
      for (std::int64_t j = 0; j < shape.width; ++j)
        variance += std::pow(row[j] - mean, 2) / double(shape.width);
      for (std::int64_t j = 0; j < shape.width; ++j)
        out[index(r * shape.width + j)] =
            (row[j] - mean) / std::sqrt(variance + double{shape.epsilon}) * at(gain)[j] + at(gain + 1)[j];
    }
    return out;
  }

  Doubles linear(const Doubles& x, std::int64_t in, std::int64_t out, int weight) const {
    const std::int64_t rows = std::int64_t(x.size()) / in;
    Doubles y(index(rows * out));
    for (std::int64_t r = 0; r < rows; ++r)
      for (std::int64_t o = 0; o < out; ++o) {
        double sum = at(weight + 1)[o];
        for (std::int64_t i = 0; i < in; ++i) sum += x[index(r * in + i)] * at(weight)[i * out + o];
        y[index(r * out + o)] = sum;
      }
    return y;
  }

  Doubles attend(const Doubles& qkv, const Batch& batch) const {
    const std::int64_t width = shape.width;
    const std::int64_t head = shape.head_width();
    Doubles out(qkv.size() / 3);
    for (std::int64_t s = 0; s < batch.sequences; ++s)
      for (std::int64_t h = 0; h < shape.heads; ++h)
        for (std::int64_t t = 0; t < batch.length; ++t) {
          const auto part = [&](std::int64_t position, std::int64_t which) {
            return qkv.data() + (s * batch.length + position) * 3 * width + which * width + h * head;
          };
          Doubles scores;
          double sum = 0;
          for (std::int64_t u = 0; u <= t; ++u) {
            double score = 0;
            for (std::int64_t j = 0; j < head; ++j) score += part(t, 0)[j] * part(u, 1)[j];
            scores.push_back(std::exp(score / std::sqrt(double(head))));
            sum += scores.back();
          }
          for (std::int64_t u = 0; u <= t; ++u)
            for (std::int64_t j = 0; j < head; ++j)
              out[index((s * batch.length + t) * width + h * head + j)] +=
                  scores[index(u)] / sum * part(u, 2)[j];
        }
    return out;
  }
};

void add(Doubles& to, const Doubles& what) {
  for (std::size_t i = 0; i < to.size(); ++i) to[i] += what[i];
}

}  // namespace

Doubles reference_logits(const ModelShape& shape, const Doubles& weights, const Batch& batch) {
  const Reference model{.shape = shape, .weights = weights};
  const std::int64_t width = shape.width;
  const std::int64_t rows = batch.sequences * batch.length;
  Doubles x(index(rows * width));
  for (std::int64_t r = 0; r < rows; ++r)
    for (std::int64_t j = 0; j < width; ++j)
      x[index(r * width + j)] = model.at(Parameters::kTokens)[batch.tokens[index(r)] * width + j] +
                                model.at(Parameters::kPositions)[r % batch.length * width + j];
  for (std::int64_t l = 0; l < shape.layers; ++l) {
    const auto number = [&](LayerParameter which) { return Parameters::of(l, which); };
    const Doubles qkv =
        model.linear(model.norm(x, number(kAttentionGain)), width, 3 * width, number(kQkvWeight));
    add(x, model.linear(model.attend(qkv, batch), width, width, number(kProjectionWeight)));
    Doubles feed = model.linear(model.norm(x, number(kFeedGain)), width, 4 * width, number(kFeedWeight));
    for (double& u : feed)
      u = u / 2 * (1 + std::tanh(std::sqrt(2 / std::acos(-1.0)) * (u + 0.044715 * u * u * u)));
    add(x, model.linear(feed, 4 * width, width, number(kOutWeight)));
  }
  x = model.norm(x, model.parameters.last_gain());
  Doubles logits(index(rows * shape.vocabulary));
  for (std::int64_t r = 0; r < rows; ++r)
    for (std::int64_t v = 0; v < shape.vocabulary; ++v)
      for (std::int64_t j = 0; j < width; ++j)
        logits[index(r * shape.vocabulary + v)] +=
            x[index(r * width + j)] * model.at(Parameters::kTokens)[v * width + j];
  return logits;
}

double reference_loss(const ModelShape& shape, const Doubles& weights, const Batch& batch) {
  const Doubles logits = reference_logits(shape, weights, batch);
  double sum = 0;
  double counted = 0;
  for (std::size_t r = 0; r < batch.targets.size(); ++r) {
    if (batch.targets[r] < 0) continue;
    double all = 0;
    const double* row = logits.data() + r * index(shape.vocabulary);
    for (std::int64_t v = 0; v < shape.vocabulary; ++v) all += std::exp(row[v]);
    sum += std::log(all) - row[batch.targets[r]];
    ++counted;
  }
  return sum / counted;
}

}  // namespace troupe::gpt::test
