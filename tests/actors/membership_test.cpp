// Who is there: joining, names, waiting, notices, death.
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <string>
#include <thread>
#include <vector>

#include <troupe/rpc/client.hpp>
#include <troupe/rpc/endpoint.hpp>

#include "cluster.hpp"
#include "states.hpp"

using namespace troupe;
using namespace troupe::test;

namespace {

/// As every node numbers them: see node_impl.hpp.
constexpr std::uint64_t kRegistryActor = 1, kNodeActor = 2;

std::string names_of(const std::vector<Member>& members) {
  std::string names;
  for (const Member& member : members) (names += names.empty() ? "" : " ") += member.name;
  return names;
}

/// A socket address that nobody else uses, gone at the end.
class UnixAddress {
 public:
  UnixAddress() {
    std::string pattern = (std::filesystem::temp_directory_path() / "troupe-actors-XXXXXX").string();
    REQUIRE(mkdtemp(pattern.data()) != nullptr);
    folder_ = pattern;
  }
  ~UnixAddress() { std::filesystem::remove_all(folder_); }
  UnixAddress(const UnixAddress&) = delete;
  UnixAddress& operator=(const UnixAddress&) = delete;
  std::string text() const { return "unix:" + (folder_ / "first.sock").string(); }

 private:
  std::filesystem::path folder_;
};

/// Calls of everybody to a node that will not answer.
std::vector<rpc::Future<std::int64_t>> hold_calls(Cluster& cluster, const std::vector<std::string>& callers) {
  std::vector<rpc::Future<std::int64_t>> open;
  for (const auto& caller : callers) {
    REQUIRE(cluster[caller].wait_for_actor("holder", kPatience).ok());
    for (int i = 0; i < 10; ++i) open.push_back(cluster[caller].rpc_async<std::int64_t>("holder", "hold"));
    REQUIRE(cluster[caller].rpc_sync<std::int64_t>("holder", "held").ok());
  }
  return open;
}

}  // namespace

TEST_CASE_TEMPLATE("members know each other, with role, address and metadata", Kind, TROUPE_CLUSTERS) {
  Kind cluster;
  Node& alice = cluster.add("alice", "server");
  auto bob = cluster.start({.name = "bob", .role = "worker", .metadata = {{"speed", "40"}}});
  REQUIRE_MESSAGE(bob.ok(), text_of(bob));
  cluster.add("carol", "worker");
  for (Node* node : {&alice, bob->get(), &cluster["carol"]}) {
    const auto workers = node->wait_for_role("worker", 2, kPatience);
    REQUIRE_MESSAGE(workers.ok(), text_of(workers));
    CHECK(names_of(*workers) == "bob carol");
    CHECK((*workers)[0].metadata.at("speed") == "40");
    CHECK((*workers)[0].address == (*bob)->address());
    CHECK((*workers)[0].node_id == (*bob)->id());
    CHECK(names_of(node->membership().members) == "alice bob carol");
  }
  Changes changes(alice);
  bob->reset();
  REQUIRE(cluster.wait(*changes.signal(MembershipEvent::kLeft, "bob")));
  CHECK(names_of(alice.membership().members) == "alice carol");
}

TEST_CASE_TEMPLATE("a wait that is in vain says who is there", Kind, TROUPE_CLUSTERS) {
  Kind cluster;
  Node& alice = cluster.add("alice", "server");
  cluster.add("bob", "worker");
  const auto role = alice.wait_for_role("worker", 2, std::chrono::milliseconds(30));
  CHECK(code_of(role) == Code::kDeadlineExceeded);
  CHECK(contains(text_of(role), "there are 1 (bob)"));
  REQUIRE(alice.spawn<Calculator>("calculator").ok());
  const auto actor = alice.wait_for_actor("calculater", std::chrono::milliseconds(30));
  CHECK(code_of(actor) == Code::kDeadlineExceeded);
  CHECK(contains(text_of(actor), "did you mean 'calculator'?"));
}

TEST_CASE("a wait for an actor that comes and goes ends when it is there, and not by its going") {
  RealCluster cluster;
  Node& alice = cluster.add("alice");
  Node& bob = cluster.add("bob");
  std::atomic<bool> over{false};
  std::thread coming_and_going([&] {
    for (int life = 0; life < 2'000; ++life) {
      CHECK(bob.spawn<Calculator>("calculator").ok());
      CHECK(bob.kill("calculator").ok());
    }
    CHECK(bob.spawn<Calculator>("calculator").ok());
    over = true;
  });
  while (!over) {
    const auto there = alice.wait_for_actor("calculator", kPatience);
    CHECK_MESSAGE(there.ok(), text_of(there));
  }
  coming_and_going.join();
}

TEST_CASE_TEMPLATE("two living nodes cannot have one name", Kind, TROUPE_CLUSTERS) {
  Kind cluster;
  cluster.add("alice");
  cluster.add("bob");
  const auto second = cluster.start({.name = "bob"});
  CHECK(code_of(second) == Code::kAlreadyExists);
  CHECK(contains(text_of(second), "give this one another name"));
  cluster.end("bob");
  cluster.add("bob");
}

TEST_CASE_TEMPLATE("of two nodes that join at once under one name, one gets in", Kind, TROUPE_REAL_CLUSTERS) {
  Kind cluster;
  cluster.add("alice");
  for (int round = 0; round < 10; ++round) {
    Result<std::unique_ptr<Node>> a = Error{};
    Result<std::unique_ptr<Node>> b = Error{};
    std::thread other([&] { a = cluster.start({.name = "twin"}); });
    b = cluster.start({.name = "twin"});
    other.join();
    CAPTURE(text_of(a));
    CAPTURE(text_of(b));
    CHECK(a.ok() != b.ok());
    CHECK((a.ok() ? code_of(b) : code_of(a)) == Code::kAlreadyExists);
  }
}

TEST_CASE_TEMPLATE("several nodes join at once and all know all", Kind, TROUPE_REAL_CLUSTERS) {
  Kind cluster;
  cluster.add("alice", "server");
  std::vector<Result<std::unique_ptr<Node>>> nodes;
  nodes.reserve(6);
  for (int i = 0; i < 6; ++i) nodes.emplace_back(Error{});
  std::vector<std::thread> threads;
  threads.reserve(nodes.size());
  for (std::size_t i = 0; i < nodes.size(); ++i)
    threads.emplace_back([&, i] { nodes[i] = cluster.start({.name = "worker-" + std::to_string(i)}); });
  for (std::thread& thread : threads) thread.join();
  for (auto& node : nodes) {
    REQUIRE_MESSAGE(node.ok(), text_of(node));
    CHECK((*node)->wait_for_role("worker", 6, kPatience).ok());
  }
}

TEST_CASE("a node may be started before the first one") {
  SharedSystem system;
  const UnixAddress address;
  Result<std::unique_ptr<Node>> early = Error{};
  std::thread other(
      [&] { early = Node::start({.name = "early", .registry = address.text(), .system = &system.get()}); });
  auto first = Node::start({.name = "first", .listen = address.text(), .system = &system.get()});
  other.join();
  REQUIRE_MESSAGE(first.ok(), text_of(first));
  REQUIRE_MESSAGE(early.ok(), text_of(early));
  CHECK((*first)->wait_for_role("worker", 2, kPatience).ok());
  early->reset();
}

TEST_CASE("in virtual time: the join is tried again until the first node is there") {
  SimCluster cluster;
  // A host that starts the first node after three seconds: a timer on a loop of its own, which the world
  // drives.
  Loop loop(cluster.world.clock(), cluster.world.loop_options());
  auto transport = cluster.world.make_transport(loop, "starter");
  struct Starter final : TimerNode {
    explicit Starter(SimCluster& in) : cluster(in) {}
    void on_timer() override { first = cluster.start({.name = "first"}); }
    SimCluster& cluster;
    Result<std::unique_ptr<Node>> first = Error{};
  } starter(cluster);
  {
    Loop::Turn turn(loop);
    loop.schedule_after(starter, std::chrono::seconds(3));
  }
  const TimePoint start = cluster.world.clock().now();
  {
    auto early = cluster.start({.name = "early", .registry = "first:40000"});
    REQUIRE_MESSAGE(early.ok(), text_of(early));
    CHECK(cluster.since(start) >= std::chrono::seconds(3));
    CHECK(cluster.since(start) < std::chrono::milliseconds(3200));
    REQUIRE(starter.first.ok());
  }
  starter.first->reset();
  Loop::Turn turn(loop);
  transport.reset();
}

TEST_CASE_TEMPLATE("where no first node is, a node gives up in time and says so", Kind, TROUPE_CLUSTERS) {
  Kind cluster;
  const std::string nowhere = std::is_same_v<Kind, SimCluster> ? "nowhere:1" : "127.0.0.1:1";
  const auto node =
      cluster.start({.name = "bob", .registry = nowhere, .join_timeout = std::chrono::milliseconds(300)});
  CHECK(code_of(node) == Code::kUnavailable);
  CHECK(contains(text_of(node), "node 'bob' cannot join: no first node answers at " + nowhere));
}

TEST_CASE_TEMPLATE("what is not the first node sends newcomers there", Kind, TROUPE_CLUSTERS) {
  Kind cluster;
  cluster.add("alice");
  Node& bob = cluster.add("bob");
  const auto carol = cluster.start({.name = "carol", .registry = bob.address()});
  CHECK(code_of(carol) == Code::kFailedPrecondition);
  CHECK(contains(text_of(carol), "join at " + cluster.registry));
}

TEST_CASE("an address in use is refused") {
  RealCluster cluster;
  Node& alice = cluster.add("alice");
  const auto bob = cluster.start({.name = "bob", .listen = alice.address()});
  CHECK(code_of(bob) == Code::kAlreadyExists);
  CHECK(contains(text_of(bob), "node 'bob' cannot listen"));
}

TEST_CASE("another version of the protocol is refused, with a hint") {
  SimCluster cluster;
  struct Silent final : rpc::EndpointEvents {
    void on_call(rpc::InboundCallPtr) override {}
    void on_session(rpc::SessionId, const rpc::Peer&) override {}
    void on_session_closed(rpc::SessionId, const rpc::Peer&, const Error&) override {}
  } events;
  Loop loop(cluster.world.clock(), cluster.world.loop_options());
  std::unique_ptr<rpc::Endpoint> other;
  {
    Loop::Turn turn(loop);
    rpc::EndpointOptions options;
    options.node_id = 99;
    options.node_name = "newer";
    options.protocol_version = 77;
    other =
        std::make_unique<rpc::Endpoint>(loop, cluster.world.make_transport(loop, "newer"), options, events);
    REQUIRE(other->listen("newer:1").ok());
  }
  const TimePoint start = cluster.world.clock().now();
  const auto node = cluster.start({.name = "bob", .registry = "newer:1"});
  CHECK(code_of(node) == Code::kFailedPrecondition);
  CHECK(contains(text_of(node), "run the same release of Troupe on both"));
  CHECK(cluster.since(start) < std::chrono::seconds(1));  // no use in trying again
  Loop::Turn turn(loop);
  other.reset();
}

TEST_CASE("a node joins for itself, and only the registry tells who is there") {
  SimCluster cluster;
  Node& alice = cluster.add("alice");
  Node& bob = cluster.add("bob");
  struct Silent final : rpc::EndpointEvents {
    void on_call(rpc::InboundCallPtr) override {}
    void on_session(rpc::SessionId, const rpc::Peer&) override {}
    void on_session_closed(rpc::SessionId, const rpc::Peer&, const Error&) override {}
  } events;
  Loop loop(cluster.world.clock(), cluster.world.loop_options());
  std::unique_ptr<rpc::Endpoint> mallory;
  rpc::SessionId to_alice = 0, to_bob = 0;
  {
    Loop::Turn turn(loop);
    rpc::EndpointOptions options;
    options.node_id = 99;
    options.node_name = "mallory";
    mallory =
        std::make_unique<rpc::Endpoint>(loop, cluster.world.make_transport(loop, "mallory"), options, events);
    to_alice = mallory->connect(alice.address()).value();
    to_bob = mallory->connect(bob.address()).value();
  }
  const auto join = [&](std::uint64_t node_id) {
    const Member said{node_id, "mallory", "worker", "mallory:1", {}};
    return rpc::call_sync<Membership>(*mallory, {to_alice, kRegistryActor}, "join", "joining", {}, said);
  };
  const auto lied = join(77);
  CHECK(code_of(lied) == Code::kPermissionDenied);
  CHECK(alice.membership().members.size() == 2);

  Changes at_bob(bob);
  const std::vector<MembershipChange> lies{
      {bob.membership().version + 1, MembershipEvent::kDied, alice.membership().members[0], {}, "so I say"}};
  (void)rpc::call_sync<void>(*mallory, {to_bob, kNodeActor}, "membership_changed", "lying", {}, lies);
  CHECK(at_bob.seen().empty());
  CHECK(bob.membership().members.size() == 2);

  CHECK(join(99).ok());
  CHECK(alice.membership().members.size() == 3);
  Loop::Turn turn(loop);
  mallory.reset();
}

TEST_CASE("when a node dies, its calls end, everybody hears of it, and its names are free") {
  SimCluster cluster;
  cluster.add("alice");
  cluster.add("bob");
  Node& carol = cluster.add("carol");
  REQUIRE(carol.spawn<Holder>("holder", carol).ok());
  auto open = hold_calls(cluster, {"alice", "bob"});
  Changes at_alice(cluster["alice"]);
  Changes at_bob(cluster["bob"]);

  const TimePoint start = cluster.world.clock().now();
  cluster.world.kill("carol");
  for (auto& call : open) {
    const auto outcome = call.get();
    CHECK(code_of(outcome) == Code::kUnavailable);
    CHECK(contains(text_of(outcome), "carol"));
  }
  CHECK(cluster.since(start) < std::chrono::milliseconds(10));
  REQUIRE(cluster.wait(*at_alice.signal(MembershipEvent::kDied, "carol")));
  REQUIRE(cluster.wait(*at_bob.signal(MembershipEvent::kDied, "carol")));
  for (const char* name : {"alice", "bob"}) {
    const auto late = cluster[name].rpc_sync<std::int64_t>("holder", "held");
    CHECK(code_of(late) == Code::kUnavailable);
    CHECK(contains(text_of(late), "its node 'carol' died"));
  }
  CHECK(cluster.since(start) < std::chrono::milliseconds(10));

  auto dead = cluster.take("carol");
  Node& again = cluster.add("carol");
  REQUIRE(again.spawn<Holder>("holder", again).ok());
  REQUIRE(cluster["bob"].wait_for_actor("holder", kPatience).ok());
  CHECK(cluster["bob"].rpc_sync<std::int64_t>("holder", "held").value() == 0);
}

TEST_CASE("a name is free only once its node's death is established") {
  SimCluster cluster;
  Node& alice = cluster.add("alice");
  cluster.add("bob");
  Changes changes(alice);
  const TimePoint start = cluster.world.clock().now();
  cluster.world.stop("bob");  // it hangs: nothing says that it is dead
  cluster.world.run_for(std::chrono::seconds(3));
  const auto early = cluster.start({.name = "bob"});
  CHECK_MESSAGE(code_of(early) == Code::kAlreadyExists, text_of(early));
  REQUIRE(cluster.wait(*changes.signal(MembershipEvent::kDied, "bob")));
  CHECK(cluster.since(start) >= std::chrono::seconds(4));  // the last sign of life came before the stop
  CHECK(cluster.since(start) < std::chrono::seconds(8));
  cluster.world.resume("bob");
  // It finds that it was given up.
  CHECK(code_of(cluster["bob"].run()) == Code::kUnavailable);
  auto old = cluster.take("bob");
  cluster.add("bob");
}

TEST_CASE("a node cut off from the first one is out for both; those it can reach it still answers") {
  SimCluster cluster;
  cluster.add("alice");
  Node& bob = cluster.add("bob");
  Node& carol = cluster.add("carol");
  REQUIRE(carol.spawn<Calculator>("calculator").ok());
  REQUIRE(bob.wait_for_actor("calculator", kPatience).ok());
  REQUIRE(bob.rpc_sync<std::int64_t>("calculator", "count").ok());
  Changes at_bob(bob);
  cluster.world.set_partition("alice", "carol", true);
  const TimePoint start = cluster.world.clock().now();
  CHECK(code_of(carol.run()) == Code::kUnavailable);
  REQUIRE(cluster.wait(*at_bob.signal(MembershipEvent::kDied, "carol")));
  CHECK(cluster.since(start) < std::chrono::seconds(8));
  CHECK(code_of(bob.rpc_sync<std::int64_t>("calculator", "count")) == Code::kUnavailable);
  cluster.world.set_partition("alice", "carol", false);
}

TEST_CASE("who was taken for dead has no way back: its calls are refused, whoever has its name now") {
  SimCluster cluster;
  Node& alice = cluster.add("alice");
  Node& bob = cluster.add("bob");
  Node& zombie = cluster.add("carol");
  for (Node* node : {&alice, &bob}) REQUIRE(node->spawn<Calculator>("calculator-" + node->name()).ok());
  REQUIRE(zombie.spawn<Calculator>("calculator").ok());
  for (const char* name : {"calculator-alice", "calculator-bob"})
    REQUIRE(zombie.wait_for_actor(name, kPatience).ok());
  REQUIRE(zombie.rpc_sync<std::int64_t>("calculator-bob", "count").ok());
  Changes at_bob(bob);
  cluster.world.set_partition("alice", "carol", true);
  REQUIRE(cluster.wait(*at_bob.signal(MembershipEvent::kDied, "carol")));
  cluster.world.set_partition("alice", "carol", false);
  SUBCASE("with its name free") {}
  SUBCASE("with another under its name") {
    auto heir = cluster.start({.name = "carol"});
    REQUIRE_MESSAGE(heir.ok(), text_of(heir));
    REQUIRE((*heir)->spawn<Calculator>("calculator").ok());
    REQUIRE(bob.wait_for_actor("calculator", kPatience).ok());
    CHECK(bob.rpc_sync<std::int64_t>("calculator", "count").ok());
  }
  // It dials anew, and neither the first node nor the other one lets it in.
  for (const char* name : {"calculator-alice", "calculator-bob"}) {
    const TimePoint start = cluster.world.clock().now();
    const auto refused = zombie.rpc_sync<std::int64_t>(name, "count");
    CHECK(code_of(refused) == Code::kUnavailable);
    CHECK(cluster.since(start) < std::chrono::seconds(1));
  }
  const auto knock = [&] {
    const Loop::Turn turn(zombie.loop());
    return zombie.endpoint().connect(bob.address()).value();
  };
  const auto refused = rpc::call_sync<void>(zombie.endpoint(), {knock(), 2}, "any", "knocking", {});
  CHECK_MESSAGE(contains(text_of(refused), "start it anew"), text_of(refused));
}

TEST_CASE("a missed notice is made up for") {
  SimCluster cluster;
  Node& alice = cluster.add("alice");
  Node& bob = cluster.add("bob");
  Node& carol = cluster.add("carol");
  REQUIRE(alice.spawn<Calculator>("old").ok());
  REQUIRE(bob.wait_for_actor("old", kPatience).ok());
  REQUIRE(carol.wait_for_actor("old", kPatience).ok());
  Changes at_bob(bob);
  // All that alice sends is lost for a moment: bob hears neither of this end nor of this beginning.
  cluster.world.options().loss = 1;
  REQUIRE(alice.kill("old").ok());
  REQUIRE(alice.spawn<Calculator>("missed").ok());
  cluster.world.options().loss = 0;
  CHECK(bob.rpc_sync<void>("old", "nothing").error().code == Code::kUnavailable);
  CHECK(at_bob.seen().empty());
  REQUIRE(alice.spawn<Calculator>("heard").ok());
  REQUIRE(bob.wait_for_actor("missed", kPatience).ok());
  REQUIRE(bob.wait_for_actor("heard", kPatience).ok());
  REQUIRE(cluster.wait(*at_bob.signal(MembershipEvent::kUnpublished, "old")));
  REQUIRE(cluster.wait(*at_bob.signal(MembershipEvent::kPublished, "missed")));
  CHECK(bob.rpc_sync<std::int64_t>("missed", "count").value() == 1);
  CHECK(bob.membership().version == alice.membership().version);
}

TEST_CASE("a call never reaches another node that took a dead one's address") {
  SimCluster cluster;
  cluster.add("alice");
  Node& bob = cluster.add("bob");
  REQUIRE(bob.spawn<Calculator>("calculator").ok());
  REQUIRE(cluster["alice"].wait_for_actor("calculator", kPatience).ok());
  const Membership before = cluster["alice"].membership();
  CHECK(before.actors.size() == 1);
  cluster.end("bob");
  Node& again = cluster.add("bob");
  REQUIRE(again.spawn<Calculator>("another").ok());
  const Membership after = cluster["alice"].membership();
  REQUIRE(after.actors.size() == 1);
  CHECK(after.actors[0].number != before.actors[0].number);
}
