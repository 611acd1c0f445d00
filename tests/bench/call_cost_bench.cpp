// What a call costs in processor time, at either end, with many under way:
//   call_cost_bench [part of a figure's name ...]
// Calls a second depend on what else the machine does meanwhile; what a call costs depends on that less. The
// costs are of whole processes, waiting by polling among it: so of the end that the other one waits for it is
// the work, of the other one a bound of it.
#include <time.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <deque>
#include <iostream>
#include <sstream>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include <troupe/actors/node.hpp>

#include "harness.hpp"

namespace {

using namespace troupe;
using namespace troupe::bench;
using namespace std::chrono_literals;

constexpr std::size_t kCalls = 100'000;
constexpr std::size_t kBytes = 64;

struct Echo {
  static void methods(rpc::Methods<Echo>& methods) {
    methods.add("echo", [](Echo&, std::string_view text) { return text; });
  }
};

NodeOptions options_for(const std::string& name, const std::string& way, const std::string& registry) {
  NodeOptions options;
  options.name = name;
  options.registry = registry;
  options.transport.transports = way;
  return options;
}

double process_seconds(pid_t pid) {
  clockid_t clock{};
  timespec time{};
  if (::clock_getcpuclockid(pid, &clock) != 0 || ::clock_gettime(clock, &time) != 0) std::abort();
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

void serve(int fd, const std::string& way) {
  pin_to_core(0);
  NodeOptions options = options_for("server", way, "");
  options.own_thread = false;
  auto node = Node::start(std::move(options)).value();
  node->spawn<Echo>("echo").value();
  say(fd, node->address());
  (void)node->run();
}

void pipelined(Node& node, std::size_t window) {
  const std::string text(kBytes, 'x');
  std::deque<rpc::Future<std::string>> open;
  for (std::size_t i = 0; i < kCalls; ++i) {
    if (open.size() == window) {
      open.front().get().value();
      open.pop_front();
    }
    open.push_back(node.rpc_async<std::string>("echo", "echo", std::string_view(text)));
  }
  for (auto& future : open) future.get().value();
}

/// Calls a second, and microseconds of the caller's and the callee's processes for each call.
void measure(int fd, const std::string& way, const std::string& address, pid_t server, std::size_t window) {
  pin_to_core(1);
  auto node = Node::start(options_for("client", way, address)).value();
  node->wait_for_actor("echo", 10s).value();
  std::this_thread::sleep_for(
      100ms);  // the node's own thread has the core once: before that nothing is held back
  std::vector<double> rates, callers, callees;
  for (int turn = 0; turn <= kRepetitions; ++turn) {
    const double caller = process_seconds(::getpid()), callee = process_seconds(server);
    const auto begin = SteadyClock::now();
    pipelined(*node, window);
    if (turn == 0) continue;
    rates.push_back(kCalls / seconds_since(begin));
    callers.push_back((process_seconds(::getpid()) - caller) * 1e6 / kCalls);
    callees.push_back((process_seconds(server) - callee) * 1e6 / kCalls);
  }
  std::ostringstream line;
  line << median(rates) << ' ' << median(callers) << ' ' << median(callees);
  say(fd, line.str());
}

}  // namespace

int main(int count, char** arguments) {
  const std::vector<std::string> parts(arguments + 1, arguments + count);
  for (const std::string way : {"tcp", "shm"})
    for (const std::size_t window : {std::size_t{64}, std::size_t{256}}) {
      const std::string name = "rpc_async_64B_" + way + "_window_" + std::to_string(window);
      if (!wanted(name, parts)) continue;
      const Child server([&](int fd) { serve(fd, way); });
      const std::string address = server.line();
      const Child client([&](int fd) { measure(fd, way, address, server.pid(), window); });
      std::istringstream line(client.line());
      double rate = 0, caller = 0, callee = 0;
      if (!(line >> rate >> caller >> callee)) {
        std::cerr << name << ": no figure\n";
        continue;
      }
      print_json(name, rate, "calls/s");
      print_json(name + "_caller", caller, "us");
      print_json(name + "_callee", callee, "us");
    }
  return 0;
}
