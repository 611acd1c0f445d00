// What observation costs: a call of 64 bytes between two processes, with metrics off and on on both sides, in
// turns, so that what else the machine does meets both:
//   observation_bench [part of a figure's name ...]
#include <chrono>
#include <cstdlib>
#include <iostream>
#include <optional>
#include <string>
#include <vector>

#include <troupe/actors/node.hpp>

#include "harness.hpp"

namespace {

using namespace troupe;
using namespace std::chrono_literals;
using namespace troupe::bench;

/// Pairs of processes for each of both, in turns. Where the memory of a pair lies makes a difference of some
/// per cent, so that it takes many.
constexpr int kPairs = 15;
constexpr std::size_t kBytes = 64;
/// A pair's figure is that of its quick blocks, which nothing else has interrupted.
constexpr int kBlocks = 500, kCallsInBlock = 500;
constexpr double kQuick = 0.1;

struct Echo {
  static void methods(rpc::Methods<Echo>& methods) {
    methods.add("echo", [](Echo&, std::string_view text) { return text; });
  }
};

NodeOptions options_for(const std::string& name, const std::string& registry, bool metrics) {
  NodeOptions options;
  options.name = name;
  options.registry = registry;
  options.transport.transports = "shm";
  options.metrics = metrics;
  return options;
}

void serve(bool metrics, const Ready& ready) {
  NodeOptions options = options_for("server", "", metrics);
  options.own_thread = false;
  auto node = Node::start(std::move(options)).value();
  node->spawn<Echo>("echo").value();
  ready(node->address());
  (void)node->run();
}

double round_trip_us(const std::string& address, bool metrics) {
  auto node = Node::start(options_for("client", address, metrics)).value();
  node->wait_for_actor("echo", 10s).value();
  const std::string text(kBytes, 'x');
  std::vector<double> blocks;
  for (int block = 0; block < kBlocks; ++block) {
    const auto begin = SteadyClock::now();
    for (int i = 0; i < kCallsInBlock; ++i)
      if (node->rpc_sync<std::string>("echo", "echo", std::string_view(text)).value().size() != kBytes)
        std::abort();
    blocks.push_back(seconds_since(begin) * 1e6 / kCallsInBlock);
  }
  return percentile(blocks, kQuick);
}

std::optional<double> between_pair(bool metrics) {
  return between_processes([&](const Ready& ready) { serve(metrics, ready); },
                           [&](const std::string& address) { return round_trip_us(address, metrics); });
}

}  // namespace

int main(int argc, char** argv) {
  const std::vector<std::string> parts(argv + 1, argv + argc);
  if (!wanted("rpc_sync_64B_shm_with_metrics", parts)) return 0;
  std::vector<double> off, on;
  for (int pair = 0; pair < kPairs; ++pair) {
    const auto without = between_pair(false);
    const auto with = between_pair(true);
    if (!without || !with) {
      std::cerr << "rpc_sync_64B_shm_with_metrics: no figure\n";
      return 1;
    }
    off.push_back(*without);
    on.push_back(*with);
  }
  print_json("rpc_sync_64B_shm_with_metrics", median(on), "us", "rpc_sync_64B_shm_without_metrics",
             median(off));
  return 0;
}
