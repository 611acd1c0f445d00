// What a member does wrong changes nothing; who dies ends the group, and parameters are of one step or
// refused.
#include <atomic>
#include <limits>
#include <stdexcept>

#include "failing.hpp"
#include "model.hpp"

namespace troupe::training {
namespace {

using namespace test;

constexpr std::int64_t kRows = 24;

ZeroOptions options_of(int stage) {
  ZeroOptions options;
  options.stage = static_cast<ZeroStage>(stage);
  options.bucket = 40;
  return options;
}

Code code_of(const Result<void>& result) {
  return result ? Code::kOk : result.error().code;
}

/// In stage 3 smaller ones stay whole.
constexpr std::int64_t kKeepBelow = 20;

/// All parameters that are whole between steps, one after the other.
Floats whole_ones(const Zero& zero) {
  Floats all;
  for (int i = 0; i < static_cast<int>(zero.parameters().size()); ++i) {
    const bool kept = zero.parameters()[static_cast<std::size_t>(i)].shape.elements() < kKeepBelow;
    if (!kept && zero.options().stage == ZeroStage::kParameters) continue;
    if (const Result<Tensor> tensor = zero.parameter(i)) {
      const Floats values = floats_of(*tensor);
      all.insert(all.end(), values.begin(), values.end());
    }
  }
  return all;
}

Floats zeros(const ZeroParameter& parameter) {
  return Floats(static_cast<std::size_t>(parameter.shape.elements()));
}

}  // namespace

TEST_CASE("a gradient out of order, of another shape or type is refused, and the right one is taken") {
  const Model model;
  Alone one(model);
  const double expected = one.step(batch_of(model, 0, 0, kRows));
  const double next = one.step(batch_of(model, 1, 0, kRows));
  for (int stage = 0; stage <= 3; ++stage) {
    CAPTURE(stage);
    in_group(2, [&](shards::Communicator& group) -> std::string {
      const auto zero = member_of(model, group, options_of(stage));
      const auto parameters = model.parameters();
      const Tensor weight = tensor_of(zeros(parameters[0]), parameters[0].shape);
      const Result<void> early = zero->gradient(0, weight);
      if (code_of(early) != Code::kFailedPrecondition) return "taken out of order";
      if (early.error().message.find("layer.2.bias") == std::string::npos) return early.error().message;
      if (code_of(zero->gradient(5, weight)) != Code::kInvalidArgument) return "another shape";
      if (code_of(zero->gradient(5, Tensor::zeros(DType::kInt32, parameters[5].shape))) !=
          Code::kInvalidArgument)
        return "another type";
      if (code_of(zero->gradient(6, weight)) != Code::kInvalidArgument) return "there is no such parameter";
      if (code_of(zero->begin_layer(3)) != Code::kInvalidArgument) return "there is no such layer";
      if (code_of(zero->end_layer(0)) != Code::kFailedPrecondition) return "ended before it began";
      return difference(train(model, *zero, group, 0, 2, kRows), {expected, next}, 1e-5);
    });
  }
}

TEST_CASE("a step without all gradients names the one that is missing, and can be made when it is there") {
  for (int stage = 0; stage <= 3; ++stage) {
    in_group(2, [&](shards::Communicator& group) -> std::string {
      ZeroOptions options = options_of(stage);
      options.accumulation = 2;
      const auto zero = member_of({}, group, options);
      const auto parameters = zero->parameters();
      pass({}, *zero, batch_of({}, 0, 0, 4));
      for (int i = 5; i > 0; --i)
        zero->gradient(i, tensor_of(zeros(parameters[static_cast<std::size_t>(i)]),
                                    parameters[static_cast<std::size_t>(i)].shape))
            .value();
      const Result<ZeroStep> early = zero->step();
      if (early || early.error().code != Code::kFailedPrecondition) return "stepped";
      if (early.error().message.find("'layer.0.weight' is missing, of pass 2 of 2") == std::string::npos)
        return early.error().message;
      const Tensor last = tensor_of(zeros(parameters[0]), parameters[0].shape);
      zero->begin_layer(0).value();
      zero->gradient(0, last).value();
      if (code_of(zero->gradient(5, last)) != Code::kFailedPrecondition) return "a pass too many";
      const Result<ZeroStep> used = zero->step();
      if (used || used.error().message.find("layer 0 is in use") == std::string::npos) return "in use";
      zero->end_layer(0).value();
      return zero->step() ? "" : "no step";
    });
  }
}

TEST_CASE("gradients that are not finite are dropped at each member, and training goes on") {
  for (int stage = 0; stage <= 3; ++stage) {
    CAPTURE(stage);
    for (const float bad :
         {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
      const Model model;
      Alone one(model);
      const double first = one.step(batch_of(model, 0, 0, kRows));
      const double second = one.step(batch_of(model, 1, 0, kRows));
      in_group(3, [&](shards::Communicator& group) -> std::string {
        const auto zero = member_of(model, group, options_of(stage));
        const std::vector<double> before = train(model, *zero, group, 0, 1, kRows);
        const Floats values = floats_of(zero->weights(2).value());
        Batch batch = batch_of(model, 7, 0, 2);
        if (group.rank() == 1) batch.y[3] = bad;
        pass(model, *zero, batch);
        const Result<ZeroStep> step = zero->step();
        if (step || step.error().code != Code::kOutOfRange) return "stepped";
        if (zero->steps() != 1 || floats_of(zero->weights(2).value()) != values) return "changed";
        std::vector<double> losses = train(model, *zero, group, 1, 1, kRows);
        losses.insert(losses.begin(), before.front());
        return difference(losses, {first, second}, 1e-5);
      });
    }
  }
}

TEST_CASE("members with other options or parameters are refused at each of them") {
  in_group(3, [](shards::Communicator& group) -> std::string {
    const Model model;
    ZeroOptions options = options_of(1);
    if (group.rank() == 2) options.optimizer = shards::Adam{.epsilon = 2e-7F};
    const auto made = Zero::create(group, model.parameters(), options, [&](int i) {
      return Tensor::zeros(DType::kFloat32, model.parameters()[static_cast<std::size_t>(i)].shape);
    });
    if (made || made.error().code != Code::kInvalidArgument) return "made";
    options = options_of(1);
    if (group.rank() == 2) options.accumulation = 0;  // it alone knows that this cannot be
    const auto again = Zero::create(group, model.parameters(), options, [&](int i) {
      return Tensor::zeros(DType::kFloat32, model.parameters()[static_cast<std::size_t>(i)].shape);
    });
    if (again || again.error().code != Code::kInvalidArgument) return "made with an accumulation of 0";
    return group.barrier().wait() ? "" : "the communicator has ended";
  });
}

TEST_CASE("first values that cannot be end the group at once") {
  const Model model;
  for (const bool thrown : {false, true}) {
    in_group(3, [&](shards::Communicator& group) -> std::string {
      const auto made = Zero::create(group, model.parameters(), options_of(2), [&](int) -> Tensor {
        if (thrown) throw std::runtime_error("no such file");
        return Tensor::zeros(DType::kFloat32, Shape{1});
      });
      if (made) return "made";
      const Code expected = group.rank() == 0 ? Code::kInvalidArgument : Code::kUnavailable;
      return made.error().code == expected ? "" : made.error().to_string();
    });
  }
}

TEST_CASE("a member without memory for its parameters ends the group at once") {
#ifdef TROUPE_SANITIZER
  MESSAGE("skipped: with a sanitizer a process ends when it asks for so much");
  return;
#endif
  in_group(2, [&](shards::Communicator& group) -> std::string {
    // One alone has no memory for them; the other hears of it.
    const std::int64_t n = group.rank() == 0 ? std::int64_t{1} << 46 : 8;
    ZeroOptions options = options_of(0);
    options.bucket = std::int64_t{1} << 40;
    const auto made = Zero::create(group, {{"large", Shape{n}, 0}}, options,
                                   [&](int) { return Tensor::zeros(DType::kFloat32, Shape{n}); });
    if (made) return "made";
    const Code expected = group.rank() == 0 ? Code::kResourceExhausted : Code::kUnavailable;
    return made.error().code == expected ? "" : made.error().to_string();
  });
}

TEST_CASE("a learning rate that is none, or another than the others', is refused, and nothing is stepped") {
  in_group(2, [](shards::Communicator& group) -> std::string {
    ZeroOptions options = options_of(1);
    float rate = std::numeric_limits<float>::quiet_NaN();
    options.learning_rate = [&](std::uint64_t) { return rate; };
    const auto zero = member_of({}, group, options);
    const Floats before = whole_ones(*zero);
    pass({}, *zero, batch_of({}, 0, 0, 4));
    if (zero->step().error().code != Code::kInvalidArgument) return "stepped";
    rate = 0.1F;
    zero->step().value();
    const Floats after = whole_ones(*zero);
    if (after == before) return "not stepped";
    pass({}, *zero, batch_of({}, 0, 0, 4));
    if (group.rank() == 1) rate = 0.2F;
    if (zero->step().error().code != Code::kInvalidArgument) return "stepped by two rates";
    return whole_ones(*zero) == after && zero->whole() ? "" : "changed";
  });
}

TEST_CASE("options that cannot be are refused with what would do") {
  ZeroOptions options;
  CHECK(options.validate().ok());
  options.optimizer = shards::Optimizer("rowwise_adagrad", {});
  CHECK(code_of(options.validate()) == Code::kUnimplemented);
  options = {};
  options.dtype = DType::kFloat64;
  CHECK(code_of(options.validate()) == Code::kInvalidArgument);
  options = {};
  options.bucket = 0;
  CHECK(code_of(options.validate()) == Code::kInvalidArgument);
  options = {};
  options.accumulation = 0;
  CHECK(code_of(options.validate()) == Code::kInvalidArgument);
  in_group(1, [](shards::Communicator& group) -> std::string {
    ZeroOptions small;
    small.bucket = 1;
    const auto made = Zero::create(group, {{"large", Shape{std::int64_t{1} << 40}, 0}}, small,
                                   [](int) { return Tensor(); });
    return !made && made.error().message.find("bucket is 1, expected more") != std::string::npos ? ""
                                                                                                 : "made";
  });
  options = {};
  options.loss_scaling.first = 100;
  CHECK(options.validate().ok());  // of float16 alone
  options.dtype = DType::kFloat16;
  CHECK(options.validate().error().message.find("power of two") != std::string::npos);
}

TEST_CASE("members that use their layers in another order are told, and nothing is stepped") {
  const Model model{{4, 4, 4, 4}};
  in_group(2, [&](shards::Communicator& group) -> std::string {
    const auto zero = member_of(model, group, options_of(3));
    const int first = group.rank();
    for (const int layer : {first, 1 - first}) {
      zero->begin_layer(layer).value();
      zero->end_layer(layer).value();
    }
    pass(model, *zero, batch_of(model, 0, 0, 4));
    const Result<ZeroStep> step = zero->step();
    if (step || step.error().code != Code::kInvalidArgument) return "stepped";
    return zero->steps() == 0 && zero->whole() ? "" : "changed";
  });
}

TEST_CASE("members that begin different layers are told, and no layer is shown from then on") {
  const Model model{{4, 6, 8, 5}};
  in_group(2, [&](shards::Communicator& group) -> std::string {
    const auto zero = member_of(model, group, options_of(3));
    if (zero->begin_layer(group.rank())) return "begun";
    if (zero->begin_layer(group.rank())) return "begun at last";
    return zero->parameter(2 * group.rank()) ? "shown" : "";
  });
}

TEST_CASE("a pass that cannot be ended is dropped, and the next one is as if it had not been") {
  const Model model;
  Alone one(model);
  std::vector<double> expected;
  for (std::uint64_t step = 0; step < 4; ++step)
    expected.push_back(one.step(batch_of(model, step, 0, kRows)));
  for (int stage = 0; stage <= 3; ++stage) {
    CAPTURE(stage);
    in_group(2, [&](shards::Communicator& group) -> std::string {
      ZeroOptions options = options_of(stage);
      options.accumulation = 2;
      const auto zero = member_of(model, group, options);
      std::vector<double> losses = train(model, *zero, group, 0, 2, kRows);
      pass(model, *zero, batch_of(model, 9, 0, 4));
      for (const int layer : {0, 1, 2, 2}) zero->begin_layer(layer).value();
      for (int i = 5; i > 2; --i) {
        const ZeroParameter& each = zero->parameters()[static_cast<std::size_t>(i)];
        zero->gradient(i, tensor_of(Floats(zeros(each).size(), 3.0F), each.shape)).value();
      }
      zero->drop_pass().value();
      if (zero->memory().gathered != 0 || zero->memory().buckets != 0) return "not dropped";
      if (stage == 3 && zero->parameter(0)) return "a layer is still whole";
      for (const double loss : train(model, *zero, group, 2, 2, kRows)) losses.push_back(loss);
      return difference(losses, expected, 1e-5);
    });
  }
}

TEST_CASE(
    "a member that dies at any collective ends it with an error; parameters are of one step, or refused") {
  const Model model;
  for (int stage = 0; stage <= 3; ++stage) {
    ZeroOptions options = options_of(stage);
    options.keep_below = kKeepBelow;
    // The collectives of a step, and what parameters are after it.
    std::atomic<int> begin{0};
    std::atomic<int> end{0};
    Floats stepped;
    in_group(3, [&](shards::Communicator& group) -> std::string {
      Failing counted(group, -1);
      const auto zero = member_of(model, counted, options);
      if (group.rank() == 2) begin = counted.count();
      pass(model, *zero, batch_of(model, 0, group.rank() * 8, 8));
      zero->step().value();
      if (group.rank() == 2) end = counted.count();
      if (group.rank() == 0) stepped = whole_ones(*zero);
      return "";
    });
    REQUIRE(end > begin);
    for (int each = 2 * begin; each < 2 * end; ++each) {
      const int at = each / 2;
      const How how = each % 2 == 0 ? How::kDies : How::kHasNoMemory;
      CAPTURE(stage);
      CAPTURE(at);
      CAPTURE(static_cast<int>(how));
      in_group(3, [&](shards::Communicator& group) -> std::string {
        Failing failing(group, group.rank() == 2 ? at : -1, how);
        const auto zero = member_of(model, failing, options);
        const Floats before = whole_ones(*zero);
        Result<void> found;
        try {
          pass(model, *zero, batch_of(model, 0, group.rank() * 8, 8));
          if (const Result<ZeroStep> step = zero->step(); !step) found = step.error();
        } catch (const BadResult& error) {
          found = error.error();
        }
        // What was the last of its collectives may have been done here before it died.
        if (found) return at + 1 == end && whole_ones(*zero) == stepped ? "" : "nothing was found";
        if (group.rank() != 2 && found.error().code != Code::kUnavailable) return found.error().to_string();
        if (group.rank() == 2 && how == How::kHasNoMemory && found.error().code != Code::kResourceExhausted)
          return found.error().to_string();
        if (group.state()) return "the group goes on without this member";
        const Result<ZeroStep> again = zero->step();
        if (again || again.error().code != found.error().code) return "goes on";
        const Floats after = whole_ones(*zero);
        if (!zero->whole()) return after.empty() ? "" : "parameters of two steps are shown";
        return after == before || after == stepped ? "" : "parameters are of no step";
      });
    }
  }
}

TEST_CASE("in stage 0 those who live on go on in another group with what they hold") {
  const Model model;
  for (const DType dtype : {DType::kFloat32, DType::kBFloat16}) {
    Alone one(model);
    std::vector<double> expected;
    for (std::uint64_t step = 0; step < 6; ++step)
      expected.push_back(one.step(batch_of(model, step, 0, kRows)));
    ZeroOptions options = options_of(0);
    options.dtype = dtype;
    // Which collective of its third step is its last: some survivors may have stepped by then.
    for (const int back : {1, 2, 3}) {
      CAPTURE(back);
      shards::test::Rendezvous second(2);
      std::atomic<int> count{0};
      in_group(3, [&](shards::Communicator& group) -> std::string {  // how many there are
        Failing counted(group, -1);
        const auto zero = member_of(model, counted, options);
        train(model, *zero, counted, 0, 2, kRows);
        pass(model, *zero, batch_of(model, 2, group.rank() * 8, 8));
        zero->step().value();
        if (group.rank() == 2) count = counted.count();
        return "";
      });
      in_group(3, [&](shards::Communicator& group) -> std::string {
        Failing failing(group, group.rank() == 2 ? count - back : -1);
        std::unique_ptr<shards::Communicator> survivors;
        const auto zero = member_of(model, failing, options);
        Result<void> found;
        try {
          train(model, *zero, failing, 0, 2, kRows);
          pass(model, *zero, batch_of(model, 2, group.rank() * 8, 8));
          if (const Result<ZeroStep> step = zero->step(); !step) found = step.error();
        } catch (const BadResult& error) {
          found = error.error();
        }
        if (group.rank() == 2) return found ? "it has not died" : "";
        shards::CommunicatorOptions smaller;
        smaller.rank = group.rank();
        smaller.size = 2;
        auto made = shards::make_gloo_communicator(smaller, second.of(group.rank()));
        survivors = std::move(made).value();
        zero->reform(*survivors).value();
        const std::uint64_t steps = zero->steps();
        if (steps != 2 && steps != 3) return "at step " + std::to_string(steps);
        const std::vector<double> rest(expected.begin() + static_cast<std::ptrdiff_t>(steps), expected.end());
        std::string differs =
            difference(train(model, *zero, *survivors, steps, static_cast<int>(6 - steps), kRows), rest,
                       dtype == DType::kFloat32 ? 1e-5 : 0.03);
        if (!differs.empty()) return differs;
        // The new one must be alive when the other member is done.
        survivors->barrier().wait().value();
        return "";
      });
    }
  }
  // One that is a step ahead keeps what it has when the other one dies while it is brought up.
  shards::test::Rendezvous together(2);
  in_group(2, [&](shards::Communicator& all) -> std::string {
    const int rank = all.rank();
    const auto alone = all.split(rank, 0).value();
    const auto again = all.split(rank, 0).value();
    const auto zero = member_of(model, *alone, options_of(0));
    train(model, *zero, *alone, 0, rank == 1 ? 2 : 1, kRows);
    const Floats before = whole_ones(*zero);
    Failing failing(all, rank == 0 ? 1 : -1);  // the first broadcast
    if (code_of(zero->reform(failing)) == Code::kOk) return "reformed";
    if (rank == 0) return zero->whole() ? "half of the other's" : "";
    if (!zero->whole() || whole_ones(*zero) != before) return "what the one ahead has is lost";
    zero->reform(*again).value();
    return zero->steps() == 2 && whole_ones(*zero) == before ? "" : "not as before";
  });
  in_group(2, [&](shards::Communicator& group) -> std::string {
    const auto zero = member_of(model, group, options_of(1));
    return code_of(zero->reform(group)) == Code::kFailedPrecondition ? "" : "of parts";
  });
}

}  // namespace troupe::training
