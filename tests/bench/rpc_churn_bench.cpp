// Small calls over shared memory while peers of the callee are killed, others join, and 64 MB tensors pass:
//   rpc_churn_bench
// The caller has a core of its own, and so has the callee; whoever joins and dies runs where there is room.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <iostream>
#include <memory>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include <troupe/actors/node.hpp>

#include "harness.hpp"

namespace {

using namespace troupe;
using namespace std::chrono_literals;
using namespace troupe::bench;

constexpr std::size_t kTensorBytes = 64 * kMiB;
constexpr auto kMeasured = 5s;
constexpr auto kBetweenCalls = 2ms;
constexpr auto kBetweenDeaths = 100ms;
constexpr int kFewestDeaths = 10;
constexpr double kBoundUs = 1000;

struct Echo {
  static void methods(rpc::Methods<Echo>& methods) {
    methods.add("echo", [](Echo&, std::string_view text) { return text; })
        .add("take", [](Echo&, const Tensor&) {});
  }
};

std::unique_ptr<Node> start(const std::string& name, const std::string& registry) {
  NodeOptions options;
  options.name = name;
  options.registry = registry;
  options.transport.transports = "shm";
  options.own_thread = !registry.empty();
  return Node::start(std::move(options)).value();
}

void serve(int fd) {
  pin_to_core(0);
  auto node = start("server", "");
  node->spawn<Echo>("echo").value();
  say(fd, node->address());
  (void)node->run();
}

void call_echo(Node& node, const std::string& text) {
  if (node.rpc_sync<std::string>("echo", "echo", std::string_view(text)).value().size() != text.size())
    std::abort();
}

/// Joins, calls, and goes on calling until it is killed; a hundred calls at a time, for the cores may be few.
void live_and_die(int fd, int number, const std::string& address) {
  auto node = start("peer-" + std::to_string(number), address);
  node->wait_for_actor("echo", 10s).value();
  const std::string text(64, 'x');
  call_echo(*node, text);
  say(fd, "called");
  for (;;) {
    for (int i = 0; i < 100; ++i) call_echo(*node, text);
    (void)node->loop().wait_until([] { return false; }, node->loop().clock().now() + kBetweenCalls);
  }
}

/// Keeps two calls open that carry a tensor.
class Tensors {
 public:
  explicit Tensors(Node& node)
      : node_(node),
        tensor_(Tensor::zeros(DType::kFloat32, Shape({static_cast<std::int64_t>(kTensorBytes / 4)}))) {
    for (int i = 0; i < 2; ++i) send();
  }
  /// Any thread.
  std::size_t passed() const { return passed_; }
  void end() {
    Loop& loop = node_.loop();
    const Loop::Turn turn(loop);
    ended_ = true;
    (void)loop.wait_until([&] { return open_ == 0; }, loop.clock().now() + 60s);
  }

 private:
  void send() {
    const Loop::Turn turn(node_.loop());
    ++open_;
    node_.rpc_async<void>("echo", "take", tensor_).then([this](const Result<void>& done) {
      --open_;
      ++passed_;
      done.value();
      if (!ended_) send();
    });
  }
  Node& node_;
  const Tensor tensor_;
  bool ended_ = false;
  std::size_t open_ = 0;
  std::atomic<std::size_t> passed_ = 0;
};

/// "calls, tensors, median, 99.9th percentile, longest", the last three in µs.
void probe(int fd, const std::string& address) {
  pin_to_core(1);
  auto node = start("prober", address);
  node->wait_for_actor("echo", 10s).value();
  const std::string text(64, 'x');
  Tensors tensors(*node);
  while (tensors.passed() < 4) call_echo(*node, text);  // these fault pages in
  say(fd, "warm");
  std::vector<double> times;
  times.reserve(8'000'000);
  const std::size_t before = tensors.passed();
  for (const auto begin = SteadyClock::now(); SteadyClock::now() - begin < kMeasured;) {
    const auto called = SteadyClock::now();
    call_echo(*node, text);
    times.push_back(seconds_since(called) * 1e6);
  }
  const std::size_t passed = tensors.passed() - before;
  tensors.end();
  const double longest = *std::max_element(times.begin(), times.end());
  say(fd, std::to_string(times.size()) + " calls, " + std::to_string(passed) + " tensors, median " +
              std::to_string(median(times)) + " us, longest " + std::to_string(longest) + " us");
  say(fd, std::to_string(passed > 0 ? percentile(std::move(times), 0.999) : 0.0));
}

}  // namespace

int main(int argc, char** argv) {
  const std::string name = "rpc_p999_churn_64B_shm";
  if (!wanted(name, std::vector<std::string>(argv + 1, argv + argc))) return 0;
  const Child server(serve);
  const std::string address = server.line();
  const Child prober([&](int fd) { probe(fd, address); });
  if (address.empty() || prober.line() != "warm") return 1;
  int deaths = 0;
  const auto begin = SteadyClock::now();
  auto next = std::make_unique<Child>([&](int fd) { live_and_die(fd, 0, address); });
  if (next->line(10s) != "called") return 1;
  while (SteadyClock::now() - begin < kMeasured) {
    std::this_thread::sleep_for(kBetweenDeaths);
    auto heir = std::make_unique<Child>([&](int fd) { live_and_die(fd, deaths + 1, address); });
    if (heir->line(10s) != "called") return 1;
    next = std::move(heir);  // kills the one before
    ++deaths;
  }
  const std::string facts = prober.line(), figure = prober.line();
  std::cerr << name << ": " << facts << ", deaths " << deaths << "\n";
  if (figure.empty() || std::stod(figure) <= 0 || deaths < kFewestDeaths) {
    std::cerr << name << ": no figure\n";
    return 0;
  }
  print_json(name, std::stod(figure), "us", "bound", kBoundUs);
  return 0;
}
