// Leaving in order: nothing new is begun, what is open is finished, the others are told.
#include <unistd.h>

#include <chrono>
#include <future>
#include <string>
#include <thread>
#include <type_traits>

#include <troupe/actors/remote.hpp>

#include "cluster.hpp"
#include "states.hpp"

using namespace troupe;
using namespace troupe::test;
using namespace std::chrono_literals;

namespace {

struct Thing {
  static constexpr std::string_view type_name = "Thing";
  explicit Thing(Node& own_node, std::int64_t first) : node(own_node), value(first) {}
  Node& node;
  std::int64_t value;
  static void methods(rpc::Methods<Thing>& methods) {
    methods.add("host", [](Thing& self) { return self.node.name() + std::to_string(self.value); })
        .add("caller", [](Thing&, const rpc::CallContext& context) {
          Node& node = Node::of(context);
          const Caller caller = node.caller_of(context);
          return node.name() + " was called by " + caller.name + " (" + caller.role + ", " +
                 (caller.authenticated ? "" : "not ") + "authenticated, '" + caller.identity + "')";
        });
  }
};

/// Two nodes and one that leaves, which has a call open.
struct Leaving {
  Leaving() {
    bob = cluster.take("bob");
    rpc::Methods<Holder> methods;
    Holder::methods(methods);
    REQUIRE(bob->spawn_state("holder", holder, methods.table()).ok());
    for (Node* node : {&alice, &carol}) REQUIRE(node->wait_for_actor("holder", kPatience).ok());
    open = alice.rpc_async<std::int64_t>("holder", "hold");
    const auto until = std::chrono::steady_clock::now() + kPatience;
    while (alice.rpc_sync<std::int64_t>("holder", "held").value() == 0 &&
           std::chrono::steady_clock::now() < until)
      std::this_thread::yield();
  }
  RealCluster cluster;
  Node& alice = cluster.add("alice");
  Node& carol = cluster.add("carol");
  std::unique_ptr<Node> bob = (cluster.add("bob"), nullptr);
  std::shared_ptr<Holder> holder = std::make_shared<Holder>(cluster["bob"]);
  rpc::Future<std::int64_t> open;
};

}  // namespace

TEST_CASE("leave: what is open is finished; new calls are refused; names are free for others") {
  Leaving nodes;
  nodes.bob->constructible<Thing, std::int64_t>();
  const auto thing = nodes.alice.remote<Thing>("bob", std::int64_t{7});
  CHECK(thing.rpc_sync<std::string>("host").value() == "bob7");
  Changes changes(nodes.carol);
  const auto unpublished = changes.signal(MembershipEvent::kUnpublished, "holder");
  const auto left = changes.signal(MembershipEvent::kLeft, "bob");
  auto leaving = std::async(std::launch::async, [&] { return nodes.bob->leave(kPatience); });
  REQUIRE(unpublished->wait_for(kPatience));
  const auto by_name = nodes.carol.rpc_sync<std::int64_t>("holder", "held");
  CHECK(code_of(by_name) == Code::kUnavailable);
  CHECK_MESSAGE(contains(text_of(by_name), "node 'bob' is leaving"), text_of(by_name));
  const auto by_reference = thing.rpc_sync<std::string>("host");
  CHECK(code_of(by_reference) == Code::kUnavailable);
  CHECK_MESSAGE(contains(text_of(by_reference), "the node is leaving"), text_of(by_reference));
  CHECK(nodes.carol.spawn<Calculator>("holder").ok());
  CHECK(code_of(nodes.bob->spawn<Calculator>("late")) == Code::kFailedPrecondition);
  CHECK_FALSE(left->is_set());
  CHECK_FALSE(nodes.open.ready());
  {
    const Loop::Turn turn(nodes.bob->loop());
    for (auto& promise : std::exchange(nodes.holder->held, {})) promise.set(42);
  }
  CHECK(nodes.open.get().value() == 42);
  const auto outcome = leaving.get();
  CHECK_MESSAGE(outcome.ok(), text_of(outcome));
  CHECK(left->wait_for(kPatience));
  CHECK(nodes.bob->leave(kPatience).ok());                                         // it has
  CHECK(nodes.alice.rpc_sync<std::int64_t>("holder", "plus", 1, 2).value() == 3);  // carol's
}

TEST_CASE("leave: what is not done in time is ended") {
  Leaving nodes;
  const auto outcome = nodes.bob->leave(50ms);
  CHECK(code_of(outcome) == Code::kDeadlineExceeded);
  CHECK_MESSAGE(contains(text_of(outcome), "1 calls were still open"), text_of(outcome));
  CHECK_FALSE(nodes.open.get().ok());
}

TEST_CASE("leave: the first node goes last, and takes no newcomers meanwhile") {
  RealCluster cluster;
  cluster.add("alice");
  Node& bob = cluster.add("bob");
  auto alice = cluster.take("alice");
  REQUIRE(bob.spawn<Calculator>("calculator").ok());
  REQUIRE(alice->spawn<Calculator>("first").ok());
  REQUIRE(bob.wait_for_actor("first", kPatience).ok());
  Changes changes(bob);
  const auto unpublished = changes.signal(MembershipEvent::kUnpublished, "first");
  auto leaving = std::async(std::launch::async, [&] { return alice->leave(kPatience); });
  REQUIRE(unpublished->wait_for(kPatience));
  CHECK(bob.spawn<Calculator>("another").ok());  // the registry works on
  CHECK(leaving.wait_for(0s) == std::future_status::timeout);
  const auto newcomer = cluster.start({.name = "carol", .join_timeout = 2s});
  REQUIRE_FALSE(newcomer.ok());
  CHECK_MESSAGE(contains(newcomer.error().to_string(), "leaving"), newcomer.error().to_string());
  REQUIRE(bob.leave(kPatience).ok());
  const auto outcome = leaving.get();
  CHECK_MESSAGE(outcome.ok(), text_of(outcome));
}

TEST_CASE("leave: the last one out closes the registry, if it is to; a death does not") {
  RealCluster cluster;
  auto alice = cluster.start({.name = "alice", .close_with_last = true});
  REQUIRE(alice.ok());
  cluster.add("bob");
  cluster.add("carol");
  Changes changes(**alice);
  const auto bob_left = changes.signal(MembershipEvent::kLeft, "bob");
  auto run = std::async(std::launch::async, [&] { return (*alice)->run(); });
  REQUIRE(cluster["bob"].leave(kPatience).ok());
  REQUIRE(bob_left->wait_for(kPatience));
  CHECK(run.wait_for(0s) == std::future_status::timeout);  // carol is there
  REQUIRE(cluster["carol"].leave(kPatience).ok());
  REQUIRE(run.wait_for(kPatience) == std::future_status::ready);
  const auto outcome = run.get();
  CHECK_MESSAGE(outcome.ok(), text_of(outcome));
}

TEST_CASE_TEMPLATE("handlers and remote objects have their node, and know who calls", Kind, RealCluster,
                   SimCluster) {
  Kind cluster;
  Node& alice = cluster.add("alice", "worker");
  Node& bob = cluster.add("bob", "server");
  alice.constructible<Thing, std::int64_t>();
  const auto thing = bob.template remote<Thing>("alice", std::int64_t{1});
  CHECK(thing.template rpc_sync<std::string>("host").value() == "alice1");
  // Real nodes that are told nothing prove the secret of their user, simulated ones nothing.
  constexpr bool kReal = std::is_same_v<Kind, RealCluster>;
  const std::string own = kReal ? "user:" + std::to_string(::geteuid()) : "";
  CHECK(thing.template rpc_sync<std::string>("caller").value() == "alice was called by bob (server, " +
                                                                      std::string(kReal ? "" : "not ") +
                                                                      "authenticated, '" + own + "')");
  REQUIRE(alice.template spawn<Thing>("own", alice, std::int64_t{2}).ok());
  CHECK(alice.template rpc_sync<std::string>("own", "caller").value() ==
        "alice was called by alice (worker, authenticated, '" + own + "')");
}

TEST_CASE("callers who have proved that they know the secret are told apart") {
  RealCluster cluster;
  const std::string secret = "a secret of some length";
  auto first = cluster.start({.name = "alice", .secret = secret});
  auto second = cluster.start({.name = "bob", .role = "server", .secret = secret});
  REQUIRE(first.ok());
  REQUIRE(second.ok());
  REQUIRE((*first)->spawn<Thing>("thing", **first, std::int64_t{0}).ok());
  REQUIRE((*second)->wait_for_actor("thing", kPatience).ok());
  CHECK((*second)->rpc_sync<std::string>("thing", "caller").value() ==
        "alice was called by bob (server, authenticated, 'secret')");
}

TEST_CASE("failures of handlers are logged once, where they happened, and not without bound") {
  RealCluster cluster;
  std::mutex mutex;
  std::map<std::string, std::vector<std::string>> lines;
  const auto start = [&](const std::string& name) {
    LogOptions log;
    log.write = [&, name](std::string_view line) {
      const std::lock_guard lock(mutex);
      if (contains(std::string(line), "a call failed")) lines[name].emplace_back(line);
    };
    auto node = cluster.start({.name = name, .log = Logger::open(log).value()});
    REQUIRE(node.ok());
    return std::move(*node);
  };
  const auto alice = start("alice"), bob = start("bob");
  REQUIRE(bob->spawn<Calculator>("calculator").ok());
  REQUIRE(alice->wait_for_actor("calculator", kPatience).ok());
  CHECK(code_of(bob->rpc_sync<std::int64_t>("calculator", "explode", std::string("oh"))) == Code::kInternal);
  for (int i = 0; i < 100; ++i)
    CHECK(code_of(alice->rpc_sync<std::int64_t>("calculator", "explode", std::string("oh"))) ==
          Code::kInternal);
  CHECK(code_of(alice->rpc_sync<std::int64_t>("calculator", "refuse", std::string("no"))) ==
        Code::kFailedPrecondition);
  const std::lock_guard lock(mutex);
  CHECK(lines["alice"].empty());
  REQUIRE(lines["bob"].size() >= 2);
  CHECK(lines["bob"].size() < 30);
  const std::string& line = lines["bob"][1];
  for (const char* part : {"calculator", "explode", "alice", "std::runtime_error", "threw: oh"})
    CHECK_MESSAGE(contains(line, part), line);
}
