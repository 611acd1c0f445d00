// Nodes that go: often, at once, in the middle of calls, from under waiting threads.
#include <atomic>
#include <chrono>
#include <string>
#include <thread>
#include <vector>

#include "cluster.hpp"
#include "states.hpp"

using namespace troupe;
using namespace troupe::test;

namespace {

/// Real time that something took.
class Stopwatch {
 public:
  Duration read() const { return std::chrono::steady_clock::now() - start_; }

 private:
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

#ifdef TROUPE_SANITIZER
constexpr int kTimes = 100;
#else
constexpr int kTimes = 1000;
#endif

}  // namespace

TEST_CASE("a thousand times start and shutdown, in bounded time") {
  SharedSystem system;
  Duration slowest{0};
  for (int i = 0; i < kTimes; ++i) {
    Stopwatch watch;
    auto node = Node::start({.name = "alice", .system = &system.get()});
    REQUIRE_MESSAGE(node.ok(), text_of(node));
    node->reset();
    slowest = std::max(slowest, watch.read());
  }
  MESSAGE("the slowest of " << kTimes << " took " << slowest.count() / 1000 << " us");
  CHECK(slowest < std::chrono::seconds(5));
}

TEST_CASE("clusters of two come and go, with a system of their own, many times") {
  for (int i = 0; i < kTimes / 10; ++i) {
    auto alice = Node::start({.name = "alice"});
    REQUIRE_MESSAGE(alice.ok(), text_of(alice));
    auto bob = Node::start({.name = "bob", .registry = (*alice)->address()});
    REQUIRE_MESSAGE(bob.ok(), text_of(bob));
    REQUIRE((*alice)->spawn<Calculator>("calculator").ok());
    REQUIRE((*bob)->wait_for_actor("calculator", kPatience).ok());
    CHECK((*bob)->rpc_sync<std::int64_t>("calculator", "count").value() == 1);
    if (i % 2 == 0)
      alice->reset();
    else
      bob->reset();
  }
}

TEST_CASE_TEMPLATE("a node may go while calls are in flight in every direction", Kind, TROUPE_REAL_CLUSTERS) {
  for (int round = 0; round < 20; ++round) {
    Kind cluster;
    std::vector<rpc::Future<std::int64_t>> open;
    {
      const std::vector<std::string> names{"alice", "bob", "carol"};
      for (const auto& name : names) {
        Node& node = cluster.add(name);
        REQUIRE(node.spawn<Holder>("holder-" + name, node).ok());
        REQUIRE(node.spawn<Calculator>("calculator-" + name).ok());
      }
      for (const auto& from : names)
        for (const auto& to : names) {
          Node& caller = cluster[from];
          REQUIRE(caller.wait_for_actor("calculator-" + to, kPatience).ok());
          for (int i = 0; i < 5; ++i) {
            open.push_back(caller.rpc_async<std::int64_t>("holder-" + to, "hold"));
            open.push_back(caller.rpc_async<std::int64_t>("calculator-" + to, "count"));
          }
        }
      std::thread other(
          [&, node = cluster.take(names[static_cast<std::size_t>(round) % 3])]() mutable { node.reset(); });
      const auto& name = names[static_cast<std::size_t>(round + 1) % 3];
      cluster.end(name);  // two at once
      other.join();
      cluster.end(names[static_cast<std::size_t>(round + 2) % 3]);
    }
    for (auto& future : open) {
      REQUIRE(future.ready());
      const auto outcome = future.get();
      if (outcome) continue;
      const Code code = outcome.error().code;
      CAPTURE(text_of(outcome));
      CHECK((code == Code::kCancelled || code == Code::kUnavailable));
    }
  }
}

TEST_CASE_TEMPLATE("shutdown ends the waits of other threads, and calls made later are refused", Kind,
                   TROUPE_REAL_CLUSTERS) {
  Kind cluster;
  Node& alice = cluster.add("alice");
  Node& bob = cluster.add("bob");
  REQUIRE(bob.spawn<Holder>("holder", bob).ok());
  REQUIRE(alice.wait_for_actor("holder", kPatience).ok());
  std::vector<std::thread> threads;
  threads.reserve(5);
  std::atomic<int> cancelled{0};
  for (int i = 0; i < 3; ++i)
    threads.emplace_back([&] {
      const auto outcome = alice.rpc_sync<std::int64_t>("holder", "hold");
      cancelled += code_of(outcome) == Code::kCancelled;
    });
  threads.emplace_back(
      [&] { cancelled += code_of(alice.wait_for_role("nobody", 1, kPatience)) == Code::kCancelled; });
  threads.emplace_back([&] { cancelled += alice.run().ok(); });
  while (bob.rpc_sync<std::int64_t>("holder", "held").value() < 3) continue;
  Stopwatch watch;
  alice.shutdown();
  for (std::thread& thread : threads) thread.join();
  CHECK(watch.read() < std::chrono::seconds(5));
  CHECK(cancelled == 5);
  CHECK(code_of(alice.rpc_sync<std::int64_t>("holder", "held")) == Code::kCancelled);
  CHECK(code_of(alice.rpc_async<std::int64_t>("holder", "held").get()) == Code::kCancelled);
  CHECK(code_of(alice.spawn<Calculator>("late")) == Code::kCancelled);
  CHECK(code_of(alice.actor("holder")) == Code::kCancelled);
  alice.shutdown();
}

TEST_CASE_TEMPLATE("a node whose handler waits for a call goes at once", Kind, TROUPE_REAL_CLUSTERS) {
  Kind cluster;
  Node& alice = cluster.add("alice");
  Node& bob = cluster.add("bob");
  REQUIRE(alice.spawn<Holder>("holder", alice).ok());
  REQUIRE(bob.spawn<Relay>("relay", bob).ok());
  REQUIRE(bob.wait_for_actor("holder", kPatience).ok());
  REQUIRE(alice.wait_for_actor("relay", kPatience).ok());
  auto open = alice.rpc_async<std::int64_t>("relay", "ask", "holder", "hold");
  while (alice.rpc_sync<std::int64_t>("holder", "held").value() == 0) continue;
  Stopwatch watch;
  cluster.end("bob");
  CHECK(watch.read() < std::chrono::seconds(5));
  CHECK(code_of(open.get()) == Code::kUnavailable);
}

TEST_CASE_TEMPLATE("the cluster is over when its first node has gone", Kind, TROUPE_CLUSTERS) {
  Kind cluster;
  cluster.add("alice");
  Node& bob = cluster.add("bob");
  Node& carol = cluster.add("carol");
  REQUIRE(carol.spawn<Calculator>("calculator").ok());
  REQUIRE(bob.wait_for_actor("calculator", kPatience).ok());
  cluster.end("alice");
  const auto outcome = bob.run();
  CHECK(code_of(outcome) == Code::kUnavailable);
  CHECK(contains(text_of(outcome), "the first node of the cluster"));
  CHECK(code_of(bob.wait_for_actor("nobody", kPatience)) == Code::kUnavailable);
  // What is known is still there.
  CHECK(bob.rpc_sync<std::int64_t>("calculator", "count").value() == 1);
  CHECK(code_of(carol.run()) == Code::kUnavailable);
}

TEST_CASE("stop() makes run() return, with and without a thread of the node's own") {
  SharedSystem system;
  for (const bool own_thread : {true, false}) {
    auto node = Node::start({.name = "alice", .own_thread = own_thread, .system = &system.get()});
    REQUIRE_MESSAGE(node.ok(), text_of(node));
    std::thread stopper([&] { (*node)->stop(); });
    CHECK((*node)->run().ok());
    stopper.join();
  }
}
