// What observation costs: 64-byte calls between two processes with nothing observed, with metrics, and with
// metrics and traces of which none is sampled, 1 %, and all; in turns, so that what else the machine does
// meets all of them. Caller and callee are pinned to a core each, on which their exporters write the spans to
// a file, too. The last three are taken of the same pair of nodes, the others of pairs of their own: two
// equal pairs differ by several per cent by where their memory happens to lie, so there are many launches,
// each with other places.
//   tracing_bench [part of a figure's name ...]
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <iostream>
#include <memory>
#include <sstream>
#include <string>
#include <thread>
#include <tuple>
#include <vector>

#include <troupe/actors/node.hpp>
#include <troupe/actors/node_traces.hpp>

#include "harness.hpp"

namespace {

using namespace troupe;
using namespace troupe::bench;
using namespace std::chrono_literals;

struct Echo {
  static void methods(rpc::Methods<Echo>& methods) {
    methods.add("echo", [](Echo&, std::string_view text) { return text; });
  }
};

struct Mode {
  const char* name;
  std::size_t pair;
  double ratio;
};
enum : std::size_t { kNothing, kOff, kNone, kOnePercent, kAll, kModes };
constexpr std::array<Mode, kModes> kMode{
    {{"unobserved", 0, 0}, {"off", 1, 0}, {"none", 2, 0}, {"1_percent", 2, 0.01}, {"all", 2, 1}}};
/// The nodes of a process: one that observes nothing, one with metrics, and one with both.
using Nodes = std::array<std::unique_ptr<Node>, 3>;

constexpr std::size_t kLaunches = 48;
constexpr int kRounds = 20;
constexpr std::size_t kLaunchesOfAll = 8;  // the first ones
constexpr int kRoundsOfAll = 2;
constexpr int kWarm = 1000;
constexpr int kCalls = 10000;
/// Until the exporters have written what a block has left: longer than their interval.
constexpr auto kDrain = 1200ms;

std::unique_ptr<Node> start(const std::string& name, std::size_t pair, const std::string& folder,
                            const std::string& registry) {
  NodeOptions options;
  options.name = name;
  options.registry = registry;
  options.transport.transports = "shm";
  options.metrics = pair > 0;
  if (pair == 2) options.trace = {.file = folder + "/" + name, .ratio = 0};
  return Node::start(std::move(options)).value();
}

/// Of a call, in microseconds.
double block(Node& node) {
  const std::string text(64, 'x');
  const auto call = [&] {
    const auto answer = node.rpc_sync<std::string>("echo", "echo", std::string_view(text));
    if (answer.value().size() != text.size()) std::abort();
  };
  for (int i = 0; i < kWarm; ++i) call();
  const auto begin = SteadyClock::now();
  for (int i = 0; i < kCalls; ++i) call();
  return seconds_since(begin) * 1e6 / kCalls;
}

/// Which pair is made as number `i` of a launch.
std::size_t made_as(std::size_t i, std::size_t launch) {
  return (i + launch) % std::tuple_size_v<Nodes>;
}

void serve(int fd, const std::string& folder, std::size_t launch) {
  pin_to_core(0);
  Nodes nodes;
  std::string addresses;
  for (std::size_t i = 0; i < nodes.size(); ++i) {
    auto& node = nodes[made_as(i, launch)] = start("server", made_as(i, launch), folder, "");
    node->spawn<Echo>("echo").value();
    addresses += node->address() + " ";
  }
  say(fd, addresses);
  for (;;) pause();
}

void measure(int fd, const std::string& folder, const std::string& addresses, std::size_t launch) {
  pin_to_core(1);
  std::istringstream words(addresses);
  Nodes nodes;
  for (std::size_t i = 0; i < nodes.size(); ++i) {
    std::string address;
    words >> address;
    auto& node = nodes[made_as(i, launch)] = start("client", made_as(i, launch), folder, address);
    node->wait_for_actor("echo", 10s).value();
  }
  std::array<std::vector<double>, kModes> times;
  const auto take = [&](std::size_t mode) {
    Node& node = *nodes[kMode[mode].pair];
    NodeTraces(node).set_ratio(kMode[mode].ratio);
    times[mode].push_back(block(node));
  };
  for (std::size_t round = 0; round < kRounds; ++round)
    for (std::size_t i = 0; i < kAll; ++i) take((i + round) % kAll);  // none is always the first
  for (int round = 0; round < kRoundsOfAll && launch < kLaunchesOfAll; ++round) {
    take(kAll);
    std::this_thread::sleep_for(kDrain);
  }
  if (times[kAll].empty()) times[kAll].push_back(0);  // not taken
  const auto stats = NodeTraces(*nodes.back()).stats();
  std::ostringstream line;
  for (const auto& each : times) line << median(each) << " ";
  line << 100.0 * static_cast<double>(stats.dropped) /
              static_cast<double>(std::max<std::uint64_t>(stats.exported + stats.dropped, 1));
  say(fd, line.str());
}

/// The client's line; empty if it failed.
std::string measure_once(std::size_t launch) {
  std::string folder = (std::filesystem::temp_directory_path() / "tracing-bench-XXXXXX").string();
  if (!mkdtemp(folder.data())) return "";
  std::string line;
  {
    const Child server([&](int fd) { serve(fd, folder, launch); });
    const std::string addresses = server.line();
    const Child client([&](int fd) { measure(fd, folder, addresses, launch); });
    line = client.line();
  }
  std::filesystem::remove_all(folder);
  return line;
}

}  // namespace

int main(int argc, char** argv) {
  const std::vector<std::string> parts(argv + 1, argv + argc);
  std::array<std::vector<double>, kModes> figures;
  std::vector<double> dropped;
  for (std::size_t launch = 0; launch < kLaunches; ++launch) {
    std::istringstream line(measure_once(launch));
    std::array<double, kModes + 1> taken{};
    for (double& each : taken) line >> each;
    if (!line) {
      std::cerr << "tracing: no figure\n";
      return 1;
    }
    for (std::size_t i = 0; i < kModes; ++i)
      if (i != kAll || launch < kLaunchesOfAll) figures[i].push_back(taken[i]);
    if (launch < kLaunchesOfAll) dropped.push_back(taken.back());
  }
  const std::string name = "tracing_rpc_sync_64B_";
  for (std::size_t i = 0; i < kModes; ++i) {
    const std::string own = name + kMode[i].name;
    if (!wanted(own, parts)) continue;
    if (i == kNothing)
      print_json(own, median(figures[i]), "us");
    else
      print_json(own, median(figures[i]), "us", name + kMode[kNothing].name, median(figures[kNothing]));
  }
  // Of the same pairs: what is left when their places count for nothing.
  std::vector<double> ratios;
  for (std::size_t i = 0; i < kLaunches; ++i) ratios.push_back(figures[kOnePercent][i] / figures[kNone][i]);
  if (wanted("tracing_1_percent_over_none", parts))
    print_json("tracing_1_percent_over_none", median(ratios), "x");
  if (wanted("tracing_spans_dropped_all", parts))
    print_json("tracing_spans_dropped_all", median(dropped), "%");
  return 0;
}
