// How long a caller waits while the open calls of many others expire together at the callee that it calls:
//   expiry_bench [clients] [calls of each]
// Processes of one machine, over shared memory. Besides what the caller sees, which on few cores is mostly
// the others' own work, the longest round of the callee's loop is told in its own processor time.
#include <time.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <iostream>
#include <memory>
#include <string>
#include <vector>

#include <troupe/rpc/client.hpp>
#include <troupe/rpc/methods.hpp>

#include "harness.hpp"

namespace {

using namespace troupe;
using namespace troupe::bench;
using namespace std::chrono_literals;

constexpr std::uint64_t kKeeper = 99;  // an actor that answers nothing

double thread_seconds() {
  timespec time{};
  ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

class Side final : public rpc::EndpointEvents {
 public:
  explicit Side(std::uint64_t id) {
    rpc::EndpointOptions options;
    options.node_id = id;
    options.node_name = "node-" + std::to_string(id);
    options.silence_limit = 60s;
    endpoint = std::make_unique<rpc::Endpoint>(loop, rpc::make_process_transport(loop, {"shm", ""}).value(),
                                               options, *this);
  }
  void on_call(rpc::InboundCallPtr call) override {
    if (call->header().target == kKeeper) return kept.push_back(std::move(call));
    call->reply_void();
  }
  void on_session(rpc::SessionId, const rpc::Peer&) override {}
  void on_session_closed(rpc::SessionId, const rpc::Peer&, const Error&) override {}

  RealClock clock;
  Loop loop{clock};
  Loop::Turn turn{loop};
  std::unique_ptr<rpc::Endpoint> endpoint;
  std::vector<rpc::InboundCallPtr> kept;
};

struct Ended final : rpc::ReplySink {
  void on_reply(Result<std::unique_ptr<rpc::InMessage>>) override { ++count; }
  std::size_t count = 0;
};

void serve(int fd, SteadyClock::time_point until) {
  Side side(1);
  say(fd, side.endpoint->listen("127.0.0.1:0").value());
  double longest = 0;
  while (SteadyClock::now() < until) {
    const double before = thread_seconds();
    side.loop.poll();
    longest = std::max(longest, thread_seconds() - before);
  }
  say(fd, std::to_string(longest * 1e3) + " " + std::to_string(side.kept.size()));
  std::_Exit(0);
}

std::uint64_t call(Side& side, rpc::CallTarget target, Duration timeout, rpc::ReplySink& sink) {
  return side.endpoint->call(target, {rpc::fnv1a("m"), 0}, {.timeout = timeout},
                             rpc::detail::arguments_writer(), sink);
}

/// One of the crowd: its calls are all open long before they expire.
void crowd(int fd, std::uint64_t id, const std::string& address, std::size_t calls,
           SteadyClock::time_point expiry) {
  Side side(id);
  const rpc::SessionId session = side.endpoint->connect(address).value();
  Ended ended;
  for (std::size_t i = 0; i < calls; ++i) {
    call(side, {session, kKeeper}, expiry - SteadyClock::now(), ended);
    side.loop.poll();
  }
  say(fd, "open");
  (void)side.loop.wait_until([&] { return ended.count == calls; }, side.clock.now() + 120s);
  (void)side.loop.wait_until([] { return false; }, side.clock.now() + 20s);  // its end is not measured
  std::_Exit(0);
}

/// Calls again and again; the longest and the median wait.
void probe(int fd, const std::string& address, SteadyClock::time_point from, SteadyClock::time_point until) {
  Side side(2);
  const rpc::SessionId session = side.endpoint->connect(address).value();
  std::vector<double> waits;
  while (SteadyClock::now() < until) {
    const auto begin = SteadyClock::now();
    Ended ended;
    call(side, {session, 1}, 30s, ended);
    (void)side.loop.wait_until([&] { return ended.count == 1; }, side.clock.now() + 30s);
    if (begin >= from) waits.push_back(seconds_since(begin));
  }
  say(fd, std::to_string(*std::max_element(waits.begin(), waits.end()) * 1e3) + " " +
              std::to_string(median(waits) * 1e6));
  std::_Exit(0);
}

}  // namespace

int main(int count, char** arguments) {
  const std::size_t clients = count > 1 ? std::strtoul(arguments[1], nullptr, 10) : 14;
  const std::size_t calls = count > 2 ? std::strtoul(arguments[2], nullptr, 10) : 16'000;
  const auto expiry = SteadyClock::now() + 15s;
  const Child server([&](int fd) { serve(fd, expiry + 4s + 500ms); });
  const std::string address = server.line();
  std::vector<std::unique_ptr<Child>> others;
  for (std::size_t i = 0; i < clients; ++i)
    others.push_back(std::make_unique<Child>([&, i](int fd) { crowd(fd, 100 + i, address, calls, expiry); }));
  for (const auto& each : others)
    if (each->line() != "open") return 1;
  const bool in_time = SteadyClock::now() < expiry;
  const Child caller([&](int fd) { probe(fd, address, expiry - 500ms, expiry + 4s); });
  const std::string waited = caller.line(), served = server.line();
  if (!in_time || waited.empty() || served.empty()) {
    std::cerr << "expiry_bench: the calls were not open in time\n";
    return 1;
  }
  const std::string name = std::to_string(clients * calls) + " calls expire: ";
  const std::size_t space = waited.find(' ');
  print_json(name + "another caller waits at most", std::stod(waited), "ms");
  print_json(name + "another caller waits, median", std::stod(waited.substr(space + 1)), "us");
  print_json(name + "the callee's longest round", std::stod(served), "ms");
  return 0;
}
