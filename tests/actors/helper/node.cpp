// A node as a process of its own, for tests that kill it or cut it off: joins, has one Calculator named
// after itself, says "ready <address>" on the standard output, then obeys lines of the standard input:
//   call <actor> <timeout in ms>   calls its method count; answers "value <n>" or "error <code> <ms> <text>"
//   make <node> <id>               makes a Tally there, and holds it; answers "made" or "error <code> <text>"
//   give                           has a Giver named "<name>-giver", and takes Pebbles; answers "gives"
//   lean <node> <holder> <giver>   opens there what it never ends; answers "leans", or "error"
// and ends with the input.
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

#include <troupe/actors/node.hpp>
#include <troupe/actors/remote.hpp>
#include <troupe/runtime/config.hpp>

#include "../leak/leaving.hpp"
#include "../states.hpp"

using namespace troupe;

namespace {

void call(Node& node, std::istringstream& words) {
  std::string actor;
  std::int64_t timeout_ms = 0;
  words >> actor >> timeout_ms;
  const auto start = std::chrono::steady_clock::now();
  const auto answer =
      node.rpc_sync_with<std::int64_t>({.timeout = std::chrono::milliseconds(timeout_ms)}, actor, "count");
  const auto took =
      std::chrono::duration_cast<std::chrono::milliseconds>(std::chrono::steady_clock::now() - start);
  if (answer)
    std::cout << "value " << *answer << std::endl;
  else
    std::cout << "error " << to_string(answer.error().code) << " " << took.count() << " "
              << answer.error().message << std::endl;
}

/// What this process knows of the type of objects that it makes at others.
struct Tally {
  static constexpr std::string_view type_name = "Tally";
};

void make(Node& node, std::istringstream& words, std::vector<RemoteRef<Tally>>& held) {
  std::string where;
  std::int64_t id = 0;
  words >> where >> id;
  held.push_back(node.remote<Tally>(where, id, std::int64_t{0}, Tensor::zeros(DType::kUInt8, Shape({0}))));
  if (const auto made = held.back().created().get())
    std::cout << "made" << std::endl;
  else
    std::cout << "error " << made.error().to_string() << std::endl;
}

void give(Node& node) {
  node.constructible<test::Pebble, std::int64_t>();
  const auto spawned = node.spawn<test::Giver>(node.name() + "-giver", node);
  std::cout << (spawned ? "gives" : "error " + spawned.error().to_string()) << std::endl;
}

void lean(Node& node, std::istringstream& words, test::Leaning& leaning) {
  std::string where, holder, giver;
  words >> where >> holder >> giver;
  // Its answer is kept for a repeat, which will not come.
  const bool kept = node.rpc_sync_with<std::int64_t>({.token = node.make_token()}, holder, "held").ok();
  const bool leans = test::lean(node, where, holder, giver, leaning);
  std::cout << (kept && leans ? "leans" : "error") << std::endl;
}

}  // namespace

// Arguments: name, listening address, the registry ("" for the first node), UCX transports, UCX devices,
// silence limit in ms. Environment: TROUPE_NODE_SECRET, TROUPE_NODE_ADVERTISE,
// TROUPE_NODE_JOIN_TIMEOUT, TROUPE_NODE_LOG (a file).
int main(int count, char** arguments) {
  if (count != 7) return 2;
  NodeOptions options;
  options.name = arguments[1];
  options.listen = arguments[2];
  options.registry = arguments[3];
  options.transport.transports = arguments[4];
  options.transport.net_devices = arguments[5];
  options.silence_limit = std::chrono::milliseconds(std::stol(arguments[6]));
  if (const char* secret = std::getenv("TROUPE_NODE_SECRET")) options.secret = secret;
  if (const char* advertise = std::getenv("TROUPE_NODE_ADVERTISE")) options.advertise = advertise;
  if (const char* limit = std::getenv("TROUPE_NODE_JOIN_TIMEOUT"))
    options.join_timeout = parse_duration(limit).value();
  if (const char* file = std::getenv("TROUPE_NODE_LOG")) options.log = Logger::open({.file = file}).value();
  options.heartbeat_interval = options.silence_limit / 5;
  auto node = Node::start(options);
  if (!node) {
    std::cout << "failed " << node.error().to_string() << std::endl;
    return 1;
  }
  if (auto spawned = (*node)->spawn<test::Calculator>(options.name); !spawned) {
    std::cout << "failed " << spawned.error().to_string() << std::endl;
    return 1;
  }
  std::cout << "ready " << (*node)->address() << std::endl;
  std::vector<RemoteRef<Tally>> held;
  test::Leaning leaning;
  for (std::string line; std::getline(std::cin, line);) {
    std::istringstream words(line);
    std::string verb;
    words >> verb;
    if (verb == "call") call(**node, words);
    if (verb == "make") make(**node, words, held);
    if (verb == "give") give(**node);
    if (verb == "lean") lean(**node, words, leaning);
  }
  return 0;
}
