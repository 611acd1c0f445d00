// Methods that run on the node's pool: beside the loop, with all that holds for methods on it.
#include <atomic>
#include <chrono>
#include <future>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include <troupe/actors/remote.hpp>

#include "cluster.hpp"
#include "states.hpp"

using namespace troupe;
using namespace troupe::test;
using namespace std::chrono_literals;

namespace {

/// Computes for as long as the test wants.
struct Trainer {
  explicit Trainer(Node& own_node) : node(own_node) {}
  Node& node;
  Signal begun, may_end;
  std::atomic<bool> in_turn{false}, saw_cancelled{false}, told{false};
  std::atomic<Duration> left{Duration::max()};  // as the method saw it at its end
  std::atomic<int> inside{0}, most_inside{0}, done{0};
  std::vector<std::int64_t> order;

  void enter() {
    const int now = ++inside;
    int most = most_inside;
    while (now > most && !most_inside.compare_exchange_weak(most, now)) continue;
  }

  static void methods(rpc::Methods<Trainer>& methods) {
    methods
        .add(
            "train",
            [](Trainer& self, std::int64_t step) {
              self.enter();
              self.in_turn = self.node.loop().in_turn();
              self.begun.set();
              self.may_end.wait_for(kPatience);
              self.order.push_back(step);
              --self.inside;
              ++self.done;
              return step + 1;
            },
            rpc::kOnPool)
        .add(
            "beside",
            [](Trainer& self) {
              self.enter();
              // Until as many are inside as there are threads.
              const auto until = std::chrono::steady_clock::now() + kPatience;
              while (self.most_inside < 3 && std::chrono::steady_clock::now() < until)
                std::this_thread::yield();
              --self.inside;
            },
            rpc::kOnPoolAtOnce)
        .add("note",
             [](Trainer& self, std::int64_t step) {
               self.enter();
               self.order.push_back(step);
               --self.inside;
             })
        .add("order", [](Trainer& self) { return self.order; })
        .add(
            "until_cancelled",
            [](Trainer& self, const rpc::CallContext& context) {
              context.on_cancel([&self] { self.told = true; });
              self.begun.set();
              const auto until = std::chrono::steady_clock::now() + kPatience;
              while (!context.cancelled() && std::chrono::steady_clock::now() < until)
                std::this_thread::yield();
              self.left = context.time_left();
              self.saw_cancelled = context.cancelled();
              ++self.done;
            },
            rpc::kOnPool)
        .add(
            "outlive",
            [](Trainer& self, const rpc::CallContext& context) {
              self.begun.set();
              self.may_end.wait_for(kPatience);
              self.left = context.time_left();
              self.saw_cancelled = context.cancelled();
              context.on_cancel([&self] { self.told = true; });
              ++self.done;
            },
            rpc::kOnPool)
        .add(
            "call_on",
            [](Trainer& self, const std::string& actor) -> Result<std::int64_t> {
              self.begun.set();
              auto held = self.node.rpc_sync<std::int64_t>(actor, "hold");
              ++self.done;
              return held;
            },
            rpc::kOnPool)
        .add(
            "sum",
            [](Trainer& self, const std::string& actor, std::int64_t count) -> Result<std::int64_t> {
              std::int64_t all = 0;
              for (std::int64_t i = 0; i < count; ++i) {
                auto one = i % 2 == 0 ? self.node.rpc_sync<std::int64_t>(actor, "count")
                                      : self.node.rpc_async<std::int64_t>(actor, "count").get();
                if (!one) return one.error();
                all = *one;
              }
              return all;
            },
            rpc::kOnPool)
        .add(
            "fails",
            [](Trainer&) -> Result<void> {
              return Error{Code::kAborted, "no"};
            },
            rpc::kOnPool)
        .add(
            "throws", [](Trainer&) -> Tensor { throw std::out_of_range("too far"); }, rpc::kOnPool)
        .add(
            "echo",
            [](Trainer&, std::string_view text, const Tensor& tensor) {
              return std::pair(std::string(text), tensor);
            },
            rpc::kOnPool);
  }
};

struct Nodes {
  Nodes() { state = trainer(bob); }
  std::shared_ptr<Trainer> trainer(Node& node, const std::string& name = "trainer") {
    auto made = std::make_shared<Trainer>(node);
    rpc::Methods<Trainer> methods;
    Trainer::methods(methods);
    REQUIRE(node.spawn_state(name, made, methods.table()).ok());
    REQUIRE(alice.wait_for_actor(name, kPatience).ok());
    return made;
  }
  RealCluster cluster;
  Node& alice = cluster.add("alice");
  Node& bob = cluster.add("bob");
  std::shared_ptr<Trainer> state;
};

}  // namespace

TEST_CASE("pool: a long method leaves its node's loop free, and its actor's other calls wait in order") {
  Nodes nodes;
  REQUIRE(nodes.bob.spawn<Calculator>("counter").ok());
  REQUIRE(nodes.alice.wait_for_actor("counter", kPatience).ok());
  for (Node* caller : {&nodes.alice, &nodes.bob}) {
    CAPTURE(caller->name());
    auto state = nodes.trainer(nodes.bob, "trainer of " + caller->name());
    const std::string name = "trainer of " + caller->name();
    std::vector<rpc::Future<std::int64_t>> trained;
    std::vector<rpc::Future<void>> noted;
    trained.push_back(caller->rpc_async<std::int64_t>(name, "train", 0));
    REQUIRE(state->begun.wait_for(kPatience));
    CHECK_FALSE(state->in_turn);
    for (int i = 1; i < 10; i += 3) {
      noted.push_back(caller->rpc_async<void>(name, "note", i));
      trained.push_back(caller->rpc_async<std::int64_t>(name, "train", i + 1));
      noted.push_back(caller->rpc_async<void>(name, "note", i + 2));
    }
    CHECK(caller->rpc_sync<std::int64_t>("counter", "plus", 1, 2).ok());  // the loop is free
    CHECK_FALSE(trained[0].ready());
    CHECK_FALSE(noted[0].ready());
    state->may_end.set();
    for (auto& each : trained) CHECK(each.get().ok());
    for (auto& each : noted) CHECK(each.get().ok());
    CHECK(caller->rpc_sync<std::vector<std::int64_t>>(name, "order").value() ==
          std::vector<std::int64_t>{0, 1, 2, 3, 4, 5, 6, 7, 8, 9});
    CHECK(state->most_inside == 1);
  }
}

TEST_CASE("pool: methods that say so run at the same time") {
  Nodes nodes;
  std::vector<rpc::Future<void>> all;
  all.reserve(3);
  for (int i = 0; i < 3; ++i) all.push_back(nodes.alice.rpc_async<void>("trainer", "beside"));
  for (auto& each : all) CHECK(each.get().ok());
  CHECK(nodes.state->most_inside == 3);
}

TEST_CASE("pool: errors, exceptions, values and calls within calls are as on the loop") {
  Nodes nodes;
  REQUIRE(nodes.alice.spawn<Calculator>("counter").ok());
  REQUIRE(nodes.bob.wait_for_actor("counter", kPatience).ok());
  for (Node* caller : {&nodes.alice, &nodes.bob}) {
    CAPTURE(caller->name());
    CHECK(code_of(caller->rpc_sync<void>("trainer", "fails")) == Code::kAborted);
    const auto thrown = caller->rpc_sync<Tensor>("trainer", "throws");
    REQUIRE_FALSE(thrown.ok());
    CHECK(thrown.error().exception == "std::out_of_range");
    CHECK(thrown.error().node == "bob");
    const auto echo = caller->rpc_sync<std::pair<std::string, Tensor>>(
        "trainer", "echo", std::string_view("text"), Tensor::zeros(DType::kFloat32, Shape{100'000}));
    REQUIRE_MESSAGE(echo.ok(), text_of(echo));
    CHECK(echo->first == "text");
    CHECK(echo->second.shape() == Shape{100'000});
    CHECK(code_of(caller->rpc_sync<void>("trainer", "fails", 1)) == Code::kInvalidArgument);
  }
  const auto sum = nodes.alice.rpc_sync<std::int64_t>("trainer", "sum", std::string("counter"), 200);
  REQUIRE_MESSAGE(sum.ok(), text_of(sum));
  CHECK(*sum == 200);
}

TEST_CASE("pool: a method sees that nobody waits any more") {
  Nodes nodes;
  SUBCASE("its caller gave it up") {
    auto call = nodes.alice.rpc_async<void>("trainer", "until_cancelled");
    REQUIRE(nodes.state->begun.wait_for(kPatience));
    call.cancel();
    CHECK(code_of(call.get()) == Code::kCancelled);
  }
  SUBCASE("its deadline has passed") {
    // The method may have seen it, and answered, before the caller's own timer was asked.
    const Code code =
        code_of(nodes.alice.rpc_sync_with<void>({.timeout = 50ms}, "trainer", "until_cancelled"));
    CHECK((code == Code::kDeadlineExceeded || code == Code::kOk));
  }
  SUBCASE("its caller's node has gone") {
    auto call = nodes.alice.rpc_async<void>("trainer", "until_cancelled");
    REQUIRE(nodes.state->begun.wait_for(kPatience));
    nodes.alice.shutdown();
    CHECK(code_of(call.get()) == Code::kCancelled);
  }
  SUBCASE("its own node shuts down") {
    auto call = nodes.bob.rpc_async<void>("trainer", "until_cancelled");
    REQUIRE(nodes.state->begun.wait_for(kPatience));
    nodes.bob.shutdown();
    CHECK(code_of(call.get()) == Code::kCancelled);
  }
  SUBCASE("its own node shuts down, and nobody waited for an answer") {
    REQUIRE(nodes.alice.send("trainer", "until_cancelled").ok());
    REQUIRE(nodes.state->begun.wait_for(kPatience));
    nodes.bob.shutdown();
  }
  SUBCASE("its own node shuts down, and the call has a token, with which its caller might come back") {
    auto call = nodes.alice.rpc_async_with<void>({.token = 7}, "trainer", "until_cancelled");
    REQUIRE(nodes.state->begun.wait_for(kPatience));
    nodes.bob.shutdown();
    CHECK(code_of(call.get()) == Code::kUnavailable);
  }
  const auto until = std::chrono::steady_clock::now() + kPatience;
  while (nodes.state->done == 0 && std::chrono::steady_clock::now() < until) std::this_thread::yield();
  CHECK(nodes.state->saw_cancelled);
  CHECK(nodes.state->left.load() == Duration::zero());
}

TEST_CASE("pool: a method that is there when its node is no more knows that nobody waits") {
  RealCluster cluster;
  auto node = cluster.start({.name = "alice", .pool_patience = 20ms});
  REQUIRE(node.ok());
  auto state = std::make_shared<Trainer>(**node);
  rpc::Methods<Trainer> methods;
  Trainer::methods(methods);
  REQUIRE((*node)->spawn_state("trainer", state, methods.table()).ok());
  auto call = (*node)->rpc_async<void>("trainer", "outlive");
  REQUIRE(state->begun.wait_for(kPatience));
  (*node)->shutdown();
  CHECK(code_of(call.get()) == Code::kCancelled);
  node->reset();
  state->may_end.set();
  const auto until = std::chrono::steady_clock::now() + kPatience;
  while (state->done == 0 && std::chrono::steady_clock::now() < until) std::this_thread::yield();
  REQUIRE(state->done == 1);
  CHECK(state->saw_cancelled);
  CHECK(state->left.load() == Duration::zero());
  CHECK(state->told);
}

TEST_CASE("pool: calls that a method there makes end with the call that it answers") {
  Nodes nodes;
  REQUIRE(nodes.alice.spawn<Holder>("holder", nodes.alice).ok());
  REQUIRE(nodes.bob.wait_for_actor("holder", kPatience).ok());
  auto call = nodes.alice.rpc_async<std::int64_t>("trainer", "call_on", std::string("holder"));
  REQUIRE(nodes.state->begun.wait_for(kPatience));
  call.cancel();
  CHECK(code_of(call.get()) == Code::kCancelled);
  const auto until = std::chrono::steady_clock::now() + kPatience;
  while (nodes.state->done == 0 && std::chrono::steady_clock::now() < until) std::this_thread::yield();
  CHECK(nodes.state->done == 1);
}

TEST_CASE("pool: when all threads work, no more calls wait than may") {
  RealCluster cluster;
  auto node = cluster.start({.name = "alice", .pool_threads = 1, .pool_waiting = 2});
  REQUIRE(node.ok());
  std::vector<std::shared_ptr<Trainer>> states;
  std::vector<rpc::Future<std::int64_t>> calls;
  for (int i = 0; i < 4; ++i) {
    states.push_back(std::make_shared<Trainer>(**node));
    rpc::Methods<Trainer> methods;
    Trainer::methods(methods);
    REQUIRE((*node)->spawn_state(std::to_string(i), states.back(), methods.table()).ok());
    calls.push_back((*node)->rpc_async<std::int64_t>(std::to_string(i), "train", i));
    if (i == 0) REQUIRE(states[0]->begun.wait_for(kPatience));
  }
  CHECK(code_of(calls[3].get()) == Code::kResourceExhausted);
  CHECK((*node)->rpc_sync<void>("3", "note", 1).ok());  // the actor itself goes on
  for (auto& state : states) state->may_end.set();
  for (int i = 0; i < 3; ++i) CHECK(calls[static_cast<std::size_t>(i)].get().ok());
}

TEST_CASE("pool: an actor that ends while its method runs refuses those that wait, and answers that one") {
  Nodes nodes;
  auto first = nodes.alice.rpc_async<std::int64_t>("trainer", "train", 1);
  REQUIRE(nodes.state->begun.wait_for(kPatience));
  auto second = nodes.alice.rpc_async<void>("trainer", "note", 2);
  REQUIRE(nodes.alice.rpc_sync<std::int64_t>("trainer", "no_such").error().code == Code::kUnimplemented);
  nodes.state->may_end.set();
  CHECK(first.get().ok());
  CHECK(second.get().ok());
  auto third = nodes.bob.rpc_async<void>("trainer", "until_cancelled");
  const std::weak_ptr<Trainer> watched = nodes.state;
  REQUIRE(nodes.bob.kill("trainer").ok());
  third.cancel();
  CHECK(code_of(third.get()) == Code::kCancelled);
}

TEST_CASE("pool: a method that heeds nothing holds its node's end up for no longer than its patience") {
  RealCluster cluster;
  auto node = cluster.start({.name = "alice", .pool_patience = 20ms});
  REQUIRE(node.ok());
  auto state = std::make_shared<Trainer>(**node);
  rpc::Methods<Trainer> methods;
  Trainer::methods(methods);
  REQUIRE((*node)->spawn_state("trainer", state, methods.table()).ok());
  auto call = (*node)->rpc_async<std::int64_t>("trainer", "train", 1);
  REQUIRE(state->begun.wait_for(kPatience));
  const auto begun = std::chrono::steady_clock::now();
  (*node)->shutdown();
  CHECK(std::chrono::steady_clock::now() - begun < 10s);
  CHECK(code_of(call.get()) == Code::kCancelled);
  node->reset();
  CHECK(state->done == 0);
  state->may_end.set();
  const auto until = std::chrono::steady_clock::now() + kPatience;
  while (state->done == 0 && std::chrono::steady_clock::now() < until) std::this_thread::yield();
  CHECK(state->done == 1);
}

TEST_CASE("pool: without threads, and in a simulation, such methods run on the loop") {
  SimCluster cluster;
  Node& alice = cluster.add("alice");
  auto state = std::make_shared<Trainer>(alice);
  state->may_end.set();
  rpc::Methods<Trainer> methods;
  Trainer::methods(methods);
  REQUIRE(alice.spawn_state("trainer", state, methods.table()).ok());
  CHECK(alice.rpc_sync<std::int64_t>("trainer", "train", 1).value() == 2);
  CHECK(state->in_turn);
}
