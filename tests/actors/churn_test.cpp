// Processes that come and go in the middle of each other's connecting, over TCP, where UCX has a connection
// of its own for each pair of nodes. TROUPE_CHURN_ROUNDS sets how many come and go (2,000 for a long look).
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "cluster.hpp"
#include "process.hpp"

using namespace troupe;
using namespace troupe::test;
using namespace std::chrono_literals;

namespace {

constexpr std::size_t kNodes = 6;

std::string name_of(std::size_t node) {
  return "n" + std::to_string(node);
}

}  // namespace

TEST_CASE("processes that come, leave and are killed over TCP take nobody with them") {
  const char* wanted = std::getenv("TROUPE_CHURN_ROUNDS");
  const std::size_t rounds = wanted ? std::strtoull(wanted, nullptr, 10) : 100;
  std::mt19937 random(20261126);
  const auto pick = [&](std::size_t below) { return random() % below; };
  RealCluster cluster;
  NodeOptions options{.name = "first"};
  options.transport.transports = "tcp";
  auto first = cluster.start(options);
  REQUIRE(first.ok());
  std::atomic<std::uint64_t> news{0};
  (*first)->watch([&](const MembershipChange&) { ++news; });
  const auto come = [&](std::size_t node) {
    return std::make_unique<Process>(
        NodeProcess{.name = name_of(node), .registry = (*first)->address(), .transports = "tcp"}.command());
  };
  std::vector<std::unique_ptr<Process>> nodes;
  for (std::size_t node = 0; node < kNodes; ++node) nodes.push_back(come(node));
  for (std::size_t round = 0; round < rounds; ++round) {
    // They are to be met at any stage of their coming, so some news of the cluster are waited for, not long.
    const std::uint64_t enough = news + pick(4);
    Loop& loop = (*first)->loop();
    loop.wait_until([&] { return news >= enough; }, loop.clock().now() + std::chrono::milliseconds(pick(20)));
    // They may have to connect for it, to somebody who comes or goes just now.
    for (int call = 0; call < 4; ++call) {
      const std::size_t caller = pick(kNodes);
      CAPTURE(round);
      CAPTURE(name_of(caller));
      REQUIRE(nodes[caller]->runs());
      nodes[caller]->tell("call " + name_of(pick(kNodes)) + " 300");
    }
    const std::size_t node = pick(kNodes);
    CAPTURE(round);
    CAPTURE(name_of(node));
    REQUIRE(nodes[node]->runs());
    if (pick(2) == 0) {
      nodes[node]->kill();
    } else {
      CHECK(nodes[node]->end() != -1);  // not by a signal
    }
    nodes[node] = come(node);
  }
  for (std::size_t node = 0; node < kNodes; ++node) {
    CAPTURE(name_of(node));
    const std::string ready = nodes[node]->line();
    CHECK_MESSAGE(ready.starts_with("ready "), ready);
    const auto there = (*first)->wait_for_actor(name_of(node), kPatience);
    CHECK_MESSAGE(there.ok(), text_of(there));
    const auto answer = (*first)->rpc_sync<std::int64_t>(name_of(node), "count");
    CHECK_MESSAGE(answer.ok(), text_of(answer));
    CHECK(nodes[node]->end() == 0);
  }
}
