// What an idle connection costs in memory:  memory_bench [processes ...]
// 2, 16 and 32 node processes, each of which has called every other one and is now idle; how much more
// memory each of them has for each further connection. A connection has two ends, and this is one end's
// part. Beside it the same of raw UCX. On the standard error, of what kind the memory is.
//
// The measure is resident memory, so that pages of shared memory count in full for everyone who has touched
// them. Memory of the kernel, such as the buffers of sockets, is not in it.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iostream>
#include <iterator>
#include <sstream>
#include <string>
#include <vector>

#include <troupe/actors/node.hpp>

#include "harness.hpp"
#include "ucx_raw_mesh.hpp"

namespace {

using namespace troupe;
using namespace troupe::bench;
using namespace std::chrono_literals;

constexpr double kBoundKiB = 64;
constexpr auto kDeadline = 60s;

/// A process's memory in KiB, as /proc/<pid>/smaps_rollup has it, and its open descriptors.
struct Memory {
  double rss = 0;
  double anonymous = 0;
  double shared_memory = 0;  ///< its part
  double descriptors = 0;
};

Memory memory_of(pid_t pid) {
  Memory memory;
  std::ifstream file("/proc/" + std::to_string(pid) + "/smaps_rollup");
  for (std::string line; std::getline(file, line);) {
    std::istringstream words(line);
    std::string key;
    double value = 0;
    words >> key >> value;
    if (key == "Rss:") memory.rss = value;
    if (key == "Anonymous:") memory.anonymous = value;
    if (key == "Pss_Shmem:") memory.shared_memory = value;
  }
  const std::filesystem::directory_iterator descriptors("/proc/" + std::to_string(pid) + "/fd");
  memory.descriptors = static_cast<double>(std::distance(begin(descriptors), end(descriptors)));
  return memory;
}

struct Echo {
  static void methods(rpc::Methods<Echo>& methods) {
    methods.add("echo", [](Echo&, std::int64_t number) { return number; });
  }
};

/// Joins, calls all the others once, says so, and stays.
void hold_node(std::size_t index, std::size_t count, const std::string& tls, const std::string& registry,
               int fd) {
  NodeOptions options;
  options.name = "node" + std::to_string(index);
  options.role = "idler";
  options.registry = registry;
  options.transport.transports = tls;
  options.join_timeout = kDeadline;
  auto node = Node::start(std::move(options)).value();
  node->spawn<Echo>("echo" + std::to_string(index)).value();
  say(fd, node->address());
  for (std::size_t peer = 0; peer < count; ++peer) {
    if (peer == index) continue;
    const std::string actor = "echo" + std::to_string(peer);
    node->wait_for_actor(actor, kDeadline).value();
    node->rpc_sync<std::int64_t>(actor, "echo", std::int64_t{7}).value();
  }
  say(fd, "connected");
  (void)node->run();
}

using Processes = std::deque<Child>;

bool hold_nodes(Processes& processes, std::size_t count, const std::string& tls) {
  std::string registry;
  for (std::size_t i = 0; i < count; ++i) {
    processes.emplace_back([&](int fd) { hold_node(i, count, tls, registry, fd); });
    const std::string address = processes.back().line();
    if (i == 0) registry = address;
  }
  return std::all_of(processes.begin(), processes.end(),
                     [](const Child& process) { return process.line() == "connected"; });
}

bool hold_raw(Processes& processes, std::size_t count, const std::string& tls) {
  MeshBoard& board = make_mesh_board();
  for (std::size_t i = 0; i < count; ++i)
    processes.emplace_back(
        [&](int fd) { hold_raw_mesh(board, i, count, tls, [&] { say(fd, "connected"); }); });
  return std::all_of(processes.begin(), processes.end(),
                     [](const Child& process) { return process.line() == "connected"; });
}

using Hold = std::function<bool(Processes&, std::size_t count, const std::string& tls)>;

/// The median process of a cluster of `count`; the first one, which keeps the registry, does not count.
Memory measure(const Hold& hold, std::size_t count, const std::string& tls) {
  Processes processes;
  if (!hold(processes, count, tls)) {
    std::cerr << "not all of " << count << " processes came together\n";
    std::exit(1);
  }
  std::vector<Memory> all;
  for (std::size_t i = 1; i < count; ++i) all.push_back(memory_of(processes[i].pid()));
  const auto median_of = [&](double Memory::*member) {
    std::vector<double> values;
    values.reserve(all.size());
    for (const Memory& memory : all) values.push_back(memory.*member);
    return median(values);
  };
  return {median_of(&Memory::rss), median_of(&Memory::anonymous), median_of(&Memory::shared_memory),
          median_of(&Memory::descriptors)};
}

/// KiB for each further connection.
double per_connection(const std::string& name, const Hold& hold, const std::vector<std::size_t>& sizes,
                      const std::string& tls) {
  std::vector<Memory> memory;
  std::fprintf(stderr, "%s, KiB of one process:\n%12s %10s %10s %10s %12s\n", name.c_str(), "connections",
               "rss", "anonymous", "shared", "descriptors");
  for (const std::size_t size : sizes) {
    const Memory m = measure(hold, size, tls);
    std::fprintf(stderr, "%12zu %10.0f %10.0f %10.0f %12.0f\n", size - 1, m.rss, m.anonymous, m.shared_memory,
                 m.descriptors);
    memory.push_back(m);
  }
  return (memory.back().rss - memory.front().rss) / static_cast<double>(sizes.back() - sizes.front());
}

}  // namespace

int main(int argc, char** argv) {
  std::vector<std::size_t> sizes;
  for (int i = 1; i < argc; ++i) sizes.push_back(std::strtoul(argv[i], nullptr, 10));
  if (sizes.empty()) sizes = {2, 16, 32};
  if (sizes.size() < 2 || sizes.front() < 2 || sizes.back() <= sizes.front() || sizes.back() > kMeshLimit) {
    std::cerr << "memory_bench [processes ...]: two numbers or more, rising, 2 to " << kMeshLimit << "\n";
    return 2;
  }
  for (const std::string tls : {"shm", "tcp"}) {
    const std::string raw_name = "raw_ucx_memory_per_connection_" + tls;
    const double raw = per_connection(raw_name, hold_raw, sizes, tls);
    const std::string name = "memory_per_connection_" + tls;
    const double ours = per_connection(name, hold_nodes, sizes, tls);
    print_json(name, ours, "KiB", "bound", kBoundKiB);
    print_json(raw_name, raw, "KiB", name, ours);
  }
  return 0;
}
