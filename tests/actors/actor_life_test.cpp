// How named actors come and end: names, kills, watchers that meddle, states that call as they go.
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>

#include "cluster.hpp"
#include "states.hpp"

using namespace troupe;
using namespace troupe::test;

namespace {

/// Makes a call as it is destroyed, and notes how it ended.
struct LastWords {
  LastWords(Node& own_node, Code& code) : node(own_node), outcome(code) {}
  ~LastWords() { outcome = code_of(node.rpc_sync<std::int64_t>("calculator", "count")); }
  LastWords(const LastWords&) = delete;
  LastWords& operator=(const LastWords&) = delete;
  static void methods(rpc::Methods<LastWords>& methods) {
    methods.add("nothing", [](LastWords&) {});
  }
  Node& node;
  Code& outcome;
};

}  // namespace

TEST_CASE_TEMPLATE("a name is taken in the whole cluster until its actor ends", Kind, TROUPE_CLUSTERS) {
  Kind cluster;
  Node& alice = cluster.add("alice");
  Node& bob = cluster.add("bob");
  REQUIRE(bob.spawn<Calculator>("calculator").ok());
  CHECK(bob.rpc_sync<std::int64_t>("calculator", "count").value() == 1);

  const auto here = bob.spawn<Calculator>("calculator");
  CHECK(code_of(here) == Code::kAlreadyExists);
  const auto there = alice.spawn<Calculator>("calculator");
  CHECK(code_of(there) == Code::kAlreadyExists);
  CHECK(contains(text_of(there), "lives on node 'bob'"));
  // The one that has the name is the one that answers, everywhere.
  REQUIRE(alice.wait_for_actor("calculator", kPatience).ok());
  CHECK(alice.rpc_sync<std::int64_t>("calculator", "count").value() == 2);
  CHECK(bob.rpc_sync<std::int64_t>("calculator", "count").value() == 3);

  Changes changes(alice);
  REQUIRE(bob.kill("calculator").ok());
  CHECK(code_of(bob.kill("calculator")) == Code::kNotFound);
  REQUIRE(cluster.wait(*changes.signal(MembershipEvent::kUnpublished, "calculator")));
  CHECK(code_of(alice.rpc_sync<std::int64_t>("calculator", "count")) == Code::kUnavailable);
  REQUIRE(alice.spawn<Calculator>("calculator").ok());
  CHECK(alice.rpc_sync<std::int64_t>("calculator", "count").value() == 1);
  REQUIRE(bob.wait_for_actor("calculator", kPatience).ok());
  CHECK(bob.rpc_sync<std::int64_t>("calculator", "count").value() == 2);
}

TEST_CASE("a call that comes after the actor's end is told so") {
  SimCluster cluster;
  Node& alice = cluster.add("alice");
  Node& bob = cluster.add("bob");
  REQUIRE(bob.spawn<Calculator>("calculator").ok());
  REQUIRE(alice.wait_for_actor("calculator", kPatience).ok());
  // In virtual time the notice of the end is still under way when alice calls.
  auto ended = bob.rpc_async<std::int64_t>("calculator", "count");
  REQUIRE(ended.get().ok());
  auto late = alice.rpc_async<std::int64_t>("calculator", "count");
  REQUIRE(bob.kill("calculator").ok());
  const auto outcome = late.get();
  CHECK((outcome.ok() || outcome.error().code == Code::kUnavailable));
  CHECK(code_of(alice.rpc_sync<std::int64_t>("calculator", "count")) == Code::kUnavailable);
}

TEST_CASE("what a killed actor has not begun is answered; what it is at, it finishes") {
  RealCluster cluster;
  Node& alice = cluster.add("alice");
  Node& bob = cluster.add("bob");
  REQUIRE(bob.spawn<Holder>("holder", bob).ok());
  REQUIRE(bob.spawn<Relay>("relay", bob).ok());
  REQUIRE(alice.wait_for_actor("relay", kPatience).ok());
  auto begun = alice.rpc_async<std::int64_t>("relay", "ask", "holder", "hold");
  while (alice.rpc_sync<std::int64_t>("holder", "held").value() == 0) continue;
  auto waiting = alice.rpc_async<std::int64_t>("relay", "ask", "holder", "held");
  CHECK(alice.rpc_sync<std::int64_t>("holder", "held").value() == 1);  // it has overtaken `waiting`
  REQUIRE(bob.kill("relay").ok());
  REQUIRE(bob.rpc_sync<void>("holder", "release", std::int64_t{3}).ok());
  CHECK(begun.get().value() == 3);
  const auto refused = waiting.get();
  CHECK(code_of(refused) == Code::kUnavailable);
  CHECK(contains(text_of(refused), "ended before it began"));
}

TEST_CASE_TEMPLATE("an actor may kill itself and others from inside a handler", Kind, TROUPE_CLUSTERS) {
  Kind cluster;
  Node& alice = cluster.add("alice");
  for (const char* name : {"first", "second"}) REQUIRE(alice.spawn<Relay>(name, alice).ok());
  CHECK(alice.rpc_sync<void>("first", "kill", "second").ok());
  CHECK(alice.rpc_sync<void>("first", "kill", "first").ok());
  CHECK(alice.membership().actors.empty());
}

TEST_CASE_TEMPLATE("a state may make calls as it is destroyed", Kind, TROUPE_CLUSTERS) {
  Kind cluster;
  Node& alice = cluster.add("alice");
  REQUIRE(alice.spawn<Calculator>("calculator").ok());
  Node& bob = cluster.add("bob");
  REQUIRE(bob.wait_for_actor("calculator", kPatience).ok());
  Code killed = Code::kUnknown;
  Code shut_down = Code::kUnknown;
  REQUIRE(bob.spawn<LastWords>("killed", bob, killed).ok());
  REQUIRE(bob.spawn<LastWords>("shut-down", bob, shut_down).ok());
  REQUIRE(bob.kill("killed").ok());
  CHECK(killed == Code::kOk);
  cluster.end("bob");
  CHECK(shut_down == Code::kCancelled);
}

TEST_CASE_TEMPLATE("a watcher may kill, spawn and call, also on the first node", Kind, TROUPE_CLUSTERS) {
  Kind cluster;
  Node& alice = cluster.add("alice");
  Node& bob = cluster.add("bob");
  REQUIRE(alice.spawn<Calculator>("alice-old").ok());
  REQUIRE(bob.spawn<Calculator>("bob-old").ok());
  Signal done_alice;
  Signal done_bob;
  const auto meddle = [](Node& node, Signal& done) {
    return [&node, &done](const MembershipChange& change) {
      if (change.event != MembershipEvent::kJoined) return;
      CHECK(node.kill(node.name() + "-old").ok());
      CHECK(node.spawn<Calculator>(node.name() + "-new").ok());
      CHECK(node.rpc_sync<std::int64_t>(node.name() + "-new", "count").value() == 1);
      done.set();
    };
  };
  const auto watch_alice = alice.watch(meddle(alice, done_alice));
  const auto watch_bob = bob.watch(meddle(bob, done_bob));
  Changes changes(bob);
  cluster.add("carol");
  REQUIRE(cluster.wait(done_alice));
  REQUIRE(cluster.wait(done_bob));
  REQUIRE(cluster.wait(*changes.signal(MembershipEvent::kPublished, "alice-new")));
  REQUIRE(cluster.wait(*changes.signal(MembershipEvent::kPublished, "bob-new")));
  alice.unwatch(watch_alice);
  bob.unwatch(watch_bob);
  // In order, without a gap.
  const auto seen = changes.seen();
  for (std::size_t i = 1; i < seen.size(); ++i) CHECK(seen[i].version == seen[i - 1].version + 1);
}

TEST_CASE_TEMPLATE("a watcher may remove itself and others", Kind, TROUPE_CLUSTERS) {
  Kind cluster;
  Node& alice = cluster.add("alice");
  int first = 0;
  int second = 0;
  std::uint64_t watch_first = 0;
  std::uint64_t watch_second = 0;
  watch_first = alice.watch([&](const MembershipChange&) {
    ++first;
    alice.unwatch(watch_first);
    alice.unwatch(watch_second);
  });
  watch_second = alice.watch([&](const MembershipChange&) { ++second; });
  Changes changes(alice);
  cluster.add("bob");
  REQUIRE(cluster.wait(*changes.signal(MembershipEvent::kJoined, "bob")));
  cluster.add("carol");
  REQUIRE(cluster.wait(*changes.signal(MembershipEvent::kJoined, "carol")));
  CHECK(first == 1);
  CHECK(second == 0);
}

TEST_CASE("two nodes that ask for one name at once: one gets it") {
  RealCluster cluster;
  Node& alice = cluster.add("alice");
  Node& bob = cluster.add("bob");
  for (int round = 0; round < 20; ++round) {
    const std::string name = "actor-" + std::to_string(round);
    Result<void> a;
    Result<void> b;
    std::thread other([&] { a = alice.spawn<Calculator>(name); });
    b = bob.spawn<Calculator>(name);
    other.join();
    CAPTURE(text_of(a));
    CAPTURE(text_of(b));
    CHECK(a.ok() != b.ok());
    CHECK((a.ok() ? code_of(b) : code_of(a)) == Code::kAlreadyExists);
  }
}

TEST_CASE("an actor goes on after a method of its own making that throws") {
  SimCluster cluster;
  Node& alice = cluster.add("alice");
  Node& bob = cluster.add("bob");
  auto table = std::make_shared<rpc::MethodTable>();
  int count = 0;
  const auto add = [&](const std::string& name, const std::function<void(rpc::InboundCallPtr)>& invoke) {
    table->add(
        {name, "()", rpc::MethodTable::kAnySignature, nullptr,
         [invoke](const rpc::MethodTable::Target&, rpc::InboundCallPtr call) { invoke(std::move(call)); }});
  };
  add("throws", [](const rpc::InboundCallPtr&) { throw std::runtime_error("not caught by anybody here"); });
  add("ends", [&](const rpc::InboundCallPtr&) {
    CHECK(bob.kill("odd").ok());
    throw std::runtime_error("after its own end");
  });
  add("counts", [&](rpc::InboundCallPtr call) { call->reply(std::int64_t{++count}); });
  REQUIRE(bob.spawn_state("odd", nullptr, table).ok());
  REQUIRE(alice.wait_for_actor("odd", kPatience).ok());
  for (Node* caller : {&alice, &bob}) {
    CHECK(code_of(caller->rpc_sync<std::int64_t>("odd", "throws")) == Code::kInternal);
    CHECK(caller->rpc_sync<std::int64_t>("odd", "counts").ok());
  }
  CHECK(count == 2);
  CHECK(code_of(alice.rpc_sync<std::int64_t>("odd", "ends")) == Code::kInternal);
  CHECK(code_of(alice.rpc_sync<std::int64_t>("odd", "counts")) == Code::kUnavailable);
}
