// Groups of each stage and size do what one process does alone.
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

TEST_CASE("parameters may be smaller than the group, and empty") {
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
