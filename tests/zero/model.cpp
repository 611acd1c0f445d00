#include "model.hpp"

#include <algorithm>
#include <span>

#include <troupe/kernels/cast.hpp>

namespace troupe::training::test {
namespace {

std::size_t index(std::int64_t i) {
  return static_cast<std::size_t>(i);
}

/// Layer by layer, with the hooks; `inputs` gets what each layer is given, and the last one's output.
void run_forward(const Model& model, Zero& zero, const Batch& batch, std::vector<Floats>& inputs) {
  inputs = {batch.x};
  for (int layer = 0; layer < model.layers(); ++layer) {
    zero.begin_layer(layer).value();
    const Floats weights = floats_of(zero.parameter(2 * layer).value());
    const Floats biases = floats_of(zero.parameter(2 * layer + 1).value());
    inputs.push_back(forward(model, layer, weights, biases, inputs.back(), batch.rows));
    zero.end_layer(layer).value();
  }
}

}  // namespace

std::vector<ZeroParameter> Model::parameters() const {
  std::vector<ZeroParameter> all;
  for (int layer = 0; layer < layers(); ++layer) {
    const std::string name = "layer." + std::to_string(layer);
    all.push_back({name + ".weight", Shape{out(layer), in(layer)}, layer});
    all.push_back({name + ".bias", Shape{out(layer)}, layer});
  }
  return all;
}

Floats Model::first_values(int parameter, std::int64_t n) {
  std::mt19937 random(static_cast<unsigned>(parameter) + 1);
  Floats values(index(n));
  for (float& each : values) each = static_cast<float>(random() % 2001) / 2500.0F - 0.4F;
  return values;
}

Batch batch_of(const Model& model, std::uint64_t step, std::int64_t first, std::int64_t rows) {
  Batch batch;
  batch.rows = rows;
  for (std::int64_t row = first; row < first + rows; ++row) {
    std::mt19937 random(static_cast<unsigned>(step * 1000 + static_cast<std::uint64_t>(row)) + 99);
    const auto number = [&] { return static_cast<float>(random() % 4001) / 2000.0F - 1.0F; };
    float sum = 0;
    for (std::int64_t i = 0; i < model.widths.front(); ++i) {
      batch.x.push_back(number());
      sum += batch.x.back() * static_cast<float>(i % 3);
    }
    // Noise, so that the loss never becomes so small that its rounding is all there is.
    for (std::int64_t i = 0; i < model.widths.back(); ++i)
      batch.y.push_back(std::sin(sum + static_cast<float>(i)) + number());
  }
  return batch;
}

Floats forward(const Model& model, int layer, const Floats& weights, const Floats& biases, const Floats& x,
               std::int64_t rows) {
  const std::int64_t in = model.in(layer);
  const std::int64_t out = model.out(layer);
  Floats y(index(rows * out));
  for (std::int64_t r = 0; r < rows; ++r) {
    for (std::int64_t o = 0; o < out; ++o) {
      float sum = biases[index(o)];
      for (std::int64_t i = 0; i < in; ++i) sum += weights[index(o * in + i)] * x[index(r * in + i)];
      y[index(r * out + o)] = layer + 1 < model.layers() ? std::tanh(sum) : sum;
    }
  }
  return y;
}

LayerGradients backward(const Model& model, int layer, const Floats& weights, const Floats& x,
                        const Floats& y, Floats y_gradients, std::int64_t rows) {
  const std::int64_t in = model.in(layer);
  const std::int64_t out = model.out(layer);
  if (layer + 1 < model.layers())
    for (std::size_t i = 0; i < y.size(); ++i) y_gradients[i] *= 1 - y[i] * y[i];
  LayerGradients gradients{Floats(weights.size()), Floats(index(out)), Floats(x.size())};
  for (std::int64_t r = 0; r < rows; ++r) {
    for (std::int64_t o = 0; o < out; ++o) {
      const float g = y_gradients[index(r * out + o)];
      gradients.biases[index(o)] += g;
      for (std::int64_t i = 0; i < in; ++i) {
        gradients.weights[index(o * in + i)] += g * x[index(r * in + i)];
        gradients.x[index(r * in + i)] += g * weights[index(o * in + i)];
      }
    }
  }
  return gradients;
}

double loss_of(const Floats& out, const Batch& batch, float scale, Floats& gradients) {
  double sum = 0;
  gradients.resize(out.size());
  for (std::size_t i = 0; i < out.size(); ++i) {
    const float difference = out[i] - batch.y[i];
    sum += 0.5 * double{difference} * double{difference};
    gradients[i] = scale * difference / static_cast<float>(out.size());
  }
  return sum / static_cast<double>(out.size());
}

Alone::Alone(const Model& model) : model_(model) {
  int number = 0;
  for (const ZeroParameter& each : model.parameters()) {
    values_.push_back(Model::first_values(number++, each.shape.elements()));
    first_.emplace_back(values_.back().size());
    second_.emplace_back(values_.back().size());
  }
}

double Alone::step(const Batch& batch, float max_norm) {
  std::vector<Floats> inputs = {batch.x};
  for (int layer = 0; layer < model_.layers(); ++layer)
    inputs.push_back(forward(model_, layer, values_[index(2 * layer)], values_[index(2 * layer + 1)],
                             inputs.back(), batch.rows));
  Floats back;
  const double loss = loss_of(inputs.back(), batch, 1, back);
  std::vector<Floats> gradients(values_.size());
  for (int layer = model_.layers() - 1; layer >= 0; --layer) {
    LayerGradients all = backward(model_, layer, values_[index(2 * layer)], inputs[index(layer)],
                                  inputs[index(layer) + 1], back, batch.rows);
    gradients[index(2 * layer)] = std::move(all.weights);
    gradients[index(2 * layer + 1)] = std::move(all.biases);
    back = std::move(all.x);
  }
  double squares = 0;
  for (const Floats& each : gradients)
    for (const float g : each) squares += double{g} * double{g};
  norm_ = std::sqrt(squares);
  const double held = max_norm > 0 && norm_ > double{max_norm} ? double{max_norm} / norm_ : 1;
  ++steps_;
  const double correction1 = 1 - std::pow(0.9, steps_);
  const double correction2 = 1 - std::pow(0.999, steps_);
  for (std::size_t p = 0; p < values_.size(); ++p) {
    for (std::size_t i = 0; i < values_[p].size(); ++i) {
      const float g = static_cast<float>(double{gradients[p][i]} * held);
      float& m = first_[p][i];
      float& v = second_[p][i];
      m = 0.9F * m + 0.1F * g;
      v = 0.999F * v + (1 - 0.999F) * g * g;
      values_[p][i] -=
          static_cast<float>(0.001 * (double{m} / correction1) / (std::sqrt(double{v} / correction2) + 1e-8));
    }
  }
  return loss;
}

Floats floats_of(const Tensor& tensor) {
  Floats values(index(tensor.elements()));
  const auto* bits = reinterpret_cast<const std::uint16_t*>(tensor.data());
  if (tensor.dtype() == DType::kFloat32) {
    const auto from = tensor.as<const float>();
    std::copy(from.begin(), from.end(), values.begin());
  } else if (tensor.dtype() == DType::kFloat16) {
    kernels::float16_to_float32(bits, tensor.elements(), values.data());
  } else {
    kernels::bfloat16_to_float32(bits, tensor.elements(), values.data());
  }
  return values;
}

Tensor tensor_of(const Floats& values, const Shape& shape) {
  return Tensor::of(std::span<const float>(values)).reshape(shape);
}

double pass(const Model& model, Zero& zero, const Batch& batch) {
  std::vector<Floats> inputs;
  run_forward(model, zero, batch, inputs);
  Floats back;
  const double loss = loss_of(inputs.back(), batch, zero.loss_scale(), back);
  for (int layer = model.layers() - 1; layer >= 0; --layer) {
    zero.begin_layer(layer).value();
    const Floats weights = floats_of(zero.parameter(2 * layer).value());
    LayerGradients all =
        backward(model, layer, weights, inputs[index(layer)], inputs[index(layer) + 1], back, batch.rows);
    zero.gradient(2 * layer + 1, tensor_of(all.biases, Shape{model.out(layer)})).value();
    zero.gradient(2 * layer, tensor_of(all.weights, Shape{model.out(layer), model.in(layer)})).value();
    zero.end_layer(layer).value();
    back = std::move(all.x);
  }
  return loss;
}

double look(const Model& model, Zero& zero, const Batch& batch) {
  std::vector<Floats> inputs;
  run_forward(model, zero, batch, inputs);
  Floats back;
  return loss_of(inputs.back(), batch, 1, back);
}

std::unique_ptr<Zero> member_of(const Model& model, shards::Communicator& group, ZeroOptions options) {
  const auto parameters = model.parameters();
  auto made = Zero::create(group, parameters, std::move(options), [&](int i) {
    const Shape& shape = parameters[index(i)].shape;
    return tensor_of(Model::first_values(i, shape.elements()), shape);
  });
  return std::move(made).value();
}

double mean_of_members(shards::Communicator& group, double mine) {
  const Tensor value = Tensor::of<double>({mine});
  group.all_reduce(value, shards::ReduceOp::kMean).wait().value();
  return value.as<const double>()[0];
}

std::vector<double> train(const Model& model, Zero& zero, shards::Communicator& group, std::uint64_t first,
                          int steps, std::int64_t rows) {
  const int passes = zero.options().accumulation;
  const std::int64_t share = rows / group.size() / passes;
  std::vector<double> losses;
  for (std::uint64_t step = first; step < first + static_cast<std::uint64_t>(steps); ++step) {
    double loss = 0;
    for (int i = 0; i < passes; ++i)
      loss += pass(model, zero, batch_of(model, step, (group.rank() * passes + i) * share, share)) / passes;
    zero.step().value();
    losses.push_back(mean_of_members(group, loss));
  }
  return losses;
}

std::vector<std::string> members_do(int members,
                                    const std::function<std::string(shards::Communicator&)>& body,
                                    Duration timeout) {
  shards::CommunicatorOptions options;
  options.name = "model";
  options.timeout = timeout;
  shards::test::CommunicatorKind gloo;
  gloo.make = [](shards::CommunicatorOptions each, shards::AddressExchange exchange) {
    return shards::make_gloo_communicator(std::move(each), std::move(exchange));
  };
  return shards::test::with_members(
      gloo, members,
      [&](shards::Communicator& group) -> std::string {
        try {
          return body(group);
        } catch (const std::exception& error) {
          return error.what();
        }
      },
      options);
}

void in_group(int members, const std::function<std::string(shards::Communicator&)>& body, Duration timeout) {
  shards::test::all_well(members_do(members, body, timeout));
}

std::string difference(const std::vector<double>& a, const std::vector<double>& b, double relative) {
  if (a.size() != b.size()) return std::to_string(a.size()) + " against " + std::to_string(b.size());
  for (std::size_t i = 0; i < a.size(); ++i)
    if (!(std::abs(a[i] - b[i]) <= relative * std::abs(b[i])))
      return "at " + std::to_string(i) + ": " + std::to_string(a[i]) + " against " + std::to_string(b[i]) +
             ", relative " + std::to_string(std::abs(a[i] / b[i] - 1) * 1e6) + "e-6";
  return "";
}

}  // namespace troupe::training::test
