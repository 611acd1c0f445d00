// What a node adds to calls: mailboxes that are bounded, calls that are repeated, streams by name.
#include <algorithm>

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
  for (int i = 0; i < 6; ++i) calls.push_back(second->rpc_async<std::int64_t>("holder", "hold"));
  CHECK(code_of(calls.back().get()) == Code::kResourceExhausted);
  second->shutdown();
  for (std::size_t i = 0; i < 5; ++i) CHECK(code_of(calls[i].get()) == Code::kCancelled);
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
