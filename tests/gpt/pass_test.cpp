// The model's way there and back, on the host and on a GPU, against its formulas in double precision.
#include "gpt/pass.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <random>

#include <troupe/kernels/cast.hpp>

#include "reference.hpp"

using namespace troupe;
using namespace troupe::gpt;
using namespace troupe::gpt::test;
using troupe::kernels::Dropout;
using troupe::kernels::Element;

namespace {

struct OnHost {
  static constexpr const char* kDevice = "cpu";
};
struct OnGpu {
  static constexpr const char* kDevice = "cuda";
};

const ModelShape kSmall{.vocabulary = 11, .block = 6, .layers = 2, .heads = 2, .width = 8};

/// A model with random weights, of which nothing is 0 or 1.
class Model {
 public:
  Model(Machine& machine, const ModelShape& shape, Element element = Element::kFloat32)
      : machine_(machine), shape_(shape), parameters_(shape), values_(elements(), 0.0F) {
    std::mt19937_64 random(7);
    std::normal_distribution<float> normal(0, 0.3F);
    for (const Parameter& each : parameters_.all())
      for (std::int64_t i = 0; i < each.n; ++i)
        values_[static_cast<std::size_t>(each.offset + i)] = normal(random) + (each.matrix() ? 0.0F : 0.2F);
    floats_ = machine.allocate(elements() * 4).value();
    halves_ = machine.allocate(elements() * 2).value();
    gradients_ = machine.allocate(elements() * 4).value();
    set(values_);
    weights.emplace(parameters_, reinterpret_cast<float*>(floats_.data()),
                    element == Element::kFloat32 ? nullptr : reinterpret_cast<std::uint16_t*>(halves_.data()),
                    reinterpret_cast<float*>(gradients_.data()));
  }
  std::size_t elements() const { return static_cast<std::size_t>(parameters_.elements()); }
  void set(const std::vector<float>& values) {
    std::vector<std::uint16_t> halves(elements());
    kernels::float32_to_bfloat16(values.data(), static_cast<std::int64_t>(elements()), halves.data());
    machine_.upload(floats_.data(), values.data(), floats_.size());
    machine_.upload(halves_.data(), halves.data(), halves_.size());
    REQUIRE(machine_.finish().ok());
  }
  std::vector<float> gradients() {
    std::vector<float> all(elements());
    REQUIRE(machine_.download(all.data(), gradients_.data(), gradients_.size()).ok());
    return all;
  }
  const std::vector<float>& values() const { return values_; }
  Doubles doubles() const { return Doubles(values_.begin(), values_.end()); }
  const Parameters& parameters() const { return parameters_; }

  std::optional<FlatWeights> weights;

 private:
  Machine& machine_;
  ModelShape shape_;
  Parameters parameters_;
  std::vector<float> values_;
  Buffer floats_, halves_, gradients_;
};

Batch random_batch(const ModelShape& shape, std::int64_t sequences, std::int64_t length, unsigned seed = 3) {
  std::mt19937 random(seed);
  Batch batch{sequences, length, {}, {}};
  for (std::int64_t i = 0; i < sequences * length; ++i) {
    batch.tokens.push_back(random() % static_cast<unsigned>(shape.vocabulary));
    batch.targets.push_back(i % 5 == 2 ? -1
                                       : std::int64_t(random() % static_cast<unsigned>(shape.vocabulary)));
  }
  return batch;
}

float scale_of(const Batch& batch) {
  return 1.0F / static_cast<float>(std::count_if(batch.targets.begin(), batch.targets.end(),
                                                 [](std::int64_t target) { return target >= 0; }));
}

std::unique_ptr<Machine> machine_for(const char* device) {
  auto machine = Machine::open(device);
  if (machine) return *std::move(machine);
  REQUIRE(std::string(device) != "cpu");
  MESSAGE("skipped: ", machine.error().message);
  return nullptr;
}

}  // namespace

TEST_CASE_TEMPLATE("loss, logits and all gradients are those of the formulas in double precision", Where,
                   OnHost, OnGpu) {
  const auto machine = machine_for(Where::kDevice);
  if (!machine) return;
  for (const std::int64_t length : {kSmall.block, std::int64_t{3}}) {
    CAPTURE(length);
    Model model(*machine, kSmall);
    const auto pass = Pass::create(*machine, kSmall, {.sequences = 3}).value();
    const Batch batch = random_batch(kSmall, 2, length);
    REQUIRE(pass->load(batch).ok());
    REQUIRE(pass->forward(*model.weights).ok());
    const Doubles expected = reference_logits(kSmall, model.doubles(), batch);
    for (std::int64_t r = 0; r < 2 * length; ++r) {
      const auto logits = pass->logits(*model.weights, r / length, r % length).value();
      for (std::size_t v = 0; v < logits.size(); ++v)
        CHECK(logits[v] ==
              doctest::Approx(expected[static_cast<std::size_t>(r) * logits.size() + v]).epsilon(1e-4));
    }
    REQUIRE(pass->backward(*model.weights, scale_of(batch)).ok());
    CHECK(pass->loss().value() ==
          doctest::Approx(reference_loss(kSmall, model.doubles(), batch)).epsilon(1e-5));
    const auto gradients = model.gradients();
    Doubles weights = model.doubles();
    constexpr double kStep = 1e-5;
    double worst = 0;
    std::string where;
    for (const Parameter& each : model.parameters().all()) {
      for (std::int64_t k = 0; k < each.n; ++k) {
        const auto i = static_cast<std::size_t>(each.offset + k);
        const double before = weights[i];
        weights[i] = before + kStep;
        const double above = reference_loss(kSmall, weights, batch);
        weights[i] = before - kStep;
        const double below = reference_loss(kSmall, weights, batch);
        weights[i] = before;
        const double error = std::abs((above - below) / (2 * kStep) - double{gradients[i]});
        if (error > worst) worst = error, where = each.name;
      }
    }
    CAPTURE(where);
    CHECK(worst < 2e-6);
    // The way without gradients finds the same loss.
    REQUIRE(pass->forward(*model.weights).ok());
    REQUIRE(pass->losses(*model.weights).ok());
    CHECK(pass->loss().value() ==
          doctest::Approx(reference_loss(kSmall, model.doubles(), batch)).epsilon(1e-5));
  }
}

TEST_CASE_TEMPLATE("with dropout the loss moves along the gradients as they say, for the same seed", Where,
                   OnHost, OnGpu) {
  const auto machine = machine_for(Where::kDevice);
  if (!machine) return;
  Model model(*machine, kSmall);
  const auto pass = Pass::create(*machine, kSmall, {.sequences = 4}).value();
  const Batch batch = random_batch(kSmall, 4, kSmall.block);
  const Dropout dropout{0.2F, 4711};
  REQUIRE(pass->load(batch).ok());
  const auto loss_at = [&](const Dropout& with) {
    REQUIRE(pass->forward(*model.weights, with).ok());
    REQUIRE(pass->losses(*model.weights).ok());
    return pass->loss().value();
  };
  const double loss = loss_at(dropout);
  CHECK(loss == loss_at(dropout));
  CHECK(loss != loss_at({0.2F, 4712}));
  CHECK(loss != loss_at({}));
  REQUIRE(pass->forward(*model.weights, dropout).ok());
  REQUIRE(pass->backward(*model.weights, scale_of(batch), dropout).ok());
  const auto gradients = model.gradients();
  double square = 0;
  for (const float g : gradients) square += double{g} * double{g};
  const auto moved = [&](float by) {
    auto values = model.values();
    for (std::size_t i = 0; i < values.size(); ++i) values[i] += by * gradients[i];
    model.set(values);
    return loss_at(dropout);
  };
  const float step = 0.003F / static_cast<float>(std::sqrt(square));
  CHECK((moved(step) - moved(-step)) / (2 * double{step} * square) == doctest::Approx(1).epsilon(0.01));
}

TEST_CASE_TEMPLATE("with 16 bits loss and gradients are near those of 32", Where, OnHost, OnGpu) {
  const auto machine = machine_for(Where::kDevice);
  if (!machine) return;
  const ModelShape shape{.vocabulary = 40, .block = 32, .layers = 2, .heads = 2, .width = 128};
  const Batch batch = random_batch(shape, 3, 32);
  const auto run = [&](Element element) {
    Model model(*machine, shape, element);
    const auto pass = Pass::create(*machine, shape, {.element = element, .sequences = 3}).value();
    REQUIRE(pass->load(batch).ok());
    REQUIRE(pass->forward(*model.weights).ok());
    REQUIRE(pass->backward(*model.weights, scale_of(batch)).ok());
    return std::pair(pass->loss().value(), model.gradients());
  };
  const auto [loss, gradients] = run(Element::kFloat32);
  const auto [half_loss, half_gradients] = run(Element::kBFloat16);
  CHECK(half_loss == doctest::Approx(loss).epsilon(0.02));
  double apart = 0;
  double square = 0;
  for (std::size_t i = 0; i < gradients.size(); ++i) {
    apart += std::pow(double{gradients[i]} - double{half_gradients[i]}, 2);
    square += std::pow(double{gradients[i]}, 2);
  }
  CHECK(std::sqrt(apart / square) < 0.05);
}

TEST_CASE_TEMPLATE("a later token never changes an earlier logit, also without a way back", Where, OnHost,
                   OnGpu) {
  const auto machine = machine_for(Where::kDevice);
  if (!machine) return;
  const ModelShape shape{.vocabulary = 11, .block = 80, .layers = 3, .heads = 2, .width = 8};
  Model model(*machine, shape);
  const auto pass = Pass::create(*machine, shape, {.sequences = 1, .training = false}).value();
  const auto training = Pass::create(*machine, shape, {.sequences = 1}).value();
  Batch batch = random_batch(shape, 1, shape.block);
  const auto logits_at = [&](Pass& of, std::int64_t position) {
    REQUIRE(of.load(batch).ok());
    REQUIRE(of.forward(*model.weights).ok());
    return of.logits(*model.weights, 0, position).value();
  };
  for (const std::int64_t position : {0, 1, 62, 63, 64, 78}) {
    CAPTURE(position);
    const auto before = logits_at(*pass, position);
    CHECK(before == logits_at(*training, position));
    for (std::int64_t later = position + 1; later < shape.block; ++later)
      batch.tokens[static_cast<std::size_t>(later)] =
          (batch.tokens[static_cast<std::size_t>(later)] + 5) % 11;
    CHECK(before == logits_at(*pass, position));
    batch.tokens[static_cast<std::size_t>(position)] =
        (batch.tokens[static_cast<std::size_t>(position)] + 1) % 11;
    CHECK(before != logits_at(*pass, position));
  }
}

TEST_CASE("what does not fit is refused: shapes, tokens, lengths, devices") {
  const auto machine = Machine::open("cpu").value();
  CHECK(Machine::open("gpu").error().code == Code::kInvalidArgument);
  CHECK(Machine::open("cuda:x").error().code == Code::kInvalidArgument);
  CHECK(Machine::open("cudax").error().code == Code::kInvalidArgument);
  ModelShape wrong = kSmall;
  wrong.heads = 3;
  CHECK(Pass::create(*machine, wrong, {}).error().message == "width 8 cannot be divided by 3 heads");
  CHECK(Pass::create(*machine, kSmall, {.sequences = 0}).error().code == Code::kInvalidArgument);
  Model model(*machine, kSmall);
  const auto pass = Pass::create(*machine, kSmall, {.sequences = 2}).value();
  CHECK(pass->forward(*model.weights).error().code == Code::kFailedPrecondition);
  CHECK(pass->load(random_batch(kSmall, 3, 2)).error().code == Code::kInvalidArgument);
  CHECK(pass->load(random_batch(kSmall, 1, 7)).error().code == Code::kInvalidArgument);
  Batch batch = random_batch(kSmall, 1, 4);
  batch.tokens[2] = 11;
  CHECK(pass->load(batch).error().message == "token 11 is none of the 11 that the model knows");
  batch.tokens[2] = -1;
  CHECK(pass->load(batch).error().code == Code::kInvalidArgument);
  batch = random_batch(kSmall, 1, 4);
  batch.targets[1] = 11;
  CHECK(pass->load(batch).error().code == Code::kInvalidArgument);
  batch.targets.clear();
  REQUIRE(pass->load(batch).ok());
  REQUIRE(pass->forward(*model.weights).ok());
  CHECK(pass->losses(*model.weights).error().code == Code::kFailedPrecondition);
}
