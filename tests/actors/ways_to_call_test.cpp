// Functions as actors, declared methods, one-way calls, broadcasts, calls within calls, coroutines.
#include <chrono>
#include <span>
#include <string>
#include <vector>

#include "cluster.hpp"
#include "states.hpp"

using namespace troupe;
using namespace troupe::test;
using namespace std::chrono_literals;

namespace {

inline constexpr rpc::Function<std::int64_t(std::int64_t, std::int64_t)> kPlus{"plus"};
inline constexpr rpc::Function<std::int64_t(std::vector<std::string>)> kSum{"sum"};
inline constexpr rpc::Function<std::int64_t()> kHold{"hold", 200ms};

std::int64_t three_times(std::int64_t value) {
  return 3 * value;
}

/// Calls others in coroutines.
struct Weaver {
  explicit Weaver(Node& own_node) : node(own_node) {}
  Node& node;
  Signal* ended = nullptr;
  std::vector<Code> seen;

  rpc::Future<std::int64_t> sum(const std::vector<std::string>& actors) {
    std::int64_t all = 0;
    for (const std::string& actor : actors) {
      auto count = co_await node.rpc_async<std::int64_t>(actor, "count");
      if (!count) co_return count.error();
      all += *count;
    }
    co_return all;
  }
  rpc::Future<std::int64_t> hold(const std::string& actor) {
    auto held = co_await node.rpc_async<std::int64_t>(actor, "hold");
    seen.push_back(held ? Code::kOk : held.error().code);
    if (ended) ended->set();
    co_return held;
  }
  static void methods(rpc::Methods<Weaver>& methods) {
    methods.add(kSum, &Weaver::sum).add("hold", &Weaver::hold);
  }
};

using Matrix = TensorOf<float, 2>;

/// docs/ways-to-call.md, "Tensors of one type".
struct Layer {
  Matrix weights = Matrix::zeros(Shape{64, 32});

  void update(const Matrix& gradient) {
    require_same_shape(weights, gradient);
    const std::span<float> to = weights.writable();
    const std::span<const float> from = gradient.values();
    for (std::size_t i = 0; i < to.size(); ++i) to[i] -= from[i];
  }
  float at(std::int64_t row, std::int64_t column) const { return weights.at(row, column); }

  static void methods(rpc::Methods<Layer>& methods) {
    methods.add("update", &Layer::update).add("at", &Layer::at);
  }
};

}  // namespace

TEST_CASE_TEMPLATE("tensors of one type: others are refused with both types, here and at other nodes", Kind,
                   TROUPE_CLUSTERS) {
  Kind cluster;
  Node& alice = cluster.add("alice");
  Node& bob = cluster.add("bob");
  REQUIRE(alice.spawn<Layer>("layer").ok());
  REQUIRE(bob.wait_for_actor("layer", kPatience).ok());
  for (Node* node : {&alice, &bob}) {
    CAPTURE(node->name());
    const Matrix gradient = Matrix::zeros(Shape{64, 32});
    gradient.writable()[33] = 2;
    const float before = node->rpc_sync<float>("layer", "at", 1, 1).value();
    REQUIRE(node->rpc_sync<void>("layer", "update", gradient).ok());
    CHECK(node->rpc_sync<float>("layer", "at", 1, 1).value() == before - 2);
    const auto other = node->rpc_sync<void>("layer", "update", Tensor::zeros(DType::kInt8, Shape{64, 32}));
    CHECK(code_of(other) == Code::kInvalidArgument);
    CHECK(contains(text_of(other), "update(tensor<float32, 2>) -> void, namely as (tensor) -> void"));
    CHECK(code_of(node->rpc_sync<void>("layer", "update", Matrix::zeros(Shape{64, 31}))) ==
          Code::kInvalidArgument);
    CHECK(code_of(node->rpc_sync<float>("layer", "at", 64, 0)) == Code::kInvalidArgument);
    CHECK(code_of(node->rpc_sync<float>("layer", "at", 0, -1)) == Code::kInvalidArgument);
  }
}

TEST_CASE_TEMPLATE("functions without a state are served under a name", Kind, TROUPE_CLUSTERS) {
  Kind cluster;
  Node& alice = cluster.add("alice");
  Node& bob = cluster.add("bob");
  rpc::Functions functions;
  functions.add("three_times", &three_times).add(kPlus, [](std::int64_t a, std::int64_t b) { return a + b; });
  REQUIRE(bob.serve("mathematics", functions).ok());
  REQUIRE(alice.wait_for_actor("mathematics", kPatience).ok());
  for (Node* node : {&alice, &bob}) {
    CAPTURE(node->name());
    CHECK(node->rpc_sync<std::int64_t>("mathematics", "three_times", 14).value() == 42);
    CHECK(node->rpc_sync("mathematics", kPlus, 40, 2).value() == 42);
    CHECK(node->rpc_async("mathematics", kPlus, 1, 2).get().value() == 3);
    const auto other = node->rpc_sync<std::string>("mathematics", "three_times", "x");
    CHECK(contains(text_of(other), "three_times(int64) -> int64, namely as (string) -> string"));
    CHECK(contains(text_of(node->rpc_sync<void>("mathematics", "plas")), "did you mean 'plus'?"));
  }
}

TEST_CASE_TEMPLATE("a call's timeout is its own, else its function's, else the node's", Kind,
                   TROUPE_CLUSTERS) {
  Kind cluster;
  Node& alice = cluster.add("alice");
  REQUIRE(alice.spawn<Holder>("holder", alice).ok());
  NodeOptions options{.name = "bob"};
  options.default_timeout = 300ms;
  const auto started = cluster.start(std::move(options));
  REQUIRE_MESSAGE(started.ok(), text_of(started));
  Node& bob = **started;
  REQUIRE(bob.spawn<Holder>("own", bob).ok());
  REQUIRE(bob.wait_for_actor("holder", kPatience).ok());
  const auto ends_after = [&](Duration timeout, auto&& call) {
    const TimePoint begin = alice.loop().clock().now();
    const auto outcome = call();
    const Duration took = alice.loop().clock().now() - begin;
    CHECK_MESSAGE(code_of(outcome) == Code::kDeadlineExceeded, text_of(outcome));
    CHECK(took >= timeout);
    CHECK(took < timeout + (std::is_same_v<Kind, SimCluster> ? Duration(1ms) : Duration(1s)));
  };
  for (const std::string actor : {"holder", "own"}) {
    CAPTURE(actor);
    ends_after(300ms, [&] { return bob.rpc_sync<std::int64_t>(actor, "hold"); });
    ends_after(300ms, [&] { return bob.rpc_async<std::int64_t>(actor, "hold").get(); });
    ends_after(300ms, [&] {
      return bob.rpc_sync_with<std::int64_t>({.retry = {.max_attempts = 3}}, actor, "hold");
    });
    ends_after(200ms, [&] { return bob.rpc_sync(actor, kHold); });
    ends_after(200ms, [&] { return bob.rpc_async(actor, kHold).get(); });
    // Its own counts, be it shorter or longer.
    for (const Duration own : {Duration(50ms), Duration(400ms)}) {
      ends_after(own, [&] { return bob.rpc_sync_with<std::int64_t>({.timeout = own}, actor, "hold"); });
      ends_after(own, [&] { return bob.rpc_sync_with({.timeout = own}, actor, kHold); });
      ends_after(own, [&] { return bob.rpc_async_with({.timeout = own}, actor, kHold).get(); });
    }
  }
}

TEST_CASE("a call that names no timeout has 60 seconds, if its node names none either") {
  CHECK(NodeOptions{}.default_timeout == 60s);
  CHECK(rpc::CallOptions{}.timeout == rpc::kDefaultTimeout);  // the node's
  SimCluster cluster;
  Node& alice = cluster.add("alice");
  Node& bob = cluster.add("bob");
  REQUIRE(alice.spawn<Holder>("holder", alice).ok());
  REQUIRE(bob.wait_for_actor("holder", kPatience).ok());
  for (Node* node : {&alice, &bob}) {
    const TimePoint begin = cluster.world.clock().now();
    CHECK(code_of(node->rpc_sync<std::int64_t>("holder", "hold")) == Code::kDeadlineExceeded);
    CHECK(cluster.since(begin) >= 60s);
    CHECK(cluster.since(begin) < 60s + 1ms);
  }
}

TEST_CASE_TEMPLATE("a one-way call is run and not answered, in order with the others", Kind,
                   TROUPE_CLUSTERS) {
  Kind cluster;
  Node& alice = cluster.add("alice");
  Node& bob = cluster.add("bob");
  REQUIRE(bob.spawn<Calculator>("calculator").ok());
  REQUIRE(alice.wait_for_actor("calculator", kPatience).ok());
  for (Node* node : {&alice, &bob})
    for (int i = 0; i < 10; ++i) REQUIRE(node->send("calculator", "count").ok());
  CHECK(bob.rpc_sync<std::int64_t>("calculator", "count").value() <= 21);
  // Those of alice came before this.
  CHECK(alice.rpc_sync<std::int64_t>("calculator", "count").value() == 22);
  // What is wrong there is not heard of; what is wrong here is.
  CHECK(alice.send("calculator", "count", std::string("too much")).ok());
  CHECK(alice.send("calculator", "explode", std::string("oh")).ok());
  CHECK(alice.rpc_sync<std::int64_t>("calculator", "count").value() == 23);
  const auto nobody = alice.send("calculater", "count");
  CHECK(code_of(nobody) == Code::kNotFound);
  CHECK(contains(text_of(nobody), "calculater.count"));
}

TEST_CASE_TEMPLATE("a broadcast gathers every actor's answer or error", Kind, TROUPE_CLUSTERS) {
  Kind cluster;
  Node& alice = cluster.add("alice");
  Node& bob = cluster.add("bob", "server");
  Node& carol = cluster.add("carol", "server");
  REQUIRE(bob.spawn<Calculator>("one").ok());
  REQUIRE(carol.spawn<Calculator>("two").ok());
  REQUIRE(carol.spawn<Holder>("three", carol).ok());
  for (const char* name : {"one", "two", "three"}) REQUIRE(alice.wait_for_actor(name, kPatience).ok());
  CHECK(alice.actors_of("server") == std::vector<std::string>{"one", "three", "two"});
  CHECK(alice.actors_of("worker").empty());
  auto answers = alice.broadcast<std::int64_t>({"two", "three", "nobody", "one"}, "plus", 1, 2).get();
  REQUIRE(answers.ok());
  REQUIRE(answers->size() == 4);
  CHECK((*answers)[0].actor == "two");
  CHECK((*answers)[0].result.value() == 3);
  CHECK(code_of((*answers)[1].result) == Code::kUnimplemented);
  CHECK(code_of((*answers)[2].result) == Code::kNotFound);
  CHECK((*answers)[3].result.value() == 3);
  CHECK(alice.broadcast<std::int64_t>({}, "plus", 1, 2).get()->empty());

  auto waiting = alice.broadcast<std::int64_t>({"three"}, "hold");
  CHECK_FALSE(waiting.ready());
  waiting.cancel();
  CHECK(code_of(waiting.get()) == Code::kCancelled);
}

TEST_CASE_TEMPLATE("a coroutine as a method waits for other actors while its own takes other calls", Kind,
                   TROUPE_CLUSTERS) {
  Kind cluster;
  Node& alice = cluster.add("alice");
  Node& bob = cluster.add("bob");
  REQUIRE(alice.spawn<Calculator>("far").ok());
  REQUIRE(bob.spawn<Calculator>("near").ok());
  REQUIRE(alice.spawn<Holder>("holder", alice).ok());
  REQUIRE(bob.spawn<Weaver>("weaver", bob).ok());
  REQUIRE(alice.wait_for_actor("weaver", kPatience).ok());
  for (const char* name : {"far", "holder"}) REQUIRE(bob.wait_for_actor(name, kPatience).ok());
  auto held = alice.rpc_async<std::int64_t>("weaver", "hold", "holder");
  // Asked by the other node: a call within one takes no (simulated) time.
  while (bob.rpc_sync<std::int64_t>("holder", "held").value() == 0) continue;
  for (Node* node : {&alice, &bob}) {
    const auto sum = node->rpc_sync("weaver", kSum, {"far", "near", "far"});
    REQUIRE_MESSAGE(sum.ok(), text_of(sum));
  }
  CHECK(alice.rpc_sync<std::int64_t>("far", "count").value() == 5);
  CHECK_FALSE(held.ready());
  REQUIRE(alice.rpc_sync<void>("holder", "release", std::int64_t{7}).ok());
  CHECK(held.get().value() == 7);
}

TEST_CASE_TEMPLATE("cancelling a call ends what its method waits for on a third node, local or not", Kind,
                   TROUPE_CLUSTERS) {
  Kind cluster;
  Signal ended;
  Node& alice = cluster.add("alice");
  Node& bob = cluster.add("bob");
  Node& carol = cluster.add("carol");
  auto weaver = std::make_shared<Weaver>(bob);
  weaver->ended = &ended;
  rpc::Methods<Weaver> methods;
  Weaver::methods(methods);
  REQUIRE(bob.spawn_state("weaver", weaver, methods.table()).ok());
  REQUIRE(carol.spawn<Holder>("holder", carol).ok());
  REQUIRE(alice.wait_for_actor("weaver", kPatience).ok());
  REQUIRE(bob.wait_for_actor("holder", kPatience).ok());
  REQUIRE(alice.wait_for_actor("holder", kPatience).ok());
  auto held = alice.rpc_async<std::int64_t>("weaver", "hold", "holder");
  while (alice.rpc_sync<std::int64_t>("holder", "held").value() == 0) continue;
  held.cancel();
  CHECK(code_of(held.get()) == Code::kCancelled);
  REQUIRE(cluster.wait(ended));
  const Loop::Turn turn(bob.loop());
  CHECK(weaver->seen == std::vector<Code>{Code::kCancelled});
  CHECK(bob.endpoint().open_calls() == 0);
}

TEST_CASE_TEMPLATE("the death of a caller ends what was called in its name", Kind, TROUPE_CLUSTERS) {
  Kind cluster;
  Signal ended;
  Node& alice = cluster.add("alice");
  Node& bob = cluster.add("bob");
  auto weaver = std::make_shared<Weaver>(alice);
  weaver->ended = &ended;
  rpc::Methods<Weaver> methods;
  Weaver::methods(methods);
  REQUIRE(alice.spawn_state("weaver", weaver, methods.table()).ok());
  REQUIRE(alice.spawn<Holder>("holder", alice).ok());
  REQUIRE(bob.wait_for_actor("weaver", kPatience).ok());
  auto held = bob.rpc_async<std::int64_t>("weaver", "hold", "holder");
  REQUIRE(bob.wait_for_actor("holder", kPatience).ok());
  while (bob.rpc_sync<std::int64_t>("holder", "held").value() == 0) continue;
  cluster.end("bob");
  CHECK_FALSE(held.get().ok());
  REQUIRE(cluster.wait(ended));
  const Loop::Turn turn(alice.loop());
  CHECK(weaver->seen == std::vector<Code>{Code::kCancelled});
}

TEST_CASE_TEMPLATE("a coroutine that waits when its node shuts down is ended with it", Kind,
                   TROUPE_CLUSTERS) {
  Signal ended;
  {
    Kind cluster;
    Node& alice = cluster.add("alice");
    auto weaver = std::make_shared<Weaver>(alice);
    weaver->ended = &ended;
    rpc::Methods<Weaver> methods;
    Weaver::methods(methods);
    REQUIRE(alice.spawn_state("weaver", weaver, methods.table()).ok());
    REQUIRE(alice.spawn<Holder>("holder", alice).ok());
    auto held = alice.rpc_async<std::int64_t>("weaver", "hold", "holder");
    while (alice.rpc_sync<std::int64_t>("holder", "held").value() == 0) continue;
    alice.shutdown();
    CHECK(code_of(held.get()) == Code::kCancelled);
    CHECK(ended.is_set());
  }
}
