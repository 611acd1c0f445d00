// What only the simulated network does: faults on demand, the same each time.
#include <chrono>

#include "transport_contract.hpp"

namespace troupe::rpc::contract {

namespace {

using namespace std::chrono_literals;

/// What `b` gets of 2,000 messages, half of them with a part, in a network with faults.
struct Outcome {
  std::vector<std::uint64_t> sequences;
  std::size_t damaged = 0;
  TimePoint end;
  friend bool operator==(const Outcome&, const Outcome&) = default;
};

Outcome run_with(const SimOptions& options) {
  SimOptions calm = options;
  calm.loss = calm.duplication = calm.corruption = calm.reordering = 0;
  Pair<Sim> pair(true, calm);
  pair.world.world.options() = options;
  // A damaged head may announce any sizes: the receiver takes what the network says.
  pair.b.parts_hook = [](std::size_t total, std::vector<Buffer>& parts) -> Result<void> {
    parts.push_back(Buffer::allocate(total));
    return {};
  };
  for (std::uint64_t i = 0; i < 2000; ++i) {
    REQUIRE(pair.ta->send(pair.a.link(), make_frame(i, {i % 2 * 100})).ok());
    if (i % 50 == 0) static_cast<void>(pair.world.world.run_for(20us));
  }
  static_cast<void>(pair.world.world.run_for(100ms));
  Outcome outcome;
  for (const auto& frame : pair.b.frames) outcome.sequences.push_back(frame.sequence);
  outcome.damaged = pair.b.damaged();
  outcome.end = pair.world.world.clock().now();
  CHECK(pair.ta->bytes_in_flight(pair.a.link()) == 0);
  return outcome;
}

bool ascending(const std::vector<std::uint64_t>& values) {
  return std::is_sorted(values.begin(), values.end());
}

}  // namespace

TEST_CASE("sim: the same seed gives the same run, another seed another") {
  SimOptions options{.seed = 7, .loss = 0.1, .duplication = 0.1, .corruption = 0.1, .reordering = 0.1};
  const Outcome first = run_with(options);
  CHECK(run_with(options) == first);
  options.seed = 8;
  CHECK_FALSE(run_with(options) == first);
}

TEST_CASE("sim: each fault does what it says and no more") {
  SUBCASE("none") {
    const Outcome outcome = run_with({});
    CHECK(outcome.sequences.size() == 2000);
    CHECK(ascending(outcome.sequences));
    CHECK(outcome.damaged == 0);
  }
  SUBCASE("loss") {
    const Outcome outcome = run_with({.loss = 0.2});
    CHECK(outcome.sequences.size() > 1450);
    CHECK(outcome.sequences.size() < 1750);
    CHECK(ascending(outcome.sequences));
    CHECK(outcome.damaged == 0);
  }
  SUBCASE("duplication") {
    const Outcome outcome = run_with({.duplication = 0.2});
    CHECK(outcome.sequences.size() > 2250);
    CHECK(outcome.sequences.size() < 2550);
    CHECK(outcome.damaged == 0);
  }
  SUBCASE("corruption") {
    const Outcome outcome = run_with({.corruption = 0.2});
    CHECK(outcome.sequences.size() == 2000);
    CHECK(outcome.damaged > 100);
    CHECK(outcome.damaged < 600);
  }
  SUBCASE("reordering") {
    const Outcome outcome = run_with({.reordering = 0.2});
    CHECK(outcome.sequences.size() == 2000);
    CHECK_FALSE(ascending(outcome.sequences));
    CHECK(outcome.damaged == 0);
  }
}

TEST_CASE("sim: time is virtual and follows latency and bandwidth") {
  Pair<Sim> pair(true, SimOptions{.latency = 1ms, .latency_jitter = 0ns, .bytes_per_second = 1e9});
  const TimePoint begin = pair.world.world.clock().now();
  REQUIRE(pair.ta->send(pair.a.link(), make_frame(0, {1'000'000})).ok());
  REQUIRE(pair.until([&] { return pair.b.frames.size() == 1; }));
  const Duration took = pair.world.world.clock().now() - begin;
  CHECK(took >= 2ms);  // 1 ms on the way, 1 ms for 1 MB
  CHECK(took < 2100us);
}

TEST_CASE("sim: a killed host is silent, and noticed after death_notice") {
  Pair<Sim> pair(true, SimOptions{.death_notice = 3ms});
  REQUIRE(pair.tb->send(pair.b.link(), make_frame(0)).ok());
  pair.tb->send_control(pair.b.link(), {});
  pair.world.world.kill("b");
  const TimePoint begin = pair.world.world.clock().now();
  REQUIRE(pair.until([&] { return pair.a.closed() == 1; }));
  const Duration took = pair.world.world.clock().now() - begin;
  CHECK(took >= 3ms);
  CHECK(took < 4ms);
  CHECK(pair.a.links[pair.a.link()].closed[0].code == Code::kUnavailable);
  CHECK(pair.a.frames.empty());  // what was under way is lost
  CHECK(pair.a.links[pair.a.link()].control.empty());
  CHECK(pair.b.closed() == 0);
  const LinkId again = pair.ta->dial(pair.address).value();
  REQUIRE(pair.until([&] { return !pair.a.links[again].closed.empty(); }));

  // The host can come back with a new process.
  Peer reborn;
  const auto transport = pair.world.make(pair.world.b, "b");
  reborn.transport = transport.get();
  transport->set_events(reborn);
  REQUIRE(transport->listen(pair.address).ok());
  const LinkId later = pair.ta->dial(pair.address).value();
  REQUIRE(pair.until([&] { return pair.a.links[later].open && reborn.open(); }));
}

TEST_CASE("sim: a stopped host finds everything waiting when it goes on") {
  Pair<Sim> pair;
  pair.world.world.stop("b");
  for (std::uint64_t i = 0; i < 10; ++i) REQUIRE(pair.ta->send(pair.a.link(), make_frame(i)).ok());
  pair.settle(1s);
  CHECK(pair.b.frames.empty());
  CHECK(pair.a.closed() == 0);
  pair.world.world.resume("b");
  REQUIRE(pair.until([&] { return pair.b.frames.size() == 10; }, 1ms));
  CHECK(pair.b.in_order());
}

TEST_CASE("sim: a cut loses data and holds control back until it is mended") {
  Pair<Sim> pair;
  pair.world.world.set_partition("b", "a", true);
  const std::byte word{42};
  pair.ta->send_control(pair.a.link(), std::span(&word, 1));
  REQUIRE(pair.ta->send(pair.a.link(), make_frame(0)).ok());
  const LinkId dialled = pair.ta->dial(pair.address).value();
  const TimePoint begin = pair.world.world.clock().now();
  REQUIRE(pair.until([&] { return !pair.a.links[dialled].closed.empty(); }));
  CHECK(pair.world.world.clock().now() - begin >= 5s);  // as connecting to a silent host
  auto& control = pair.b.links[pair.b.link()].control;
  CHECK(control.empty());
  CHECK(pair.b.frames.empty());
  pair.world.world.set_partition("a", "b", false);
  REQUIRE(pair.until([&] { return control.size() == 1; }, 1ms));
  CHECK(control[0] == std::vector<std::byte>{word});
  REQUIRE(pair.ta->send(pair.a.link(), make_frame(1)).ok());
  REQUIRE(pair.until([&] { return pair.b.frames.size() == 1; }, 1ms));
  CHECK(pair.b.frames[0].sequence == 1);
}

TEST_CASE("sim: a world with nothing to do says so, and time stands where it was told") {
  SimWorld world;
  const TimePoint until = world.clock().now() + 5s;
  CHECK_FALSE(world.step(until));
  CHECK(world.clock().now() == until);
  CHECK_FALSE(world.run_until([] { return false; }, until + 1s));
  CHECK(world.clock().now() == until + 1s);
}

}  // namespace troupe::rpc::contract
