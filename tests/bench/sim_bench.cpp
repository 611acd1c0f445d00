// What a call costs in a simulated cluster of 50, 100 and 200 nodes where all call all: processor time
// for each call, not virtual time. It has to be the same for all sizes.
//   sim_bench [nodes ...]
#include <time.h>

#include <algorithm>
#include <cstdlib>
#include <iostream>
#include <memory>
#include <string>
#include <vector>

#include <caf/all.hpp>
#include <troupe/actors/caf.hpp>
#include <troupe/actors/node.hpp>
#include <troupe/rpc/sim.hpp>

#include "harness.hpp"

namespace {

using namespace troupe;
using namespace troupe::bench;
using namespace std::chrono_literals;

constexpr Duration kDeadline = 600s;  // virtual

struct Echo {
  static void methods(rpc::Methods<Echo>& methods) {
    methods.add("echo", [](Echo&, std::int64_t number) { return number; });
  }
};

class Cluster {
 public:
  Cluster(int size, caf::actor_system& system) : system_(system), world_({.seed = 1}) {
    for (int i = 0; i < size; ++i) start(i);
    // Looked at once in a virtual millisecond, because looking is not what is measured.
    const TimePoint deadline = world_.clock().now() + kDeadline;
    while (!all_know_all()) {
      if (world_.clock().now() > deadline) {
        std::cerr << "the cluster did not come together\n";
        std::abort();
      }
      world_.run_for(1ms);
    }
  }
  ~Cluster() {
    while (!nodes_.empty()) nodes_.pop_back();  // the first node goes last
  }
  Cluster(const Cluster&) = delete;
  Cluster& operator=(const Cluster&) = delete;

  /// Every node calls the actor of each other node once, and all wait. Returns how many calls that were.
  std::size_t call_all() {
    std::vector<rpc::Future<std::int64_t>> calls;
    calls.reserve(nodes_.size() * nodes_.size());
    for (const auto& caller : nodes_)
      for (std::size_t i = 0; i < nodes_.size(); ++i)
        if (nodes_[i] != caller)
          calls.push_back(caller->rpc_async<std::int64_t>(actor(i), "echo", std::int64_t{7}));
    for (auto& call : calls)
      if (call.get().value() != 7) std::abort();
    return calls.size();
  }

 private:
  bool all_know_all() const {
    return std::all_of(nodes_.begin(), nodes_.end(),
                       [&](const auto& node) { return node->membership().actors.size() == nodes_.size(); });
  }

  static std::string actor(std::size_t index) { return "echo" + std::to_string(index); }

  void start(int index) {
    const std::string host = "h" + std::to_string(index);
    NodeOptions options;
    options.name = "n" + std::to_string(index);
    options.registry = nodes_.empty() ? "" : nodes_.front()->address();
    options.listen = host + ":0";
    options.clock = &world_.clock();
    options.own_thread = false;
    options.loop = world_.loop_options();
    options.node_id = static_cast<std::uint64_t>(index) + 1;
    options.system = &system_;
    options.make_transport = [this, host](Loop& loop) -> Result<std::unique_ptr<rpc::Transport>> {
      return world_.make_transport(loop, host);
    };
    nodes_.push_back(Node::start(std::move(options)).value());
    nodes_.back()->spawn<Echo>(actor(static_cast<std::size_t>(index))).value();
  }

  caf::actor_system& system_;
  rpc::SimWorld world_;
  std::vector<std::unique_ptr<Node>> nodes_;
};

struct Costs {
  double start_us = 0;       ///< for each node: to join, to make its actor known, and that all hear of it
  double first_call_us = 0;  ///< for each pair's first call, which makes their session
  double call_us = 0;        ///< for each further call
};

/// Processor time of this thread, which does all that happens in the world.
double cpu_seconds() {
  timespec time{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) / 1e9;
}

Costs measure(int size, caf::actor_system& system) {
  Costs costs;
  double begin = cpu_seconds();
  Cluster cluster(size, system);
  costs.start_us = (cpu_seconds() - begin) * 1e6 / size;
  begin = cpu_seconds();
  const std::size_t calls = cluster.call_all();
  costs.first_call_us = (cpu_seconds() - begin) * 1e6 / static_cast<double>(calls);
  std::vector<double> each;
  for (int i = 0; i < 3; ++i) {
    begin = cpu_seconds();
    cluster.call_all();
    each.push_back((cpu_seconds() - begin) * 1e6 / static_cast<double>(calls));
  }
  costs.call_us = median(each);
  return costs;
}

}  // namespace

int main(int argc, char** argv) {
  std::vector<int> sizes;
  for (int i = 1; i < argc; ++i) sizes.push_back(std::atoi(argv[i]));
  if (sizes.empty()) sizes = {50, 100, 200};
  caf::actor_system_config config;
  register_caf_types();
  config.set("scheduler.max-threads", 1);
  caf::actor_system system(config);
  Costs least;
  for (const int size : sizes) {
    const Costs costs = measure(size, system);
    if (size == sizes.front()) least = costs;
    const std::string nodes = "_" + std::to_string(size) + "_nodes";
    const std::string reference = "_" + std::to_string(sizes.front()) + "_nodes";
    print_json("sim_start" + nodes, costs.start_us, "us", "sim_start" + reference, least.start_us);
    print_json("sim_first_call" + nodes, costs.first_call_us, "us", "sim_first_call" + reference,
               least.first_call_us);
    print_json("sim_call" + nodes, costs.call_us, "us", "sim_call" + reference, least.call_us);
  }
  return 0;
}
