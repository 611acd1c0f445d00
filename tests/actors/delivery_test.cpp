// What a node adds to calls: mailboxes that are bounded, calls that are repeated, streams by name.
#include <algorithm>
#include <array>
#include <string>
#include <vector>

#include "cluster.hpp"
#include "states.hpp"

namespace troupe::test {

using namespace std::chrono_literals;

namespace {

struct Ticker {
  static void methods(rpc::Methods<Ticker>& methods) {
    methods.add("count", [](Ticker&, rpc::StreamWriter<std::int64_t> out, std::int64_t to) {
      for (std::int64_t i = 0; i < to; ++i)
        if (!out.write(i)) return;
      out.end();
    });
  }
};

/// Waits inside of a method; what comes meanwhile is for its mailbox.
struct Busy {
  explicit Busy(Node& own_node) : node(own_node) {}
  Node& node;

  static void methods(rpc::Methods<Busy>& methods) {
    methods.add("wait", [](Busy& self) { return self.node.rpc_sync<std::int64_t>("holder", "hold"); })
        .add("length", [](Busy&, const std::string& text) { return static_cast<std::int64_t>(text.size()); });
  }
};

}  // namespace

TEST_CASE("delivery: a busy actor's mailbox is bounded, past it calls are refused") {
  RealCluster cluster;
  NodeOptions options{.name = "first"};
  options.max_calls_waiting = 2;
  auto first = cluster.start(options).value();
  Node& second = cluster.add("second");
  REQUIRE(first->spawn<Relay>("relay", *first).ok());
  REQUIRE(second.spawn<Holder>("holder", second).ok());
  REQUIRE(first->wait_for_actor("holder", kPatience).ok());
  REQUIRE(second.wait_for_actor("relay", kPatience).ok());
  // The relay waits inside of its method; what comes meanwhile is for its mailbox.
  std::vector<rpc::Future<std::int64_t>> calls;
  calls.reserve(5);
  for (int i = 0; i < 5; ++i)
    calls.push_back(
        second.rpc_async<std::int64_t>("relay", "ask", std::string("holder"), std::string("hold")));
  const auto ended = [&] {
    return std::count_if(calls.begin(), calls.end(), [](const auto& call) { return call.ready(); });
  };
  const TimePoint limit = second.loop().clock().now() + kPatience;
  REQUIRE(second.loop().wait_until([&] { return ended() == 2; }, limit));
  for (const std::size_t last : {3, 4}) {
    const auto refused = calls[last].get();
    CHECK(code_of(refused) == Code::kResourceExhausted);
    CHECK(contains(text_of(refused), "wait for this actor already"));
  }
  for (std::int64_t i = 0; i < 3; ++i) {
    while (second.rpc_sync<std::int64_t>("holder", "held").value() == 0)
      REQUIRE(second.loop().clock().now() < limit);
    REQUIRE(second.rpc_sync<void>("holder", "release", i).ok());
    CHECK(calls[static_cast<std::size_t>(i)].get().value() == i);
  }
  first.reset();
}

TEST_CASE_TEMPLATE(
    "delivery: a call with a token that was given up in a mailbox never ran, and a repeat does", Kind,
    TROUPE_REAL_CLUSTERS) {
  Kind cluster;
  Node& first = cluster.add("first");
  Node& second = cluster.add("second");
  REQUIRE(first.spawn<Relay>("relay", first).ok());
  REQUIRE(second.spawn<Holder>("holder", second).ok());
  REQUIRE(second.spawn<Calculator>("calculator").ok());
  REQUIRE(first.wait_for_actor("calculator", kPatience).ok());
  REQUIRE(second.wait_for_actor("relay", kPatience).ok());
  const std::string count = "count", hold = "hold", holder = "holder", calculator = "calculator";
  auto busy = second.rpc_async<std::int64_t>("relay", "ask", holder, hold);
  const TimePoint limit = second.loop().clock().now() + kPatience;
  while (second.rpc_sync<std::int64_t>("holder", "held").value() == 0)
    REQUIRE(second.loop().clock().now() < limit);
  const auto late = second.rpc_sync_with<std::int64_t>({.timeout = std::chrono::milliseconds(50), .token = 7},
                                                       "relay", "ask", calculator, count);
  CHECK(code_of(late) == Code::kDeadlineExceeded);
  auto given_up = second.rpc_async_with<std::int64_t>({.token = 8}, "relay", "ask", calculator, count);
  given_up.cancel();
  CHECK(code_of(given_up.get()) == Code::kCancelled);
  REQUIRE(second.rpc_sync<void>("holder", "release", std::int64_t{5}).ok());
  CHECK(busy.get().value() == 5);
  for (const std::uint64_t token : {7, 8}) {
    CAPTURE(token);
    const auto repeat =
        second.rpc_sync_with<std::int64_t>({.token = token}, "relay", "ask", calculator, count);
    REQUIRE_MESSAGE(repeat.ok(), text_of(repeat));
    CHECK(*repeat == static_cast<std::int64_t>(token) - 6);  // the calculator's first count, and its second
  }
}

TEST_CASE_TEMPLATE("delivery: a node's limits are its calls'", Kind, TROUPE_CLUSTERS) {
  Kind cluster;
  Node& first = cluster.add("first");
  REQUIRE(first.spawn<Holder>("holder", first).ok());
  NodeOptions options{.name = "second"};
  options.limits.max_calls_in_flight = 2;
  options.limits.max_calls_waiting = 3;
  const std::unique_ptr<Node> second = cluster.start(options).value();
  REQUIRE(second->wait_for_actor("holder", kPatience).ok());
  std::vector<rpc::Future<std::int64_t>> calls;
  calls.reserve(6);
  for (int i = 0; i < 6; ++i) calls.push_back(second->rpc_async<std::int64_t>("holder", "hold"));
  CHECK(code_of(calls.back().get()) == Code::kResourceExhausted);
  second->shutdown();
  for (std::size_t i = 0; i < 5; ++i) CHECK(code_of(calls[i].get()) == Code::kCancelled);
}

TEST_CASE("delivery: a busy actor's mailbox is bounded in bytes, too, which come free with the calls") {
  RealCluster cluster;
  NodeOptions options{.name = "first"};
  options.max_bytes_waiting = 1'000'000;
  auto first = cluster.start(options).value();
  Node& second = cluster.add("second");
  REQUIRE(first->spawn<Busy>("busy", *first).ok());
  REQUIRE(second.spawn<Holder>("holder", second).ok());
  REQUIRE(first->wait_for_actor("holder", kPatience).ok());
  REQUIRE(second.wait_for_actor("busy", kPatience).ok());
  const std::string large(400'000, 'x'), small(100'000, 'x'), oversized(2'000'000, 'x');
  const auto length = [](Node& from, const std::string& text) {
    return from.rpc_async<std::int64_t>("busy", "length", text);
  };
  for (Node* caller : {&second, first.get()}) {
    CAPTURE(caller->name());
    const TimePoint limit = second.loop().clock().now() + kPatience;
    const auto make_busy = [&] {
      auto wait = second.rpc_async<std::int64_t>("busy", "wait");
      while (second.rpc_sync<std::int64_t>("holder", "held").value() == 0)
        REQUIRE(second.loop().clock().now() < limit);
      return wait;
    };
    auto wait = make_busy();
    std::vector<rpc::Future<std::int64_t>> calls;
    calls.reserve(4);
    for (int i = 0; i < 4; ++i) calls.push_back(length(*caller, large));
    const auto ended = [&] {
      return std::count_if(calls.begin(), calls.end(), [](const auto& call) { return call.ready(); });
    };
    REQUIRE(caller->loop().wait_until([&] { return ended() == 2; }, limit));
    // Two have room, and a small one beside them; whatever else is large has not.
    auto fits = length(*caller, small);
    const auto refused = length(*caller, large).get();
    CHECK(code_of(refused) == Code::kResourceExhausted);
    CHECK_MESSAGE(contains(text_of(refused), "bytes) wait for this actor already"), text_of(refused));
    CHECK_FALSE(fits.ready());
    REQUIRE(second.rpc_sync<void>("holder", "release", std::int64_t{1}).ok());
    CHECK(wait.get().value() == 1);
    CHECK(fits.get().value() == 100'000);
    int answered = 0;
    for (auto& call : calls) {
      const auto outcome = call.get();
      if (outcome) ++answered;
      CHECK(code_of(outcome) == (outcome ? Code::kOk : Code::kResourceExhausted));
    }
    CHECK(answered == 2);

    // All is free again. A call longer than the bound may wait alone, which is the one that came first.
    wait = make_busy();
    std::array both{length(*caller, oversized), length(*caller, oversized)};
    REQUIRE(caller->loop().wait_until([&] { return both[0].ready() || both[1].ready(); }, limit));
    const std::size_t over = both[0].ready() ? 0 : 1;
    CHECK(code_of(both[over].get()) == Code::kResourceExhausted);
    CHECK_FALSE(both[1 - over].ready());
    REQUIRE(second.rpc_sync<void>("holder", "release", std::int64_t{2}).ok());
    CHECK(wait.get().value() == 2);
    CHECK(both[1 - over].get().value() == 2'000'000);
  }
  first.reset();
}

TEST_CASE_TEMPLATE("delivery: a stream is opened by name", Kind, TROUPE_CLUSTERS) {
  Kind cluster;
  Node& first = cluster.add("first");
  Node& second = cluster.add("second");
  REQUIRE(first.template spawn<Ticker>("ticker").ok());
  REQUIRE(second.wait_for_actor("ticker", 10s).ok());
  auto reader =
      second.template stream_with<std::int64_t>({.items = 200}, "ticker", "count", std::int64_t{100});
  for (std::int64_t i = 0; i < 100; ++i) {
    const auto item = reader.next(10s);
    REQUIRE_MESSAGE(item.ok(), text_of(item));
    REQUIRE(*item == i);
  }
  CHECK_FALSE(reader.next(10s).value().has_value());
  CHECK(code_of(second.template stream<int>("nobody", "count", 1).next(1s)) == Code::kNotFound);
}

TEST_CASE("delivery: a call that may be repeated outlives a cut way and runs once") {
  SimCluster cluster;
  cluster.add("first");
  Node& caller = cluster.add("caller");
  Node& callee = cluster.add("callee");
  REQUIRE(callee.spawn<Calculator>("calculator").ok());
  REQUIRE(caller.wait_for_actor("calculator", 5s).ok());
  CHECK(caller.rpc_sync<std::int64_t>("calculator", "count").value() == 1);
  cluster.world.set_partition("caller", "callee", true);
  auto plain = caller.rpc_async<std::int64_t>("calculator", "plus", std::int64_t{1}, std::int64_t{2});
  auto repeated = caller.rpc_async_with<std::int64_t>(
      {.timeout = 60s, .retry = {.max_attempts = 40, .attempt_timeout = 2s}}, "calculator", "count");
  cluster.world.run_for(12s);
  CHECK(plain.ready());
  CHECK_FALSE(repeated.ready());
  cluster.world.set_partition("caller", "callee", false);
  CHECK(repeated.get().value() == 2);
  CHECK(caller.rpc_sync<std::int64_t>("calculator", "count").value() == 3);
  CHECK(code_of(plain.get()) == Code::kUnavailable);
}

}  // namespace troupe::test
