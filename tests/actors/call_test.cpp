// Calls by name: values, typed errors, futures, nesting, many threads.
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

/// alice is the first node, bob has the actors; each test calls from both.
struct TwoNodes {
  explicit TwoNodes(Cluster& in) : alice(in.add("alice")), bob(in.add("bob")) {
    REQUIRE(bob.spawn<Calculator>("calculator").ok());
    REQUIRE(bob.spawn<Holder>("holder", bob).ok());
    REQUIRE(alice.wait_for_actor("calculator", kPatience).ok());
    REQUIRE(alice.wait_for_actor("holder", kPatience).ok());
  }
  Node& alice;
  Node& bob;
};

}  // namespace

TEST_CASE_TEMPLATE("a method answers callers on its own node and on others alike", Kind, TROUPE_CLUSTERS) {
  Kind cluster;
  TwoNodes nodes(cluster);
  for (Node* node : {&nodes.alice, &nodes.bob}) {
    CAPTURE(node->name());
    const Tensor x = Tensor::of<float>({1, 2, 3});
    const Tensor y = Tensor::of<float>({10, 20, 30});
    const auto sum = node->rpc_sync<Tensor>("calculator", "add", x, y);
    REQUIRE_MESSAGE(sum.ok(), text_of(sum));
    CHECK(sum->as<float>()[0] == 11);
    CHECK(sum->as<float>()[2] == 33);
    CHECK(node->rpc_sync<std::int64_t>("calculator", "plus", std::int64_t{2}, std::int64_t{40}).value() ==
          42);
    CHECK(node->rpc_sync<std::string>("calculator", "greet", "you").value() == "hello you");
    CHECK(node->rpc_sync<void>("calculator", "nothing").ok());
  }
  CHECK(nodes.alice.rpc_sync<std::int64_t>("calculator", "count").value() == 1);
  CHECK(nodes.bob.rpc_sync<std::int64_t>("calculator", "count").value() == 2);
}

TEST_CASE_TEMPLATE("a tensor of many megabytes passes whole", Kind, TROUPE_CLUSTERS) {
  Kind cluster;
  TwoNodes nodes(cluster);
  const Tensor x = Tensor::empty(DType::kFloat32, {1 << 20});
  for (std::size_t i = 0; i < x.as<float>().size(); ++i) x.as<float>()[i] = static_cast<float>(i % 1000);
  const auto sum = nodes.alice.rpc_sync<Tensor>("calculator", "add", x, x);
  REQUIRE_MESSAGE(sum.ok(), text_of(sum));
  REQUIRE(sum->elements() == x.elements());
  std::size_t wrong = 0;
  for (std::size_t i = 0; i < x.as<float>().size(); ++i)
    wrong += sum->as<float>()[i] != 2 * static_cast<float>(i % 1000);
  CHECK(wrong == 0);
}

TEST_CASE_TEMPLATE("errors are typed and say what to do", Kind, TROUPE_CLUSTERS) {
  Kind cluster;
  TwoNodes nodes(cluster);
  for (Node* node : {&nodes.alice, &nodes.bob}) {
    CAPTURE(node->name());
    const auto unknown = node->rpc_sync<std::int64_t>("calculater", "count");
    CHECK(code_of(unknown) == Code::kNotFound);
    CHECK(contains(text_of(unknown), "did you mean 'calculator'?"));
    CHECK(contains(text_of(node->rpc_sync<void>("zzzzzzzzzzzzzzzzzzzzzzzz", "x")), "2 others are known"));

    const auto method = node->rpc_sync<std::int64_t>("calculator", "counts");
    CHECK(code_of(method) == Code::kUnimplemented);
    CHECK(contains(text_of(method), "add, count, explode, greet, nothing, plus, refuse"));

    const auto types = node->rpc_sync<std::int64_t>("calculator", "plus", 1.5, std::string("x"));
    CHECK(code_of(types) == Code::kInvalidArgument);
    CHECK(contains(text_of(types), "plus(int64, int64) -> int64"));

    const auto result = node->rpc_sync<std::string>("calculator", "count");
    CHECK(code_of(result) == Code::kInvalidArgument);

    const auto refused = node->rpc_sync<std::int64_t>("calculator", "refuse", "not today");
    CHECK(code_of(refused) == Code::kFailedPrecondition);
    CHECK(contains(text_of(refused), "calculator.refuse: not today"));
    CHECK(refused.error().node == "bob");

    const auto thrown = node->rpc_sync<std::int64_t>("calculator", "explode", "boom");
    CHECK(code_of(thrown) == Code::kInternal);
    CHECK(contains(text_of(thrown), "boom"));

    const auto late =
        node->rpc_sync_with<std::int64_t>({.timeout = std::chrono::milliseconds(20)}, "holder", "hold");
    CHECK(code_of(late) == Code::kDeadlineExceeded);
  }
  // None of it has hurt the actor.
  CHECK(nodes.alice.rpc_sync<std::int64_t>("calculator", "count").value() == 1);
}

TEST_CASE_TEMPLATE("futures come in any order and are joined by when_all", Kind, TROUPE_CLUSTERS) {
  Kind cluster;
  TwoNodes nodes(cluster);
  std::vector<rpc::Future<std::int64_t>> sums;
  auto held = nodes.alice.rpc_async<std::int64_t>("holder", "hold");
  for (std::int64_t i = 0; i < 100; ++i)
    sums.push_back(nodes.alice.rpc_async<std::int64_t>("calculator", "plus", i, i));
  const auto all = rpc::when_all(nodes.alice.loop(), std::move(sums)).get();
  REQUIRE_MESSAGE(all.ok(), text_of(all));
  for (std::size_t i = 0; i < all->size(); ++i) CHECK((*all)[i] == static_cast<std::int64_t>(2 * i));
  CHECK_FALSE(held.ready());
  REQUIRE(nodes.bob.rpc_sync<void>("holder", "release", std::int64_t{7}).ok());
  CHECK(held.get().value() == 7);
}

TEST_CASE_TEMPLATE("a handler may call on and wait, also back to where the call came from", Kind,
                   TROUPE_CLUSTERS) {
  Kind cluster;
  TwoNodes nodes(cluster);
  REQUIRE(nodes.alice.spawn<Relay>("relay-alice", nodes.alice).ok());
  REQUIRE(nodes.alice.spawn<Calculator>("other").ok());
  REQUIRE(nodes.bob.spawn<Relay>("relay-bob", nodes.bob).ok());
  REQUIRE(nodes.bob.wait_for_actor("other", kPatience).ok());
  REQUIRE(nodes.alice.wait_for_actor("relay-bob", kPatience).ok());
  // alice -> relay-bob at bob -> other at alice.
  CHECK(nodes.alice.rpc_sync<std::int64_t>("relay-bob", "ask", "other", "count").value() == 1);
  // Local, two deep.
  CHECK(nodes.alice.rpc_sync<std::int64_t>("relay-alice", "ask", "other", "count").value() == 2);
  // An error of the inner call is the answer of the outer.
  const auto inner = nodes.alice.rpc_sync<std::int64_t>("relay-bob", "ask", "nobody", "count");
  CHECK(code_of(inner) == Code::kNotFound);
}

// Only in real time: a simulated cluster has one stack, so that a handler that waits holds up those below.
TEST_CASE_TEMPLATE("calls to an actor in the middle of another message wait for it", Kind,
                   TROUPE_REAL_CLUSTERS) {
  Kind cluster;
  TwoNodes nodes(cluster);
  REQUIRE(nodes.bob.spawn<Relay>("relay", nodes.bob).ok());
  REQUIRE(nodes.alice.wait_for_actor("relay", kPatience).ok());
  auto first = nodes.alice.rpc_async<std::int64_t>("relay", "ask", "holder", "hold");
  auto second = nodes.alice.rpc_async<std::int64_t>("relay", "ask", "calculator", "count");
  // The holder has the first one's call, so relay is in the middle of it.
  while (nodes.alice.rpc_sync<std::int64_t>("holder", "held").value() == 0) continue;
  CHECK_FALSE(second.ready());
  CHECK(nodes.alice.rpc_sync<std::int64_t>("calculator", "count").value() == 1);
  REQUIRE(nodes.alice.rpc_sync<void>("holder", "release", std::int64_t{5}).ok());
  CHECK(first.get().value() == 5);
  CHECK(second.get().value() == 2);
}

TEST_CASE_TEMPLATE("several threads call at once, on both nodes", Kind, TROUPE_REAL_CLUSTERS) {
  Kind cluster;
  TwoNodes nodes(cluster);
  constexpr int kThreads = 4;
  constexpr std::int64_t kCalls = 300;
  std::atomic<int> wrong{0};
  std::vector<std::thread> threads;
  threads.reserve(kThreads);
  threads.reserve(kThreads);
  for (int t = 0; t < kThreads; ++t)
    threads.emplace_back([&, t] {
      Node& node = t % 2 == 0 ? nodes.alice : nodes.bob;
      std::vector<rpc::Future<std::int64_t>> open;
      for (std::int64_t i = 0; i < kCalls; ++i) {
        open.push_back(node.rpc_async<std::int64_t>("calculator", "plus", i, std::int64_t{t}));
        const auto sum = node.rpc_sync<std::int64_t>("calculator", "plus", i, i);
        if (!sum || *sum != 2 * i) ++wrong;
      }
      for (std::int64_t i = 0; i < kCalls; ++i) {
        const auto sum = open[static_cast<std::size_t>(i)].get();
        if (!sum || *sum != i + t) ++wrong;
      }
    });
  for (std::thread& thread : threads) thread.join();
  CHECK(wrong == 0);
}

TEST_CASE_TEMPLATE(
    "a thread that calls its own node's actors without a pause does not keep others from being answered",
    Kind, TROUPE_REAL_CLUSTERS) {
  Kind cluster;
  TwoNodes nodes(cluster);
  std::atomic<bool> enough{false};
  std::thread busy([&] {
    while (!enough) CHECK(nodes.bob.rpc_sync<std::int64_t>("holder", "held").ok());
  });
  const auto start = std::chrono::steady_clock::now();
  for (int i = 0; i < 20; ++i) CHECK(nodes.alice.rpc_sync<std::int64_t>("calculator", "count").ok());
  const Duration took = std::chrono::steady_clock::now() - start;
  enough = true;
  busy.join();
  CHECK(took < std::chrono::seconds(5));
}

TEST_CASE_TEMPLATE("an idle node is woken by the call itself, not by its next heartbeat", Kind,
                   TROUPE_REAL_CLUSTERS) {
  for (int round = 0; round < 30; ++round) {
    Kind cluster;
    TwoNodes nodes(cluster);
    for (int i = 0; i < 5; ++i) REQUIRE(nodes.alice.rpc_sync<std::int64_t>("calculator", "count").ok());
    REQUIRE(nodes.alice.spawn<Calculator>("other").ok());
    const auto start = std::chrono::steady_clock::now();
    REQUIRE(nodes.bob.wait_for_actor("other", kPatience).ok());
    REQUIRE(nodes.bob.rpc_sync<std::int64_t>("other", "count").ok());
    CHECK(std::chrono::steady_clock::now() - start < std::chrono::milliseconds(500));
  }
}
