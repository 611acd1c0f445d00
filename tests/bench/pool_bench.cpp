// What it costs that a method runs on a pool thread, beside what waking a thread costs on this machine just
// now.
#include <condition_variable>
#include <cstdlib>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <troupe/actors/node.hpp>

#include "harness.hpp"

namespace {

using namespace troupe;
using namespace std::chrono_literals;
using namespace troupe::bench;

constexpr std::size_t kCalls = 5000;
constexpr int kTurns = 5;  // of both figures, one after the other; their medians count

struct Both {
  static void methods(rpc::Methods<Both>& methods) {
    methods.add("on_loop", [](Both&, std::int64_t value) { return value; })
        .add(
            "on_pool", [](Both&, std::int64_t value) { return value; }, rpc::kOnPool);
  }
};

/// Two threads that wake each other in turns, each asleep when it is woken: a wake-up is half of a turn.
double wake_up_us() {
  std::mutex mutex;
  std::condition_variable woken;
  std::size_t turns = 0;
  const auto play = [&](std::size_t own) {
    std::unique_lock lock(mutex);
    while (turns < 2 * kCalls) {
      woken.wait(lock, [&] { return turns >= 2 * kCalls || turns % 2 == own; });
      ++turns;
      woken.notify_one();
    }
  };
  const auto begin = SteadyClock::now();
  std::thread other([&] { play(1); });
  play(0);
  other.join();
  return seconds_since(begin) * 1e6 / (2 * kCalls);
}

double call_us(Node& node, const std::string& method) {
  const auto begin = SteadyClock::now();
  for (std::size_t i = 0; i < kCalls; ++i)
    if (!node.rpc_sync<std::int64_t>("both", method, static_cast<std::int64_t>(i)).ok()) std::abort();
  return seconds_since(begin) * 1e6 / static_cast<double>(kCalls);
}

/// The medians of calls on the loop, on the pool, and of wake-ups, told through the pipe.
void measure(Node& node, int fd) {
  std::vector<double> loop, pool, wake_ups;
  for (int turn = 0; turn <= kTurns; ++turn) {
    loop.push_back(call_us(node, "on_loop"));
    pool.push_back(call_us(node, "on_pool"));
    wake_ups.push_back(wake_up_us());
  }
  for (const double figure : {median(loop), median(pool), median(wake_ups)}) say(fd, std::to_string(figure));
}

void print(const std::string& name, const Child& child) {
  const std::string loop = child.line(), pool = child.line(), wake_up = child.line();
  if (wake_up.empty()) return;
  print_json("rpc_sync_" + name + "_on_pool", std::stod(pool), "us", "thread_wake_up", std::stod(wake_up));
  print_json("rpc_sync_" + name + "_on_loop", std::stod(loop), "us");
  print_json("rpc_sync_" + name + "_on_pool_over_wake_up", std::stod(pool) / std::stod(wake_up), "x", "bound",
             3);
}

}  // namespace

int main() {
  const Child local([](int fd) {
    auto node = Node::start({.name = "local"}).value();
    node->spawn<Both>("both").value();
    measure(*node, fd);
  });
  print("local", local);
  const Child server([](int fd) {
    auto node = Node::start({.name = "server"}).value();
    node->spawn<Both>("both").value();
    say(fd, node->address());
    (void)node->run();
  });
  const std::string address = server.line();
  const Child client([&](int fd) {
    auto node = Node::start({.name = "client", .registry = address}).value();
    node->wait_for_actor("both", 10s).value();
    measure(*node, fd);
  });
  print("shm", client);
  return 0;
}
