// Groups of each stage and size do what one process does alone.
#include <troupe/kernels/step.hpp>

#include "failing.hpp"
#include "model.hpp"

namespace troupe::training {
namespace {

using namespace test;

constexpr std::int64_t kRows = 24;
constexpr double kClose = 1e-5;

ZeroOptions options_of(int stage) {
  ZeroOptions options;
  options.stage = static_cast<ZeroStage>(stage);
  return options;
}

std::vector<double> alone(const Model& model, int steps, float max_norm = 0) {
  Alone one(model);
  std::vector<double> losses;
  losses.reserve(static_cast<std::size_t>(steps));
  for (int step = 0; step < steps; ++step)
    losses.push_back(one.step(batch_of(model, static_cast<std::uint64_t>(step), 0, kRows), max_norm));
  return losses;
}

void check_losses(const Model& model, int members, const ZeroOptions& options, int steps) {
  CAPTURE(members);
  CAPTURE(static_cast<int>(options.stage));
  const std::vector<double> expected = alone(model, steps, options.max_norm);
  in_group(members, [&](shards::Communicator& group) {
    const auto zero = member_of(model, group, options);
    return difference(train(model, *zero, group, 0, steps, kRows), expected, kClose);
  });
}

}  // namespace

TEST_CASE("200 steps of each stage have the losses of a process alone") {
  for (int stage = 0; stage <= 3; ++stage) check_losses({}, 3, options_of(stage), 200);
}

TEST_CASE("groups of one to four members have the losses of a process alone") {
  for (int members = 1; members <= 4; ++members)
    for (int stage = 0; stage <= 3; ++stage) check_losses({}, members, options_of(stage), 10);
}

TEST_CASE("buckets may be smaller than a parameter, and than the group") {
  for (const std::int64_t bucket : {1, 10, 64})
    for (int stage = 0; stage <= 3; ++stage) {
      CAPTURE(bucket);
      ZeroOptions options = options_of(stage);
      options.bucket = bucket;
      check_losses({{3, 5, 2}}, 3, options, 3);
    }
}

TEST_CASE("without overlap the losses are the same") {
  for (int stage = 0; stage <= 3; ++stage) {
    ZeroOptions options = options_of(stage);
    options.overlap = false;
    options.bucket = 20;
    check_losses({}, 2, options, 4);
  }
}

TEST_CASE(
    "gradients are reduced while others are still to come, and those of several passes once where whole") {
  for (int stage = 0; stage <= 3; ++stage) {
    in_group(2, [&](shards::Communicator& group) -> std::string {
      Failing counted(group, -1);
      ZeroOptions options = options_of(stage);
      options.bucket = 60;
      options.accumulation = 2;
      const auto zero = member_of({}, counted, options);
      std::vector<int> begun;
      for (int each = 0; each < 2; ++each) {
        for (int i = 5; i >= 0; --i) {
          const int before = counted.count();
          zero->gradient(
                  i, Tensor::zeros(DType::kFloat32, zero->parameters()[static_cast<std::size_t>(i)].shape))
              .value();
          begun.push_back(counted.count() - before);
        }
      }
      // 91 + 13 + 65 + 5 + 15 + 3 elements: segments of 60 end in weights 2, 1, 0 and 0; in stage 3 each
      // layer has its own.
      const std::vector<int> passes[] = {{0, 1, 0, 1, 0, 2}, {0, 1, 0, 2, 0, 2}};
      std::vector<int> expected(6);
      if (stage >= 2) expected = passes[stage - 2];
      expected.insert(expected.end(), passes[stage / 3].begin(), passes[stage / 3].end());
      if (begun == expected) return "";
      std::string text = "begun";
      for (const int n : begun) text += " " + std::to_string(n);
      return text;
    });
  }
}

TEST_CASE("a parameter may be empty") {
  for (int stage = 0; stage <= 3; ++stage) {
    in_group(3, [&](shards::Communicator& group) -> std::string {
      const std::vector<ZeroParameter> parameters = {
          {"empty", Shape{0}, 0}, {"a", Shape{2}, 1}, {"none", Shape{4, 0}, 1}};
      auto made = Zero::create(group, parameters, options_of(stage), [&](int i) {
        return Tensor::zeros(DType::kFloat32, parameters[static_cast<std::size_t>(i)].shape);
      });
      const auto zero = std::move(made).value();
      for (const int i : {2, 1, 0}) {
        const ZeroParameter& each = parameters[static_cast<std::size_t>(i)];
        zero->begin_layer(each.layer).value();
        if (!(zero->parameter(i).value().shape() == each.shape)) return "another shape";
        const Floats ones(static_cast<std::size_t>(each.shape.elements()), 1.0F);
        zero->gradient(i, tensor_of(ones, each.shape)).value();
        zero->end_layer(each.layer).value();
      }
      zero->step().value();
      return zero->weights(1).value().as<const float>()[1] < 0 ? "" : "not stepped";
    });
  }
}

TEST_CASE("parameters may be smaller than the group") {
  const Model model{{1, 1, 2, 1}};
  for (int stage = 0; stage <= 3; ++stage) check_losses(model, 4, options_of(stage), 5);
}

TEST_CASE("gradients of several passes make one step") {
  for (int stage = 0; stage <= 3; ++stage) {
    ZeroOptions options = options_of(stage);
    options.accumulation = 4;
    options.bucket = 50;
    check_losses({}, 3, options, 6);
  }
}

TEST_CASE("gradients are held to the norm of all members and parameters") {
  for (int stage = 0; stage <= 3; ++stage) {
    ZeroOptions options = options_of(stage);
    options.max_norm = 0.05F;
    check_losses({}, 3, options, 10);
  }
  const Model model;
  Alone one(model);
  one.step(batch_of(model, 0, 0, kRows));
  in_group(2, [&](shards::Communicator& group) -> std::string {
    ZeroOptions options = options_of(2);
    options.max_norm = 0.05F;
    const auto zero = member_of(model, group, options);
    pass(model, *zero, batch_of(model, 0, group.rank() * kRows / 2, kRows / 2));
    const ZeroStep step = zero->step().value();
    if (!step.clipped || step.skipped || step.step != 1) return "not clipped";
    return difference({step.norm}, {one.norm()}, kClose);
  });
}

TEST_CASE("small parameters stay whole in stage 3") {
  for (const std::int64_t keep_below : {6, 20, 1000}) {
    ZeroOptions options = options_of(3);
    options.keep_below = keep_below;
    options.bucket = 30;
    check_losses({}, 3, options, 6);
  }
}

TEST_CASE("each optimizer for dense tensors steps parts as it steps the whole") {
  const std::vector<shards::Optimizer> optimizers = {
      shards::Sgd{.learning_rate = 0.1F, .weight_decay = 0.01F},
      shards::Optimizer("momentum", {}),
      shards::Optimizer("nesterov", {}),
      shards::Optimizer("adagrad", {{"initial_accumulator", 0.1F}}),
      shards::Optimizer("adamw", {}),
      shards::Optimizer("lamb", {}),
      shards::Optimizer("rmsprop", {}),
      shards::Optimizer("ftrl", {})};
  for (const shards::Optimizer& optimizer : optimizers) {
    CAPTURE(std::string(optimizer.name()));
    std::vector<double> expected;
    for (const int members : {1, 3}) {
      in_group(members, [&](shards::Communicator& group) {
        ZeroOptions options = options_of(members == 1 ? 0 : 3);
        options.optimizer = optimizer;
        options.bucket = 40;
        const auto zero = member_of({}, group, options);
        const std::vector<double> losses = train({}, *zero, group, 0, 8, kRows);
        if (members == 1) expected = losses;
        return difference(losses, expected, kClose);
      });
    }
  }
}

TEST_CASE("LAMB of parts is LAMB of whole tensors") {
  const std::vector<ZeroParameter> parameters = {
      {"a", Shape{50, 3}, 0}, {"b", Shape{7}, 0}, {"c", Shape{1}, 1}};
  kernels::Step rule{kernels::Rule::kLamb, {0.01F, 0.9F, 0.999F, 1e-6F, 0.1F}};
  std::vector<Floats> expected;
  std::vector<std::vector<Floats>> gradients(3);  // of each step
  std::vector<Floats> first;
  std::vector<Floats> second;
  for (int i = 0; i < 3; ++i) {
    const std::int64_t n = parameters[static_cast<std::size_t>(i)].shape.elements();
    expected.push_back(Model::first_values(i, n));
    first.emplace_back(static_cast<std::size_t>(n));
    second.emplace_back(static_cast<std::size_t>(n));
    for (int step = 0; step < 3; ++step)
      gradients[static_cast<std::size_t>(step)].push_back(Model::first_values(10 * step + i + 5, n));
  }
  std::vector<double> workspace(2);
  for (std::size_t step = 0; step < 3; ++step)
    for (std::size_t i = 0; i < 3; ++i) {
      const kernels::DenseTensor tensor{expected[i].data(),
                                        gradients[step][i].data(),
                                        {first[i].data(), second[i].data()},
                                        static_cast<std::int64_t>(expected[i].size())};
      CHECK(kernels::dense_step(kernels::Place::host(), rule, {&tensor, 1},
                                static_cast<std::int64_t>(step) + 1, workspace.data())
                .ok());
    }
  for (int stage = 0; stage <= 3; ++stage) {
    in_group(3, [&](shards::Communicator& group) -> std::string {
      ZeroOptions options = options_of(stage);
      options.bucket = 20;
      options.optimizer =
          shards::Optimizer("lamb", {{"learning_rate", 0.01F}, {"epsilon", 1e-6F}, {"weight_decay", 0.1F}});
      auto made = Zero::create(group, parameters, options, [&](int i) {
        const Shape& shape = parameters[static_cast<std::size_t>(i)].shape;
        return tensor_of(Model::first_values(i, shape.elements()), shape);
      });
      const auto zero = std::move(made).value();
      for (std::size_t step = 0; step < 3; ++step) {
        for (const int i : {2, 1, 0})
          zero->gradient(i, tensor_of(gradients[step][static_cast<std::size_t>(i)],
                                      parameters[static_cast<std::size_t>(i)].shape))
              .value();
        zero->step().value();
      }
      for (int i = 0; i < 3; ++i) {
        const Floats values = floats_of(zero->weights(i).value());
        const std::vector<double> found(values.begin(), values.end());
        const Floats& wanted = expected[static_cast<std::size_t>(i)];
        for (std::size_t k = 0; k < found.size(); ++k)
          if (std::abs(found[k] - double{wanted[k]}) > 1e-6)
            return "at " + std::to_string(k) + " of " + std::to_string(i);
      }
      return "";
    });
  }
}

TEST_CASE("the learning rate is that of the step") {
  in_group(2, [](shards::Communicator& group) -> std::string {
    ZeroOptions options = options_of(1);
    options.learning_rate = [](std::uint64_t step) { return step == 0 ? 0.0F : 0.5F; };
    options.optimizer = shards::Sgd{};
    const auto zero = member_of({}, group, options);
    const Floats before = floats_of(zero->parameter(0).value());
    pass({}, *zero, batch_of({}, 0, 0, 4));
    if (zero->step().value().learning_rate != 0) return "a rate";
    if (floats_of(zero->parameter(0).value()) != before) return "a step without a rate";
    pass({}, *zero, batch_of({}, 0, 0, 4));
    return zero->step().value().learning_rate == 0.5F && floats_of(zero->parameter(0).value()) != before
               ? ""
               : "no step";
  });
}

}  // namespace troupe::training
