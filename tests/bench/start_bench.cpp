// How long a job takes to start:  start_bench [processes]
// From `troupe launch` to the moment when all processes (16) have joined and each has called each of them
// once; the median of three. On the standard error: where the time went in the last one.
//
// `start_bench node --name N --role node --registry ADDRESS` is one of these processes.
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <iostream>
#include <map>
#include <sstream>
#include <string>
#include <vector>

#include <troupe/actors/node.hpp>

#include "harness.hpp"

namespace {

using namespace troupe;
using namespace troupe::bench;
using namespace std::chrono_literals;

constexpr double kBoundSeconds = 3;
constexpr auto kDeadline = 60s;

/// Nanoseconds of the machine's monotonic clock, the same in all processes.
std::int64_t now_ns() {
  return SteadyClock::now().time_since_epoch().count();
}

// ---- A process of the job -----------------------------------------------------------------------

struct Echo {
  static void methods(rpc::Methods<Echo>& methods) {
    methods.add("echo", [](Echo&, std::int64_t number) { return number; });
  }
};

void tell(const std::string& what) {
  std::cout << "phase " << what << " " << now_ns() << std::endl;  // flushed: launch passes lines on
}

/// Calls every node's actor once. An error ends the process, and with it the measurement.
void call_all(Node& node, const std::vector<Member>& members) {
  for (const Member& member : members) {
    node.wait_for_actor("echo-" + member.name, kDeadline).value();
    if (node.rpc_sync<std::int64_t>("echo-" + member.name, "echo", std::int64_t{7}).value() != 7)
      std::abort();
  }
}

int run_node(const std::map<std::string, std::string>& flags) {
  const std::string name = flags.at("--name");
  const bool first = name == flags.at("--role") + "-0";
  tell("main");
  NodeOptions options;
  options.name = name;
  options.role = flags.at("--role");
  (first ? options.listen : options.registry) = flags.at("--registry");
  auto node = Node::start(std::move(options)).value();
  tell("joined");
  node->spawn<Echo>("echo-" + name).value();
  const std::size_t count = std::stoul(flags.at("--count"));
  const auto members = node->wait_for_role(flags.at("--role"), count, kDeadline).value();
  if (first) tell("all-joined");
  call_all(*node, members);
  tell("called");
  std::vector<std::string> names;
  names.reserve(members.size());
  for (const Member& member : members) names.push_back(member.name);
  node->barrier("called", names, kDeadline).value();
  if (first) {
    tell("all-called");
    return 0;  // the main process: launch ends the others
  }
  (void)node->run();
  return 0;
}

// ---- The measurement ----------------------------------------------------------------------------

/// When the processes reached a phase, in seconds from the launch.
using Phases = std::map<std::string, std::vector<double>>;

Phases launch(std::size_t count) {
  const std::string self = std::filesystem::read_symlink("/proc/self/exe");
  const std::string troupe = std::filesystem::path(self).replace_filename("troupe");
  const std::string folder =
      std::filesystem::temp_directory_path() / ("start_bench-" + std::to_string(getpid()));
  const std::string number = std::to_string(count);
  const std::int64_t begin = now_ns();
  FILE* pipe = popen(("'" + troupe + "' launch --no-status --registry tcp --run-dir '" + folder +
                      "' --grace 1 --main node-0 --role node=" + number + " -- '" + self + "' node --count " +
                      number + " 2>&1")
                         .c_str(),
                     "r");
  if (!pipe) return {};
  Phases phases;
  std::string other;
  for (std::array<char, 1024> line; std::fgets(line.data(), line.size(), pipe);) {
    const std::string text = line.data();
    const auto at = text.find("phase ");
    if (at == std::string::npos) {
      other += text;
      continue;
    }
    std::istringstream words(text.substr(at));
    std::string word, phase;
    std::int64_t when = 0;
    words >> word >> phase >> when;
    phases[phase].push_back(static_cast<double>(when - begin) / 1e9);
  }
  pclose(pipe);
  std::filesystem::remove_all(folder);
  if (phases["all-called"].empty()) std::cerr << other;
  return phases;
}

void print_phases(Phases& phases) {
  for (const char* phase : {"main", "joined", "all-joined", "called", "all-called"}) {
    auto& times = phases[phase];
    if (times.empty()) continue;
    std::sort(times.begin(), times.end());
    std::fprintf(stderr, "%-10s %2zu processes: first %.3f s, median %.3f s, last %.3f s\n", phase,
                 times.size(), times.front(), median(times), times.back());
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc > 1 && std::string(argv[1]) == "node") {
    std::map<std::string, std::string> flags;
    for (int i = 2; i + 1 < argc; i += 2) flags[argv[i]] = argv[i + 1];
    return run_node(flags);
  }
  const std::size_t count = argc > 1 ? std::stoul(argv[1]) : 16;
  std::vector<double> seconds;
  Phases phases;
  for (int i = 0; i < 3; ++i) {
    phases = launch(count);
    if (phases["all-called"].empty()) return 1;
    seconds.push_back(phases["all-called"].back());
  }
  print_phases(phases);
  print_json("start_" + std::to_string(count) + "_processes", median(seconds), "s", "bound", kBoundSeconds);
  return 0;
}
