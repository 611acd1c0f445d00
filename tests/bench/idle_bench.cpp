// What a crowd costs:  idle_bench [processes ...]   (150 and 250)
// So many processes of this machine join, call each other once, and then do nothing: the time until all have
// called all, the processor time that took, and how many cores they use together while they idle. Then a
// simulated cluster of 250 and of 1,000 nodes: how many messages a node sends in a second in which nobody
// calls anybody, and how long it takes until all know of one that was stopped. With counts: the processes
// only.
//
// `idle_bench node <index> <count> <registry>` is one of these processes; it is told when to go by the end
// of its standard input.
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <iostream>
#include <memory>
#include <sstream>
#include <string>
#include <thread>
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

constexpr double kMostIdleCores = 0.1;
constexpr double kMostMeetingSeconds = 60;
constexpr auto kDeadline = 300s;
constexpr auto kSettle = 3s;  // after the last call: what is still under way ends
constexpr auto kIdle = 10s;

struct Echo {
  static void methods(rpc::Methods<Echo>& methods) {
    methods.add("echo", [](Echo&, std::int64_t number) { return number; });
  }
};

double processor_seconds() {
  rusage used{};
  getrusage(RUSAGE_SELF, &used);
  const auto seconds = [](const timeval& time) {
    return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_usec) / 1e6;
  };
  return seconds(used.ru_utime) + seconds(used.ru_stime);
}

// ---- A process of the crowd ---------------------------------------------------------------------

/// Calls everybody once, beginning behind itself, so that not all begin with the same one.
void call_all(Node& node, std::size_t self, std::size_t count) {
  for (std::size_t i = 1; i < count; ++i) {
    const std::string name = "echo-" + std::to_string((self + i) % count);
    node.wait_for_actor(name, kDeadline).value();
    if (node.rpc_sync<std::int64_t>(name, "echo", std::int64_t{7}).value() != 7) std::abort();
  }
}

int run_node(std::size_t index, std::size_t count, const std::string& registry) {
  NodeOptions options;
  options.name = "node-" + std::to_string(index);
  options.role = "crowd";
  options.join_timeout = kDeadline;
  options.default_timeout = kDeadline;
  if (index == 0)
    options.listen = registry;
  else
    options.registry = registry;
  auto node = Node::start(std::move(options)).value();
  node->spawn<Echo>("echo-" + std::to_string(index)).value();
  std::vector<std::string> names;
  for (const Member& member : node->wait_for_role("crowd", count, kDeadline).value())
    names.push_back(member.name);
  call_all(*node, index, count);
  node->barrier("called", names, kDeadline).value();
  std::printf("called %.6f\n", processor_seconds());
  std::fflush(stdout);
  std::this_thread::sleep_for(kSettle);
  const double before = processor_seconds();
  std::this_thread::sleep_for(kIdle);
  std::printf("idle %.6f\n", processor_seconds() - before);
  std::fflush(stdout);
  char ignored = 0;
  while (read(STDIN_FILENO, &ignored, 1) > 0) continue;
  _exit(0);  // hundreds of farewells are not what is measured
}

// ---- The crowd ----------------------------------------------------------------------------------

/// Both ends of the pipes that all processes share.
struct Pipes {
  int to_parent[2] = {-1, -1}, to_children[2] = {-1, -1};
};

pid_t spawn_node(const Pipes& pipes, std::size_t index, std::size_t count, const std::string& registry) {
  const std::string self = std::filesystem::read_symlink("/proc/self/exe");
  const std::string number = std::to_string(index), all = std::to_string(count);
  const pid_t child = fork();
  if (child != 0) return child;
  dup2(pipes.to_children[0], STDIN_FILENO);
  dup2(pipes.to_parent[1], STDOUT_FILENO);
  for (const int fd : {pipes.to_children[0], pipes.to_children[1], pipes.to_parent[0], pipes.to_parent[1]})
    close(fd);
  execl(self.c_str(), self.c_str(), "node", number.c_str(), all.c_str(), registry.c_str(), nullptr);
  _exit(127);
}

struct Figures {
  double meeting_seconds = 0, meeting_processor_seconds = 0, idle_processor_seconds = 0;
  std::size_t called = 0, idle = 0;
};

Figures run_crowd(std::size_t count) {
  std::string folder = std::filesystem::temp_directory_path() / "idle_bench-XXXXXX";
  if (!mkdtemp(folder.data())) return {};
  Pipes pipes;
  if (pipe(pipes.to_parent) != 0 || pipe(pipes.to_children) != 0) return {};
  const auto begin = SteadyClock::now();
  std::vector<pid_t> children;
  for (std::size_t i = 0; i < count; ++i)
    children.push_back(spawn_node(pipes, i, count, "unix:" + folder + "/first"));
  close(pipes.to_parent[1]);
  close(pipes.to_children[0]);
  Figures figures;
  FILE* lines = fdopen(pipes.to_parent[0], "r");
  for (char line[256]; figures.idle < count && std::fgets(line, sizeof line, lines);) {
    std::istringstream words(line);
    std::string what;
    double seconds = 0;
    words >> what >> seconds;
    if (what == "called") {
      figures.meeting_processor_seconds += seconds;
      if (++figures.called == count)
        figures.meeting_seconds = std::chrono::duration<double>(SteadyClock::now() - begin).count();
    } else if (what == "idle") {
      figures.idle_processor_seconds += seconds;
      ++figures.idle;
    }
  }
  close(pipes.to_children[1]);
  for (const pid_t child : children) waitpid(child, nullptr, 0);
  std::fclose(lines);
  std::filesystem::remove_all(folder);
  return figures;
}

bool measure_crowd(std::size_t count) {
  const Figures figures = run_crowd(count);
  if (figures.idle < count) {
    std::cerr << count << " processes: " << figures.called << " called all, " << figures.idle
              << " were there to the end\n";
    return false;
  }
  const std::string name = "_" + std::to_string(count) + "_processes";
  print_json("meet" + name, figures.meeting_seconds, "s", "bound", kMostMeetingSeconds);
  print_json("meet_processor" + name, figures.meeting_processor_seconds, "s", "bound",
             2 * kMostMeetingSeconds);
  print_json("idle" + name, figures.idle_processor_seconds / std::chrono::duration<double>(kIdle).count(),
             "cores", "bound", kMostIdleCores);
  return true;
}

// ---- The simulated one --------------------------------------------------------------------------

class SimulatedCrowd {
 public:
  SimulatedCrowd(int size, caf::actor_system& system)
      : system_(system), world_({.seed = 1, .latency_jitter = Duration{0}}) {
    for (int i = 0; i < size; ++i) start(i);
    world_.run_for(kSettle);
  }
  ~SimulatedCrowd() {
    for (std::size_t i = 0; i < nodes_.size(); ++i) world_.kill(host(i));
    while (!nodes_.empty()) nodes_.pop_back();
  }
  SimulatedCrowd(const SimulatedCrowd&) = delete;
  SimulatedCrowd& operator=(const SimulatedCrowd&) = delete;

  /// Messages that a node sends in a second in which nobody calls anybody.
  double idle_messages() {
    const std::uint64_t before = world_.messages();
    world_.run_for(kIdle);
    return static_cast<double>(world_.messages() - before) / static_cast<double>(nodes_.size()) /
           std::chrono::duration<double>(kIdle).count();
  }
  /// From the stop of a node until all others know; in seconds.
  double find_stopped() {
    const std::size_t victim = nodes_.size() / 2;
    const TimePoint begun = world_.clock().now();
    world_.stop(host(victim));
    const auto all_know = [&] {
      for (std::size_t i = 0; i < nodes_.size(); ++i)
        if (i != victim && nodes_[i]->membership().members.size() != nodes_.size() - 1) return false;
      return true;
    };
    while (!all_know() && world_.clock().now() - begun < kDeadline) world_.run_for(10ms);
    return std::chrono::duration<double>(world_.clock().now() - begun).count();
  }

 private:
  static std::string host(std::size_t index) { return "h" + std::to_string(index); }

  void start(int index) {
    NodeOptions options;
    options.name = "n" + std::to_string(index);
    options.registry = nodes_.empty() ? "" : nodes_.front()->address();
    options.listen = host(nodes_.size()) + ":0";
    options.clock = &world_.clock();
    options.own_thread = false;
    options.loop = world_.loop_options();
    options.system = &system_;
    options.make_transport =
        [this, at = host(nodes_.size())](Loop& loop) -> Result<std::unique_ptr<rpc::Transport>> {
      return world_.make_transport(loop, at);
    };
    nodes_.push_back(Node::start(std::move(options)).value());
  }

  caf::actor_system& system_;
  rpc::SimWorld world_;
  std::vector<std::unique_ptr<Node>> nodes_;
};

void measure_simulated(int count, caf::actor_system& system, double& reference) {
  SimulatedCrowd crowd(count, system);
  const double messages = crowd.idle_messages();
  if (reference == 0) reference = messages;
  print_json("idle_messages_" + std::to_string(count) + "_simulated", messages, "1/s", "fewer nodes",
             reference);
  const NodeOptions defaults;
  print_json("find_stopped_" + std::to_string(count) + "_simulated", crowd.find_stopped(), "s", "bound",
             std::chrono::duration<double>(defaults.silence_limit + defaults.heartbeat_interval).count());
}

}  // namespace

int main(int argc, char** argv) {
  if (argc == 5 && std::string(argv[1]) == "node")
    return run_node(std::stoul(argv[2]), std::stoul(argv[3]), argv[4]);
  std::vector<std::size_t> counts;
  for (int i = 1; i < argc; ++i) counts.push_back(std::stoul(argv[i]));
  const bool simulated = counts.empty();
  if (simulated) counts = {150, 250};
  for (const std::size_t count : counts)
    if (!measure_crowd(count)) return 1;
  if (!simulated) return 0;
  caf::actor_system_config config;
  register_caf_types();
  config.set("scheduler.max-threads", 1);
  caf::actor_system system(config);
  double reference = 0;
  for (const int count : {250, 1000}) measure_simulated(count, system, reference);
  return 0;
}
