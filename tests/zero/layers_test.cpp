// Stage 3: which layers are whole when.
#include "failing.hpp"
#include "model.hpp"

namespace troupe::training {
namespace {

using namespace test;

const Model kModel{{8, 8, 8, 8, 8}};  // four layers of 72 elements
constexpr std::size_t kLayer = 72 * sizeof(float);

ZeroOptions options_of(std::int64_t prefetch) {
  ZeroOptions options;
  options.stage = ZeroStage::kParameters;
  options.prefetch = prefetch;
  return options;
}

/// Collectives that are begun by begin_layer() of each of these; `check` may look in between.
std::vector<int> gathers(Zero& zero, const Failing& group, const std::vector<int>& layers) {
  std::vector<int> begun;
  for (const int layer : layers) {
    const int before = group.count();
    zero.begin_layer(layer).value();
    begun.push_back(group.count() - before);
    zero.end_layer(layer).value();
  }
  return begun;
}

std::string differs(const std::vector<int>& found, const std::vector<int>& expected) {
  if (found == expected) return "";
  std::string text = "gathered";
  for (const int each : found) text += " " + std::to_string(each);
  return text;
}

/// The gradients of a pass, so that it ends.
void end_pass(Zero& zero) {
  for (int i = static_cast<int>(zero.parameters().size()) - 1; i >= 0; --i)
    zero.gradient(i, Tensor::zeros(DType::kFloat32, zero.parameters()[static_cast<std::size_t>(i)].shape))
        .value();
}

}  // namespace

TEST_CASE("a layer is whole from its begin to its end, and its memory is given back") {
  in_group(2, [](shards::Communicator& group) -> std::string {
    const auto zero = member_of(kModel, group, options_of(0));
    if (zero->parameter(2) || zero->parameter(2).error().code != Code::kFailedPrecondition) return "whole";
    zero->begin_layer(1).value();
    const Floats values = floats_of(zero->parameter(2).value());
    if (values != Model::first_values(2, 64)) return "other values";
    if (zero->parameter(0)) return "another layer is whole";
    if (zero->memory().gathered != kLayer) return std::to_string(zero->memory().gathered);
    zero->begin_layer(1).value();  // used twice
    zero->end_layer(1).value();
    if (!zero->parameter(2)) return "gone too early";
    zero->end_layer(1).value();
    if (zero->parameter(2) || zero->memory().gathered != 0) return "kept";
    return zero->memory().most_gathered == kLayer ? "" : "more was gathered";
  });
}

TEST_CASE("layers are gathered ahead in the order of the last pass, within the bounds") {
  const std::vector<int> forward_and_back = {0, 1, 2, 3, 3, 2, 1, 0};
  in_group(2, [&](shards::Communicator& group) -> std::string {
    Failing counted(group, -1);
    const auto zero = member_of(kModel, counted, options_of(1));
    // The first pass gathers each as it comes.
    std::string found = differs(gathers(*zero, counted, forward_and_back), {1, 1, 1, 1, 1, 1, 1, 1});
    if (!found.empty()) return "first pass: " + found;
    end_pass(*zero);
    zero->step().value();
    // Then one is ahead; the last one of the way forward is kept for the way back.
    found = differs(gathers(*zero, counted, forward_and_back), {2, 1, 1, 1, 0, 1, 1, 0});
    if (!found.empty()) return "one ahead: " + found;
    end_pass(*zero);
    zero->step().value();
    if (zero->memory().gathered != 0) return "kept over a step";

    const auto two = member_of(kModel, counted, options_of(144));
    (void)gathers(*two, counted, forward_and_back);
    end_pass(*two);
    two->step().value();
    found = differs(gathers(*two, counted, forward_and_back), {3, 1, 0, 2, 0, 1, 0, 0});
    if (!found.empty()) return "two ahead: " + found;
    end_pass(*two);
    two->step().value();
    if (two->memory().most_gathered != 3 * kLayer) return "more than two ahead";

    ZeroOptions options = options_of(1000);
    options.max_live = 144;
    const auto bounded = member_of(kModel, counted, options);
    (void)gathers(*bounded, counted, forward_and_back);
    end_pass(*bounded);
    bounded->step().value();
    (void)gathers(*bounded, counted, forward_and_back);
    end_pass(*bounded);
    bounded->step().value();
    return bounded->memory().most_gathered <= 2 * kLayer ? "" : "more than max_live";
  });
}

TEST_CASE("a layer that is needed again soon is kept") {
  in_group(2, [](shards::Communicator& group) -> std::string {
    Failing counted(group, -1);
    ZeroOptions options = options_of(0);
    options.reuse_distance = 2 * 72;
    const auto zero = member_of(kModel, counted, options);
    for (int step = 0; step < 2; ++step) {
      const std::vector<int> found = gathers(*zero, counted, {0, 1, 2, 3, 3, 2, 1, 0});
      end_pass(*zero);
      zero->step().value();
      if (step == 0) continue;
      // 3 at once, 2 after two uses of 3; 1 comes after four others.
      if (std::string text = differs(found, {1, 1, 1, 1, 0, 0, 1, 1}); !text.empty()) return text;
    }
    return "";
  });
}

TEST_CASE("a look at the model spoils no pass, and what was gathered for nothing is let go") {
  const std::vector<int> forward_and_back = {0, 1, 2, 3, 3, 2, 1, 0};
  in_group(2, [&](shards::Communicator& group) -> std::string {
    Failing counted(group, -1);
    const auto zero = member_of(kModel, counted, options_of(1));
    for (int i = 0; i < 2; ++i) {
      (void)gathers(*zero, counted, forward_and_back);
      end_pass(*zero);
      zero->step().value();
    }
    for (int i = 0; i < 2; ++i) {
      const std::string found = differs(gathers(*zero, counted, {0, 1, 2, 3}), {2, 1, 1, 1});
      if (!found.empty()) return "looking: " + found;
    }
    std::string found = differs(gathers(*zero, counted, forward_and_back), {2, 1, 1, 1, 0, 1, 1, 0});
    if (!found.empty()) return "after it: " + found;
    end_pass(*zero);
    zero->step().value();

    // All are ahead, and then others are needed than those.
    ZeroOptions options = options_of(1000);
    options.max_live = 144;
    options.reuse_distance = 1000;
    const auto bounded = member_of(kModel, counted, options);
    for (const std::vector<int>& order :
         {forward_and_back, forward_and_back, {0, 3, 1, 2, 2, 1, 3, 0}, {3, 1, 0, 2, 2, 0, 1, 3}}) {
      (void)gathers(*bounded, counted, order);
      end_pass(*bounded);
      bounded->step().value();
    }
    return bounded->memory().most_gathered <= 2 * kLayer ? "" : "more than max_live";
  });
}

TEST_CASE("many small layers are ahead within what a communicator lets wait") {
  in_group(2, [](shards::Communicator& group) -> std::string {
    const Model deep{std::vector<std::int64_t>(1400, 1)};
    ZeroOptions options = options_of(1 << 22);
    options.bucket = 1;
    Failing counted(group, -1);
    const auto zero = member_of(deep, counted, options);
    std::vector<int> order;
    for (int i = 0; i < deep.layers(); ++i) order.push_back(i);
    for (int i = 0; i < 2; ++i) {
      (void)gathers(*zero, counted, order);
      end_pass(*zero);
      zero->step().value();
    }
    return "";
  });
}

TEST_CASE("a pass in another order gathers what it needs, and is the order from then on") {
  in_group(3, [](shards::Communicator& group) -> std::string {
    Failing counted(group, -1);
    const auto zero = member_of(kModel, counted, options_of(1));
    (void)gathers(*zero, counted, {0, 1, 2, 3, 3, 2, 1, 0});
    end_pass(*zero);
    zero->step().value();
    (void)gathers(*zero, counted, {0, 2, 1, 3, 3, 1, 2, 0});
    end_pass(*zero);
    zero->step().value();
    std::string found = differs(gathers(*zero, counted, {0, 2, 1, 3, 3, 1, 2, 0}), {2, 1, 1, 1, 0, 1, 1, 0});
    if (!found.empty()) return found;
    end_pass(*zero);
    zero->step().value();
    // Looking at the model in between changes no loss.
    Alone one(kModel);
    const auto trained = member_of(kModel, counted, options_of(1000));
    for (std::uint64_t step = 0; step < 4; ++step) {
      const double looked = look(kModel, *trained, batch_of(kModel, step, 0, 12));
      const double expected = one.step(batch_of(kModel, step, 0, 12));
      if (std::string differs = difference({looked}, {expected}, 1e-5); !differs.empty()) return differs;
      train(kModel, *trained, group, step, 1, 12);
    }
    return "";
  });
}

}  // namespace troupe::training
