// bfloat16 and float16, and the loss scale.
#include <algorithm>

#include "model.hpp"
#include "zero/loss_scaler.hpp"

namespace troupe::training {
namespace {

using namespace test;

constexpr std::int64_t kRows = 24;

ZeroOptions options_of(int stage, DType dtype) {
  ZeroOptions options;
  options.stage = static_cast<ZeroStage>(stage);
  options.dtype = dtype;
  options.bucket = 40;
  return options;
}

}  // namespace

TEST_CASE("with 16 bits all stages have the same losses, close to those of float32") {
  const Model model;
  Alone one(model);
  std::vector<double> expected;
  for (std::uint64_t step = 0; step < 30; ++step)
    expected.push_back(one.step(batch_of(model, step, 0, kRows)));
  for (const DType dtype : {DType::kBFloat16, DType::kFloat16}) {
    std::vector<double> of_stage_0;
    for (int stage = 0; stage <= 3; ++stage) {
      CAPTURE(stage);
      CAPTURE(std::string(to_string(dtype)));
      in_group(3, [&](shards::Communicator& group) -> std::string {
        ZeroOptions options = options_of(stage, dtype);
        options.loss_scaling.first = 1024;
        const auto zero = member_of(model, group, options);
        const std::vector<double> losses = train(model, *zero, group, 0, 30, kRows);
        if (stage == 0 && group.rank() == 0) of_stage_0 = losses;
        if (zero->skipped() != 0) return "skipped";
        if (stage > 0)  // to the bit: the sums are the same ones
          if (std::string differs = difference(losses, of_stage_0, 0); !differs.empty()) return differs;
        return difference(losses, expected, dtype == DType::kFloat16 ? 0.003 : 0.03);
      });
    }
  }
}

TEST_CASE("float32 weights are kept, and parameters are these rounded") {
  for (int stage = 0; stage <= 3; ++stage) {
    in_group(2, [&](shards::Communicator& group) -> std::string {
      ZeroOptions options = options_of(stage, DType::kBFloat16);
      // Steps so small that bfloat16 alone would stand still.
      options.optimizer = shards::Adam{.learning_rate = 1e-5F};
      const auto zero = member_of({}, group, options);
      const Floats before = floats_of(zero->weights(0).value());
      train({}, *zero, group, 0, 20, kRows);
      const Floats after = floats_of(zero->weights(0).value());
      zero->begin_layer(0).value();
      const Floats rounded = floats_of(zero->parameter(0).value());
      zero->end_layer(0).value();
      for (std::size_t i = 0; i < before.size(); ++i) {
        if (before[i] == after[i]) return "weights stand still";
        if (std::abs(rounded[i] - after[i]) > std::abs(after[i]) / 256) return "not these";
      }
      return rounded == after ? "nothing is rounded" : "";
    });
  }
}

TEST_CASE("a gradient too large for float16 at one member skips the step at all, and the scale goes down") {
  const Model model;
  for (int stage = 0; stage <= 3; ++stage) {
    CAPTURE(stage);
    in_group(3, [&](shards::Communicator& group) -> std::string {
      ZeroOptions options = options_of(stage, DType::kFloat16);
      options.loss_scaling.first = 1024;
      options.loss_scaling.least = 256;
      options.loss_scaling.window = 3;
      const auto zero = member_of(model, group, options);
      const Floats values = floats_of(zero->weights(0).value());
      const auto overflow = [&] {
        Batch batch = batch_of(model, 0, 0, 4);
        if (group.rank() == 1) batch.y[0] = 1e6F;
        pass(model, *zero, batch);
        return zero->step();
      };
      // The first is let pass, by the hysteresis of 2.
      const float scales[] = {1024, 512, 256};
      for (int i = 0; i < 3; ++i) {
        const ZeroStep step = overflow().value();
        if (!step.skipped || step.step != 0) return "stepped";
        if (zero->loss_scale() != scales[i])
          return "scale " + std::to_string(zero->loss_scale()) + " after " + std::to_string(i);
      }
      if (zero->skipped() != 3 || zero->steps() != 0) return "counted otherwise";
      const Result<ZeroStep> last = overflow();
      if (last || last.error().code != Code::kOutOfRange) return "smaller than the least";
      if (floats_of(zero->weights(0).value()) != values) return "changed";
      train(model, *zero, group, 0, 3, kRows);
      if (zero->loss_scale() != 512 || zero->steps() != 3) return "not doubled";
      return floats_of(zero->weights(0).value()) == values ? "not stepped" : "";
    });
  }
}

TEST_CASE("one number too large, of one member and in another one's share, skips the step at all") {
  for (int stage = 0; stage <= 3; ++stage) {
    CAPTURE(stage);
    in_group(3, [&](shards::Communicator& group) -> std::string {
      const auto zero = member_of({}, group, options_of(stage, DType::kFloat16));
      for (int i = static_cast<int>(zero->parameters().size()) - 1; i >= 0; --i) {
        const Shape& shape = zero->parameters()[static_cast<std::size_t>(i)].shape;
        Floats values(static_cast<std::size_t>(shape.elements()));
        if (i == 0 && group.rank() == 1) values[0] = 1e6F;  // of member 0's share
        zero->gradient(i, tensor_of(values, shape)).value();
      }
      const ZeroStep step = zero->step().value();
      return step.skipped && zero->steps() == 0 ? "" : "stepped";
    });
  }
}

TEST_CASE("a gradient that is float16's largest is seen before it is divided by the members") {
  for (int stage = 0; stage <= 3; ++stage) {
    CAPTURE(stage);
    in_group(2, [&](shards::Communicator& group) -> std::string {
      const auto zero = member_of({}, group, options_of(stage, DType::kFloat16));
      for (int i = 5; i >= 0; --i) {
        const Tensor gradient =
            Tensor::zeros(DType::kFloat16, zero->parameters()[static_cast<std::size_t>(i)].shape);
        // What casts make of all that is larger.
        if (i == 2 && group.rank() == 1) reinterpret_cast<std::uint16_t*>(gradient.data())[3] = 0x7bff;
        zero->gradient(i, gradient).value();
      }
      return zero->step().value().skipped && zero->steps() == 0 ? "" : "stepped";
    });
  }
}

TEST_CASE("weights that have become too large for float16 are said at each member") {
  for (int stage = 0; stage <= 3; ++stage) {
    CAPTURE(stage);
    in_group(2, [&](shards::Communicator& group) -> std::string {
      ZeroOptions options = options_of(stage, DType::kFloat16);
      options.loss_scaling.fixed = 64;
      float rate = 1e-3F;
      options.learning_rate = [&](std::uint64_t) { return rate; };
      const auto zero = member_of({}, group, options);
      train({}, *zero, group, 0, 1, kRows);
      rate = 1e6F;
      train({}, *zero, group, 1, 1, kRows);
      for (int i = 5; i >= 0; --i)
        zero->gradient(i,
                       Tensor::zeros(DType::kFloat16, zero->parameters()[static_cast<std::size_t>(i)].shape))
            .value();
      const Result<ZeroStep> step = zero->step();
      if (step || step.error().code != Code::kOutOfRange) return "stepped";
      return step.error().message.find("parameters of step 2") != std::string::npos ? ""
                                                                                    : step.error().message;
    });
  }
}

TEST_CASE("gradients of bfloat16 that are too large are an error at each member") {
  in_group(2, [&](shards::Communicator& group) -> std::string {
    const auto zero = member_of({}, group, options_of(2, DType::kBFloat16));
    Batch batch = batch_of({}, 0, 0, 4);
    if (group.rank() == 1) batch.y[0] = std::numeric_limits<float>::infinity();
    pass({}, *zero, batch);
    const Result<ZeroStep> step = zero->step();
    if (step || step.error().code != Code::kOutOfRange) return "stepped";
    train({}, *zero, group, 0, 1, kRows);
    return "";
  });
}

TEST_CASE("the norm and the limit of float16's gradients are without the scale") {
  const Model model;
  Alone one(model);
  one.step(batch_of(model, 0, 0, kRows));
  in_group(2, [&](shards::Communicator& group) -> std::string {
    ZeroOptions options = options_of(2, DType::kFloat16);
    options.loss_scaling.fixed = 4096;
    options.accumulation = 2;
    options.max_norm = 0.01F;
    const auto zero = member_of(model, group, options);
    for (int i = 0; i < 2; ++i) pass(model, *zero, batch_of(model, 0, (group.rank() * 2 + i) * 6, 6));
    const ZeroStep step = zero->step().value();
    if (step.loss_scale != 4096 || !step.clipped) return "not clipped";
    return difference({step.norm}, {one.norm()}, 0.003);
  });
}

TEST_CASE("the loss scale doubles after a window of good steps, and halves when hysteresis is used up") {
  LossScaling options;
  options.first = 16;
  options.window = 4;
  options.hysteresis = 3;
  options.least = 2;
  zero::LossScaler scaler(options, DType::kFloat16);
  const auto good = [&](int times) {
    for (int i = 0; i < times; ++i) scaler.good();
    return scaler.scale();
  };
  CHECK(good(3) == 16);
  CHECK(good(1) == 32);
  CHECK(good(4) == 64);
  CHECK((scaler.overflowed() && scaler.overflowed()));
  CHECK(scaler.scale() == 64);
  CHECK(good(3) == 64);  // the window begins anew
  CHECK(scaler.overflowed());
  CHECK(scaler.scale() == 32);
  CHECK(scaler.overflowed());  // used up: each one halves
  CHECK(scaler.scale() == 16);
  CHECK(good(4) == 32);  // and is whole again
  CHECK((scaler.overflowed() && scaler.overflowed()));
  CHECK(scaler.scale() == 32);
  for (int i = 0; i < 4; ++i) CHECK(scaler.overflowed());
  CHECK(scaler.scale() == 2);
  CHECK_FALSE(scaler.overflowed());
  CHECK(scaler.scale() == 2);

  options.refill = true;
  zero::LossScaler refilled(options, DType::kFloat16);
  for (int i = 0; i < 3; ++i) {
    CHECK((refilled.overflowed() && refilled.overflowed()));
    refilled.good();
  }
  CHECK(refilled.scale() == 16);

  options.fixed = 8;
  zero::LossScaler fixed(options, DType::kFloat16);
  for (int i = 0; i < 9; ++i) CHECK(fixed.overflowed());
  CHECK(fixed.scale() == 8);
  CHECK(zero::LossScaler(options, DType::kBFloat16).scale() == 1);
}

}  // namespace troupe::training
