// Reinforcement learning in several processes: actors balance a pole with the newest weights they have and
// send what happened to a replay actor; a learner asks that for batches, learns (double deep Q-learning: van
// Hasselt, Guez and Silver 2016) and publishes its weights to the actors, without waiting for any of them.
#include <cstdio>
#include <deque>
#include <exception>
#include <random>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>
#include <atomic>
#include <examples/support/processes.hpp>
#include <troupe/actors/stop_signals.hpp>
#include <troupe/kernels/step.hpp>
#include <troupe/training/weight_stream.hpp>

#include "cart_pole.hpp"
#include "q_values.hpp"

using namespace troupe;
using namespace troupe::training;
using namespace std::chrono_literals;

namespace {

constexpr std::int64_t kRow =
    10;  // a step: state (4 numbers), push, whether the pole still stood, next state (4)
constexpr std::int64_t kBatch = 128, kWeights = 2 * QValues::kFeatures;
constexpr float kDiscount = 0.99F, kLearningRate = 1e-2F, kFollow = 0.005F;
constexpr auto kPatience = 20s;

/// Remembers the last steps of all actors. It holds these back while the learner does not keep up: a push is
/// answered when it is wanted.
struct Replay {
  static constexpr std::size_t kMost = 50'000, kFirst = 1000;
  static constexpr std::int64_t kStepsEachBatch = 16;
  explicit Replay(Node& own) : node(own) {}
  Node& node;
  std::vector<float> rows;
  std::int64_t pushed = 0, sampled = 0;
  std::deque<rpc::Promise<void>> held;
  std::mt19937_64 random{7};

  bool enough() const { return pushed > static_cast<std::int64_t>(kFirst) + sampled * kStepsEachBatch; }
  rpc::Future<void> push(const TensorOf<float, 2>& steps) {
    const auto elements = steps.values();
    if (steps.extent(1) != kRow) throw BadTensor("a step has " + std::to_string(kRow) + " numbers");
    for (std::size_t i = 0; i < elements.size(); i += kRow) {
      const auto to = static_cast<std::size_t>(pushed++) % kMost * kRow;
      if (rows.size() <= to) rows.resize(to + kRow);
      std::copy_n(elements.begin() + static_cast<std::ptrdiff_t>(i), kRow,
                  rows.begin() + static_cast<std::ptrdiff_t>(to));
    }
    held.emplace_back(node.loop());
    auto answer = held.back().future();
    release();
    return answer;
  }
  Result<Tensor> sample() {
    const std::size_t count = rows.size() / kRow;
    if (count < kFirst) return Error{Code::kFailedPrecondition, "too little has happened yet"};
    ++sampled;
    Tensor batch = Tensor::empty(DType::kFloat32, Shape{kBatch, kRow});
    float* to = batch.as<float>().data();
    for (std::int64_t i = 0; i < kBatch; ++i, to += kRow)
      std::copy_n(&rows[std::uniform_int_distribution<std::size_t>(0, count - 1)(random) * kRow], kRow, to);
    release();
    return batch;
  }
  void release() {
    while (!held.empty() && !enough()) {
      rpc::Promise<void> next = std::move(held.front());
      held.pop_front();
      next.set({});
    }
  }
  static void methods(rpc::Methods<Replay>& methods) {
    methods.add("push", &Replay::push).add("sample", &Replay::sample);
  }
};

void replay(Node& node) {
  node.spawn<Replay>("replay", std::ref(node)).value();
  (void)node.run();
}

/// Plays until the cluster has gone, with this share of the pushes at random.
void act(Node& node, std::uint64_t seed, double at_random) {
  std::mt19937_64 random(seed);
  node.wait_for_actor("replay", kPatience).value();
  const auto reader = WeightReader::on(node, "policy").value();
  auto weights = reader->wait_for_next(nullptr, kPatience).value();
  CartPole game;
  game.reset(random);
  std::vector<float> steps;
  rpc::Future<void> sent;
  for (;;) {
    weights = reader->newest();
    const auto before = game.state;
    const bool right = std::uniform_real_distribution<>(0, 1)(random) < at_random
                           ? random() % 2 == 0
                           : QValues(weights->tensor(0)).best(before);
    const bool goes_on = game.push(right);
    steps.insert(steps.end(), before.begin(), before.end());
    steps.insert(steps.end(), {right ? 1.0F : 0.0F, goes_on ? 1.0F : 0.0F});
    steps.insert(steps.end(), game.state.begin(), game.state.end());
    if (!goes_on || game.over()) game.reset(random);
    if (steps.size() < 32 * kRow) continue;
    if (sent.valid()) sent.get().value();  // throws when the replay has gone
    sent = node.rpc_async_with<void>({.timeout = rpc::kNoDeadline}, "replay", "push",
                                     TensorOf<float, 2>(Tensor::of<float>(steps).reshape(Shape{32, kRow})));
    steps.clear();
  }
}

/// The mean length of so many episodes without any random push.
double score(const QValues& policy, int episodes, std::mt19937_64& random) {
  CartPole game;
  int steps = 0;
  for (int i = 0; i < episodes; ++i, steps += game.steps)
    for (game.reset(random); game.push(policy.best(game.state)) && !game.over();) {
    }
  return static_cast<double>(steps) / episodes;
}

/// Whether the task was solved within so many batches.
bool learn(Node& node, std::uint64_t seed, int most, const std::atomic<bool>& stop) {
  std::mt19937_64 random(seed);
  QValues online, target;
  std::vector<float> gradients(kWeights), moments(2 * kWeights);
  const auto publisher =
      WeightPublisher::on(node, "policy", {{"q", DType::kFloat32, online.weights.shape()}}).value();
  publisher->publish(std::vector{online.weights}).value();
  node.wait_for_actor("replay", kPatience).value();
  auto next = node.rpc_async<Tensor>("replay", "sample");
  for (int batch = 0; batch < most && !stop;) {
    auto rows = next.get();
    next = node.rpc_async<Tensor>("replay", "sample");
    if (!rows && rows.error().code != Code::kFailedPrecondition) throw BadResult(rows.error());
    if (!rows) continue;
    std::fill(gradients.begin(), gradients.end(), 0.0F);
    for (const float *row = rows->as<const float>().data(), *end = row + kBatch * kRow; row < end;
         row += kRow) {
      const auto before = QValues::features(row), after = QValues::features(row + 6);
      const bool right = row[4] > 0.5F;
      const float wanted = 1 + kDiscount * row[5] * target.value(after, online.best(after));
      const float error =
          std::clamp(online.value(before, right) - wanted, -1.0F, 1.0F) / static_cast<float>(kBatch);
      for (std::size_t f = 0; f < before.size(); ++f)
        gradients[(right ? before.size() : 0) + f] += error * before[f];
    }
    const std::span<float> learnt = online.weights.as<float>(), follows = target.weights.as<float>();
    const kernels::Step adam{kernels::Rule::kAdam, {kLearningRate, 0.9F, 0.999F, 1e-8F}};
    const kernels::DenseTensor all{
        learnt.data(), gradients.data(), {&moments[0], &moments[kWeights]}, kWeights};
    (void)kernels::dense_step(kernels::Place::host(), adam, std::span(&all, 1), ++batch, nullptr);
    for (std::size_t i = 0; i < learnt.size(); ++i) follows[i] += kFollow * (learnt[i] - follows[i]);
    if (batch % 10 == 0)
      (void)publisher->publish(std::vector{online.weights});  // if all memory is read: next time
    if (batch % 50 != 0) continue;
    double mean = score(online, 10, random);
    std::printf("batch %6d: the pole stands for %5.1f of %d steps\n", batch, mean, CartPole::kLongest);
    std::fflush(stdout);
    if (mean < CartPole::kSolved || (mean = score(online, 100, random)) < CartPole::kSolved) continue;
    std::printf(
        "solved: %.1f steps, the mean of 100 episodes, after %d batches and %llu versions of the weights\n",
        mean, batch, static_cast<unsigned long long>(publisher->stats().published));
    return true;
  }
  std::printf(stop ? "stopped\n" : "not solved\n");
  return false;
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Actors, a replay and a learner, each a process, learn to balance a pole");
  int actors = 2, batches = 20'000;
  std::uint64_t seed = 1;
  app.add_option("--actors", actors, "processes that play")->check(CLI::Range(1, 64))->capture_default_str();
  app.add_option("--batches", batches, "to learn from at most")
      ->check(CLI::Range(1, 100'000'000))
      ->capture_default_str();
  app.add_option("--seed", seed, "of what is random")->capture_default_str();
  std::atomic<bool> stop{false};
  try {
    app.parse(argc, argv);
    examples::Processes others;
    others.add([](const std::string& registry) {
      replay(*Node::start({.name = "replay", .registry = registry}).value());
    });
    for (int i = 1; i <= actors; ++i)
      others.add([=](const std::string& registry) {
        const auto node = Node::start({.name = "actor-" + std::to_string(i), .registry = registry}).value();
        act(*node, seed * 1000 + static_cast<std::uint64_t>(i), i == 1 ? 0.05 : 0.2);
      });
    StopSignals signals;
    signals.start([&](int) { stop = true; });
    const auto node = Node::start({.name = "learner"}).value();
    others.tell(node->address());
    const bool solved = learn(*node, seed, batches, stop);
    others.end();
    return solved ? 0 : stop ? 130 : 1;
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  } catch (const std::exception& exception) {
    std::fprintf(stderr, "actor_learner: %s\n", exception.what());
    return 1;
  }
}
