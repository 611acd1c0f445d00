// Real processes that die.
#include <string>
#include <vector>

#include "cluster.hpp"
#include "process.hpp"
#include "states.hpp"

using namespace troupe;
using namespace troupe::test;

TEST_CASE("kill -9 of a process: its calls end, everybody hears of it, its names are free") {
  RealCluster cluster;
  Node& alice = cluster.add("alice");
  Node& bob = cluster.add("bob");
  for (int round = 0; round < 3; ++round) {
    Process victim(NodeProcess{.name = "victim", .registry = alice.address()}.command());
    const std::string ready = victim.line();
    REQUIRE_MESSAGE(ready.starts_with("ready "), ready);
    Changes at_alice(alice);
    Changes at_bob(bob);
    REQUIRE(bob.wait_for_actor("victim", kPatience).ok());
    REQUIRE(alice.wait_for_actor("victim", kPatience).ok());
    CHECK(bob.rpc_sync<std::int64_t>("victim", "count").value() == 1);
    victim.stop();  // so that calls are under way for sure
    std::vector<rpc::Future<std::int64_t>> open;
    for (int i = 0; i < 50; ++i) {
      open.push_back(alice.rpc_async<std::int64_t>("victim", "count"));
      open.push_back(bob.rpc_async<std::int64_t>("victim", "count"));
    }
    victim.kill();
    for (auto& call : open) CHECK(code_of(call.get()) == Code::kUnavailable);
    REQUIRE(cluster.wait(*at_alice.signal(MembershipEvent::kDied, "victim")));
    REQUIRE(cluster.wait(*at_bob.signal(MembershipEvent::kDied, "victim")));
    CHECK(code_of(bob.rpc_sync<std::int64_t>("victim", "count")) == Code::kUnavailable);
  }
}

TEST_CASE("a process that ends in good order leaves, and one of its name in use is told so") {
  RealCluster cluster;
  Node& alice = cluster.add("alice");
  Process guest(NodeProcess{.name = "guest", .registry = alice.address()}.command());
  const std::string ready = guest.line();
  REQUIRE_MESSAGE(ready.starts_with("ready "), ready);
  Process twin(NodeProcess{.name = "guest", .registry = alice.address()}.command());
  const std::string refusal = twin.line();
  CHECK_MESSAGE(contains(refusal, "failed ALREADY_EXISTS"), refusal);
  CHECK(twin.end() == 1);
  Changes changes(alice);
  CHECK(guest.end() == 0);
  CHECK(cluster.wait(*changes.signal(MembershipEvent::kLeft, "guest")));
}
