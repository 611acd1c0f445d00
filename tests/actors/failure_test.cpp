// The failure contract's times, with real processes and in virtual time: whatever happens to a peer, each
// call to it ends in the right code, before its deadline and a second.
#include <chrono>
#include <string>
#include <vector>

#include "cluster.hpp"
#include "process.hpp"
#include "states.hpp"

using namespace troupe;
using namespace troupe::test;
using namespace std::chrono_literals;

namespace {

constexpr Duration kSecond = 1s;
constexpr Duration kSilence = 1s;
constexpr Duration kHeartbeat = 200ms;

using Calls = std::vector<rpc::Future<std::int64_t>>;

Calls start_calls(Node& from, const std::string& to, const std::string& method, Duration timeout) {
  Calls calls;
  for (int i = 0; i < 20; ++i)
    calls.push_back(from.rpc_async_with<std::int64_t>({.timeout = timeout}, to, method));
  return calls;
}

void all_end_with(Calls& calls, Code code) {
  for (auto& call : calls) {
    const auto outcome = call.get();
    CHECK_MESSAGE(code_of(outcome) == code, text_of(outcome));
  }
}

class Stopwatch {
 public:
  Duration read() const { return std::chrono::steady_clock::now() - start_; }

 private:
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

/// Two nodes here and one as a process, which find a silent node after kSilence.
struct Trio {
  explicit Trio(const std::string& transports)
      : alice(start("alice", transports)), bob(start("bob", transports)) {
    options.name = "victim";
    options.registry = alice->address();
    options.transports = transports;
    options.silence_ms = static_cast<int>(kSilence / 1ms);
  }
  std::unique_ptr<Node> start(const std::string& name, const std::string& transports) {
    NodeOptions made{.name = name};
    made.transport.transports = transports;
    made.heartbeat_interval = kHeartbeat;
    made.silence_limit = kSilence;
    auto node = cluster.start(std::move(made));
    REQUIRE_MESSAGE(node.ok(), text_of(node));
    return std::move(*node);
  }
  std::unique_ptr<Process> start_victim() {
    auto process = std::make_unique<Process>(options.command());
    const std::string ready = process->line();
    REQUIRE_MESSAGE(ready.starts_with("ready "), ready);
    for (Node* node : {alice.get(), bob.get()}) {
      REQUIRE(node->wait_for_actor("victim", kPatience).ok());
      REQUIRE(node->rpc_sync<std::int64_t>("victim", "count").ok());
    }
    return process;
  }

  RealCluster cluster;
  std::unique_ptr<Node> alice, bob;
  NodeProcess options;
};

/// Drops calls, and what would answer them later.
struct Dropper {
  explicit Dropper(Node& own_node) : node(own_node) {}
  Node& node;

  static std::shared_ptr<const rpc::MethodTable> methods() {
    rpc::Methods<Dropper> methods;
    methods.add("drop_promise",
                [](Dropper& self) { return rpc::Promise<std::int64_t>(self.node.loop()).future(); });
    const auto typed = methods.table();
    auto all = std::make_shared<rpc::MethodTable>();
    all->add(*typed->find(rpc::fnv1a("drop_promise")));
    all->add({"drop_call", "", rpc::MethodTable::kAnySignature, nullptr,
              [](const rpc::MethodTable::Target&, rpc::InboundCallPtr call) { call.reset(); }});
    return all;
  }
};

}  // namespace

TEST_CASE("a killed process: its calls end and its death is told within a second, and its name can be used") {
  for (const std::string transports : {"shm", "tcp"}) {
    CAPTURE(transports);
    Trio trio(transports);
    auto victim = trio.start_victim();
    victim->stop();  // so that calls are under way for sure
    Changes at_bob(*trio.bob);
    Calls calls = start_calls(*trio.alice, "victim", "count", 60s);
    for (auto& call : start_calls(*trio.bob, "victim", "count", 60s)) calls.push_back(std::move(call));
    const Stopwatch watch;
    victim->kill();
    all_end_with(calls, Code::kUnavailable);
    CHECK(trio.cluster.wait(*at_bob.signal(MembershipEvent::kDied, "victim")));
    CHECK(watch.read() < kSecond);
    CHECK(code_of(trio.bob->rpc_sync<std::int64_t>("victim", "count")) == Code::kUnavailable);

    // Another life under the same name is another node, with an actor of its own.
    auto again = trio.start_victim();
    CHECK(trio.bob->rpc_sync<std::int64_t>("victim", "count").value() == 3);
    CHECK(again->end() == 0);
  }
}

TEST_CASE(
    "a stopped process: its calls end at their deadlines or with the silence limit, whichever is first") {
  for (const std::string transports : {"shm", "tcp"}) {
    CAPTURE(transports);
    Trio trio(transports);
    auto victim = trio.start_victim();
    victim->stop();
    const Stopwatch watch;
    Calls patient = start_calls(*trio.alice, "victim", "count", 60s);
    Calls hasty = start_calls(*trio.bob, "victim", "count", 300ms);
    all_end_with(hasty, Code::kDeadlineExceeded);
    CHECK(watch.read() >= 300ms);
    CHECK(watch.read() < 300ms + kSecond);
    all_end_with(patient, Code::kUnavailable);
    CHECK(watch.read() < kSilence + kHeartbeat + kSecond);
    // Its name is free, whether it goes on or not.
    victim->signal(SIGCONT);
    auto again = trio.start_victim();
    CHECK(again->end() == 0);
  }
}

TEST_CASE("a process that was stopped and taken for dead is kept out when it goes on") {
  for (const std::string transports : {"shm", "tcp"}) {
    CAPTURE(transports);
    Trio trio(transports);
    const auto carol = trio.start("carol", transports);
    REQUIRE(trio.bob->spawn<Calculator>("friend").ok());
    REQUIRE(carol->spawn<Calculator>("stranger").ok());
    auto victim = trio.start_victim();
    victim->tell("call friend 20000");
    CHECK(victim->line() == "value 1");
    Changes at_bob(*trio.bob), at_carol(*carol);
    victim->stop();
    REQUIRE(trio.cluster.wait(*at_bob.signal(MembershipEvent::kDied, "victim")));
    REQUIRE(trio.cluster.wait(*at_carol.signal(MembershipEvent::kDied, "victim")));
    victim->signal(SIGCONT);
    const auto call = [&](const std::string& actor) {
      victim->tell("call " + actor + " 20000");
      return victim->line();
    };
    // Whether it had a session with carol, who may have watched it, or meets her anew and is refused.
    const std::string met_anew = call("stranger");
    CHECK_MESSAGE(met_anew.starts_with("error UNAVAILABLE"), met_anew);
    const std::string met_before = call("friend");
    CHECK_MESSAGE(met_before.starts_with("error UNAVAILABLE"), met_before);
    // None of its calls were run.
    CHECK(trio.alice->rpc_sync<std::int64_t>("friend", "count").value() == 2);
    CHECK(trio.alice->rpc_sync<std::int64_t>("stranger", "count").value() == 1);
  }
}

TEST_CASE_TEMPLATE(
    "a handler that throws or drops its call: an error at once; one that never answers: the deadline", Kind,
    TROUPE_CLUSTERS) {
  Kind cluster;
  Node& alice = cluster.add("alice");
  Node& bob = cluster.add("bob");
  REQUIRE(bob.spawn<Calculator>("calculator").ok());
  REQUIRE(bob.spawn<Holder>("holder", bob).ok());
  REQUIRE(bob.spawn_state("dropper", std::make_shared<Dropper>(bob), Dropper::methods()).ok());
  for (const char* actor : {"calculator", "dropper", "holder"})
    REQUIRE(alice.wait_for_actor(actor, kPatience).ok());
  Clock& clock = alice.loop().clock();
  for (Node* caller : {&alice, &bob}) {
    CAPTURE(caller->name());
    const TimePoint begun = clock.now();
    const auto thrown = caller->rpc_sync<std::int64_t>("calculator", "explode", std::string("bang"));
    CHECK(code_of(thrown) == Code::kInternal);
    CHECK(contains(text_of(thrown), "bang"));
    const auto dropped = caller->rpc_sync<std::int64_t>("dropper", "drop_call");
    CHECK(code_of(dropped) == Code::kInternal);
    CHECK(contains(text_of(dropped), "the handler dropped the call without an answer"));
    const auto promise = caller->rpc_sync<std::int64_t>("dropper", "drop_promise");
    CHECK(code_of(promise) == Code::kCancelled);
    CHECK(contains(text_of(promise), "the promise of this answer was dropped"));
    CHECK(clock.now() - begun < kSecond);
  }
  const TimePoint held = clock.now();
  Calls calls = start_calls(alice, "holder", "hold", 200ms);
  all_end_with(calls, Code::kDeadlineExceeded);
  CHECK(clock.now() - held >= 200ms);
  CHECK(clock.now() - held < 200ms + kSecond);
}

TEST_CASE_TEMPLATE("two nodes that shut down at once, with calls under way in both directions", Kind,
                   TROUPE_CLUSTERS) {
  Kind cluster;
  Node& alice = cluster.add("alice");
  for (const char* name : {"bob", "carol"}) {
    Node& node = cluster.add(name);
    REQUIRE(node.template spawn<Holder>(std::string("holder-") + name, node).ok());
  }
  REQUIRE(cluster["bob"].wait_for_actor("holder-carol", kPatience).ok());
  REQUIRE(alice.wait_for_actor("holder-carol", kPatience).ok());
  Calls there = start_calls(cluster["bob"], "holder-carol", "hold", 60s);
  Calls back = start_calls(cluster["carol"], "holder-bob", "hold", 60s);
  Calls from_alice = start_calls(alice, "holder-bob", "hold", 60s);
  while (alice.rpc_sync<std::int64_t>("holder-carol", "held").value() < 20) continue;
  while (alice.rpc_sync<std::int64_t>("holder-bob", "held").value() < 40) continue;
  auto bob = cluster.take("bob");
  auto carol = cluster.take("carol");
  const TimePoint begun = alice.loop().clock().now();
  if constexpr (std::is_base_of_v<RealCluster, Kind>) {
    std::thread other([&] { bob->shutdown(); });
    carol->shutdown();
    other.join();
  } else {
    bob->shutdown();
    carol->shutdown();
  }
  for (Calls* calls : {&there, &back, &from_alice})
    for (auto& call : *calls) {
      const auto outcome = call.get();
      const Code code = code_of(outcome);
      CHECK_MESSAGE((code == Code::kCancelled || code == Code::kUnavailable), text_of(outcome));
    }
  CHECK(alice.loop().clock().now() - begun < 2 * kSecond);
}

TEST_CASE("in virtual time: a death, a stop and a cut end calls in their exact times") {
  for (const std::string what : {"kill", "stop", "cut"}) {
    CAPTURE(what);
    SimCluster cluster;
    const auto start = [&](const std::string& name) {
      auto node = cluster.start({.name = name, .heartbeat_interval = kHeartbeat, .silence_limit = kSilence});
      REQUIRE_MESSAGE(node.ok(), text_of(node));
      return std::move(*node);
    };
    auto alice = start("alice");
    auto bob = start("bob");
    auto victim = start("victim");
    REQUIRE(victim->spawn<Holder>("holder", *victim).ok());
    REQUIRE(bob->wait_for_actor("holder", kPatience).ok());
    Calls patient = start_calls(*bob, "holder", "hold", 60s);
    Calls hasty = start_calls(*bob, "holder", "hold", 300ms);
    cluster.world.run_for(10ms);
    const TimePoint begun = cluster.world.clock().now();
    if (what == "kill") cluster.world.kill("victim");
    if (what == "stop") cluster.world.stop("victim");
    if (what == "cut") cluster.world.set_partition("bob", "victim", true);
    all_end_with(hasty, what == "kill" ? Code::kUnavailable : Code::kDeadlineExceeded);
    CHECK(cluster.since(begun) <= (what == "kill" ? 2ms : 301ms));
    all_end_with(patient, Code::kUnavailable);
    CHECK(cluster.since(begun) <= (what == "kill" ? Duration(2ms) : kSilence + kHeartbeat + 1ms));
    if (what == "stop") cluster.world.resume("victim");
    if (what == "cut") cluster.world.set_partition("bob", "victim", false);
    victim.reset();
  }
}
