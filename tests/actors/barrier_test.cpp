// Nodes that wait for each other at a barrier.
#include <atomic>
#include <chrono>
#include <string>
#include <thread>
#include <vector>

#include "barriers.hpp"
#include "cluster.hpp"
#include "process.hpp"

using namespace troupe;
using namespace troupe::test;
using namespace std::chrono_literals;

namespace {

struct Alone {
  rpc::SimWorld world;
  Loop loop{world.clock(), world.loop_options()};
  Loop::Turn turn{loop};
  Barriers barriers{loop};
};

}  // namespace

TEST_CASE("barriers: all are let go when the last has come, and may come again at once") {
  Alone alone;
  for (int round = 0; round < 3; ++round) {
    auto a = alone.barriers.enter("start", "a", {"a", "b", "c"}, 1s);
    auto c = alone.barriers.enter("start", "c", {"c", "a", "b"}, 1s);
    auto other = alone.barriers.enter("other", "a", {"a"}, 1s);
    CHECK(other.get().ok());
    CHECK_FALSE(a.ready());
    auto b = alone.barriers.enter("start", "b", {"b", "b", "c", "a"}, 1s);
    for (auto* future : {&a, &b, &c}) CHECK(future->get().ok());
  }
}

TEST_CASE("barriers: who does not come is named at the deadline, and those who gave up are not counted") {
  Alone alone;
  auto a = alone.barriers.enter("start", "a", {"a", "b", "c"}, 1s);
  auto b = alone.barriers.enter("start", "b", {"a", "b", "c"}, 5s);
  const auto late = a.get();
  CHECK(code_of(late) == Code::kDeadlineExceeded);
  CHECK(contains(text_of(late), "did not come in time: c"));
  auto c = alone.barriers.enter("start", "c", {"a", "b", "c"}, 1s);
  CHECK_FALSE(c.ready());
  auto again = alone.barriers.enter("start", "a", {"a", "b", "c"}, 1s);
  for (auto* future : {&again, &b, &c}) CHECK(future->get().ok());
}

TEST_CASE("barriers: a participant that dies ends the wait of all others, and of none else") {
  Alone alone;
  auto a = alone.barriers.enter("start", "a", {"a", "b", "c"}, 1s);
  auto b = alone.barriers.enter("start", "b", {"a", "b", "c"}, 1s);
  auto other = alone.barriers.enter("other", "a", {"a", "b"}, 1s);
  alone.barriers.gone("c", "it died");
  for (auto* future : {&a, &b}) {
    REQUIRE(future->ready());
    const auto outcome = future->get();
    CHECK(code_of(outcome) == Code::kUnavailable);
    CHECK(contains(text_of(outcome), "the participant 'c' is gone: it died"));
  }
  CHECK_FALSE(other.ready());
}

TEST_CASE("barriers: one who is cancelled does not count; wrong participants are refused") {
  Alone alone;
  auto a = alone.barriers.enter("start", "a", {"a", "b"}, 1s);
  CHECK(code_of(alone.barriers.enter("start", "a", {"a", "b"}, 1s).get()) == Code::kFailedPrecondition);
  CHECK(code_of(alone.barriers.enter("start", "b", {"a", "b", "c"}, 1s).get()) == Code::kInvalidArgument);
  CHECK(code_of(alone.barriers.enter("start", "z", {"a", "b"}, 1s).get()) == Code::kInvalidArgument);
  a.cancel();
  CHECK(code_of(a.get()) == Code::kCancelled);
  auto b = alone.barriers.enter("start", "b", {"a", "b"}, 1s);
  CHECK_FALSE(b.ready());
}

TEST_CASE("nodes pass a barrier together, again and again") {
  RealCluster cluster;
  const std::vector<std::string> names{"alice", "bob", "carol"};
  for (const std::string& name : names) cluster.add(name);
  constexpr int kRounds = 50;
  std::atomic<int> inside{0}, wrong{0};
  std::vector<std::thread> threads;
  threads.reserve(names.size());
  for (const std::string& name : names)
    threads.emplace_back([&, node = &cluster[name]] {
      for (int round = 0; round < kRounds; ++round) {
        ++inside;
        if (!node->barrier("round", names, kPatience).ok()) ++wrong;
        if (inside < 3 * (round + 1)) ++wrong;  // somebody was not there yet
      }
    });
  for (std::thread& thread : threads) thread.join();
  CHECK(wrong == 0);
}

TEST_CASE("a node that leaves ends the barrier that others wait at, and later ones until it is back") {
  RealCluster cluster;
  const std::vector<std::string> names{"alice", "bob", "carol"};
  for (const std::string& name : names) cluster.add(name);
  std::atomic<bool> waits{false};
  Result<void> outcome;
  std::thread waiting([&] {
    waits = true;
    outcome = cluster["bob"].barrier("start", names, kPatience);
  });
  while (!waits) std::this_thread::yield();
  cluster.end("carol");
  waiting.join();
  CHECK(code_of(outcome) == Code::kUnavailable);
  CHECK(contains(text_of(outcome), "'carol' is gone"));
  CHECK(code_of(cluster["alice"].barrier("start", names, kPatience)) == Code::kUnavailable);

  cluster.add("carol");
  std::vector<std::thread> threads;
  std::atomic<int> passed{0};
  threads.reserve(names.size());
  for (const std::string& name : names)
    threads.emplace_back([&, node = &cluster[name]] {
      if (node->barrier("start", names, kPatience).ok()) ++passed;
    });
  for (std::thread& thread : threads) thread.join();
  CHECK(passed == 3);
}

TEST_CASE("a process that is killed ends the barrier that others wait at, and later ones until it is back") {
  for (const std::string transports : {"shm", "tcp"}) {
    CAPTURE(transports);
    RealCluster cluster(transports);
    Node& alice = cluster.add("alice");
    Node& bob = cluster.add("bob");
    const std::vector<std::string> names{"alice", "bob", "victim"};
    const NodeProcess program{.name = "victim", .registry = alice.address(), .transports = transports};
    Process victim(program.command());
    REQUIRE(victim.line().starts_with("ready "));
    Result<void> outcome;
    std::thread waiting([&] { outcome = bob.barrier("start", names, kPatience); });
    // Who comes and gives up is told who else is missing: so bob's wait is seen to have begun.
    const auto limit = std::chrono::steady_clock::now() + kPatience;
    std::string missing;
    while (!contains(missing, "did not come in time: victim") && std::chrono::steady_clock::now() < limit)
      missing = text_of(alice.barrier("start", names, 10ms));
    const auto killed = std::chrono::steady_clock::now();
    victim.kill();
    waiting.join();
    CHECK_MESSAGE(contains(missing, "did not come in time: victim"), missing);
    CHECK(std::chrono::steady_clock::now() - killed < 1s);
    CHECK(code_of(outcome) == Code::kUnavailable);
    CHECK_MESSAGE(contains(text_of(outcome), "the participant 'victim' is gone: "), text_of(outcome));
    CHECK(code_of(alice.barrier("start", names, kPatience)) == Code::kUnavailable);

    Process again(program.command());
    REQUIRE(again.line().starts_with("ready "));
    const auto late = alice.barrier("start", names, 10ms);
    CHECK(code_of(late) == Code::kDeadlineExceeded);
    CHECK(again.end() == 0);
  }
}

TEST_CASE(
    "in virtual time: a host that dies ends the barrier that others wait at, at once, and a silent one in "
    "time") {
  for (const bool stopped : {false, true}) {
    CAPTURE(stopped);
    SimCluster cluster;
    Node& alice = cluster.add("alice");
    Node& bob = cluster.add("bob");
    cluster.add("carol");
    const TimePoint begun = cluster.world.clock().now();
    Timer death([&] { stopped ? cluster.world.stop("carol") : cluster.world.kill("carol"); });
    {
      const Loop::Turn turn(alice.loop());
      alice.loop().schedule(death, begun + 1s);
    }
    const auto outcome = bob.barrier("start", {"alice", "bob", "carol"}, 60s);
    CHECK(code_of(outcome) == Code::kUnavailable);
    CHECK_MESSAGE(contains(text_of(outcome), "the participant 'carol' is gone: "), text_of(outcome));
    const NodeOptions defaults;
    const Duration least = stopped ? defaults.silence_limit - defaults.heartbeat_interval : Duration{0};
    const Duration most = stopped ? defaults.silence_limit + defaults.heartbeat_interval : Duration{0};
    CHECK(cluster.since(begun) >= 1s + least);
    CHECK(cluster.since(begun) <= 1s + most + 2ms);
    CHECK(code_of(alice.barrier("start", {"alice", "bob", "carol"}, 60s)) == Code::kUnavailable);
    if (stopped) cluster.world.resume("carol");
  }
}

TEST_CASE("a barrier to which somebody does not come ends at its deadline and names him") {
  SimCluster cluster;
  Node& alice = cluster.add("alice");
  cluster.add("bob");
  const auto late = alice.barrier("start", {"alice", "bob"}, 3s);
  CHECK(code_of(late) == Code::kDeadlineExceeded);
  CHECK(contains(text_of(late), "did not come in time: bob"));
}
