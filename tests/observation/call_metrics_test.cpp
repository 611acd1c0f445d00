// Counting calls without an endpoint, in simulated time.
#include <doctest/doctest.h>

#include <numeric>
#include <vector>

#include <troupe/rpc/call_metrics.hpp>
#include <troupe/runtime/loop.hpp>

using namespace troupe;
using namespace troupe::rpc;
using namespace std::chrono_literals;

namespace {

/// Counts calls of `method` on a clock that the test moves.
struct Counted {
  SimClock clock;
  Loop loop{clock};
  Loop::Turn turn{loop};
  CallMetrics metrics{loop};

  /// One call that takes so long; the loop sees the time at its end if `seen`.
  void call(const std::string& what, Duration took, bool seen = true, Code code = Code::kOk) {
    auto call = metrics.begin(CallSide::kClient, fnv1a(what.substr(what.rfind('.') + 1)), loop.refresh_now(),
                              [&] { return what; });
    clock.advance_to(clock.now() + took);
    if (seen) loop.refresh_now();
    call.code = code;
    metrics.end(call);
  }
  FunctionMetrics only() {
    const auto all = metrics.snapshot();
    REQUIRE(all.size() == 1);
    return all.front();
  }
};

std::uint64_t sum_of(const std::vector<std::uint64_t>& counts) {
  return std::accumulate(counts.begin(), counts.end(), std::uint64_t{0});
}

}  // namespace

TEST_CASE("call metrics: bounds of durations are 1, 2 and 5 of each decade from 1 µs to 100 s") {
  const auto& bounds = duration_bounds();
  CHECK(bounds.front() == 1'000);
  CHECK(bounds[1] == 2'000);
  CHECK(bounds[2] == 5'000);
  CHECK(bounds[3] == 10'000);
  CHECK(bounds.back() == 100'000'000'000);
}

TEST_CASE("call metrics: calls are counted by name, with their ends by code") {
  Counted counted;
  counted.call("ps0.pull", 20us);
  counted.call("ps1.pull", 20us, true, Code::kUnavailable);
  const FunctionMetrics pull = counted.only();
  CHECK(pull.function == "pull");
  CHECK(pull.calls == 2);
  CHECK(pull.in_flight == 0);
  CHECK(pull.errors() == 1);
  REQUIRE(pull.ended.size() == 15);
  CHECK(pull.ended[14] == 1);
}

TEST_CASE("call metrics: a call that has not ended is in flight") {
  Counted counted;
  (void)counted.metrics.begin(CallSide::kServer, fnv1a("push"), counted.loop.now(),
                              [] { return std::string(); });
  counted.metrics.learn("push");
  const FunctionMetrics push = counted.only();
  CHECK(push.function == "push");
  CHECK(push.side == CallSide::kServer);
  CHECK(push.in_flight == 1);
  CHECK(sum_of(push.durations) == 0);
}

TEST_CASE("call metrics: long calls are timed one by one") {
  Counted counted;
  for (int i = 0; i < 20; ++i) counted.call("slow", 30us);
  counted.call("slow", 3ms);
  const FunctionMetrics slow = counted.only();
  CHECK(slow.duration_ns == 20 * 30'000 + 3'000'000);
  REQUIRE(slow.durations.size() == 12);  // 3 ms is above 2 ms, and up to 5 ms
  CHECK(slow.durations[5] == 20);        // 30 µs: above 20, up to 50
  CHECK(slow.durations[11] == 1);
}

TEST_CASE("call metrics: of short calls some are timed, and stand for all") {
  Counted counted;
  for (int i = 0; i < 1000; ++i) counted.call("short", 1500ns, false);
  const FunctionMetrics brief = counted.only();
  CHECK(brief.calls == 1000);
  CHECK(sum_of(brief.durations) == 1000);
  REQUIRE(brief.durations.size() == 2);
  CHECK(brief.durations[1] == 1000);
  CHECK(brief.duration_ns == 1000 * 1500);
}

TEST_CASE("call metrics: a call that is timed begins when it begins, however old the loop's time is") {
  Counted counted;
  for (int i = 0; i < 1000; ++i) {
    counted.clock.advance_to(counted.clock.now() + 3us);  // between the calls
    auto call = counted.metrics.begin(CallSide::kClient, fnv1a("short"), counted.loop.now(),
                                      [] { return std::string("short"); });
    counted.clock.advance_to(counted.clock.now() + 1us);
    counted.metrics.end(call);
    if (i % 3 == 0) counted.loop.refresh_now();
  }
  CHECK(counted.only().duration_ns == 1000 * 1000);
}

TEST_CASE("call metrics: while calls overlap, time counts once; between them, not at all") {
  Counted counted;
  const auto begin = [&] {
    return counted.metrics.begin(CallSide::kClient, fnv1a("pull"), counted.loop.refresh_now(),
                                 [] { return std::string("ps0.pull"); });
  };
  const auto pass = [&](Duration time) {
    counted.clock.advance_to(counted.clock.now() + time);
    counted.loop.refresh_now();
  };
  const auto first = begin();
  pass(2ms);
  const auto second = begin();
  pass(3ms);
  counted.metrics.end(first);
  CHECK(counted.only().open_ns == 5'000'000);  // the second still is
  pass(1ms);
  counted.metrics.end(second);
  CHECK(counted.only().open_ns == 6'000'000);
  CHECK(counted.only().duration_ns == 9'000'000);
  pass(7ms);
  counted.call("pull", 2ms);
  CHECK(counted.only().open_ns == 8'000'000);
}

TEST_CASE("call metrics: a long call's time counts, also if a short one that is not timed ends last") {
  Counted counted;
  for (int i = 0; i < 3; ++i) counted.call("pull", 1us);  // the others are not timed
  const auto begin = [&] {
    return counted.metrics.begin(CallSide::kClient, fnv1a("pull"), counted.loop.refresh_now(),
                                 [] { return std::string("pull"); });
  };
  const auto slow = begin();
  counted.clock.advance_to(counted.clock.now() + 5ms);
  const auto quick = begin();
  const std::int64_t meanwhile = counted.only().open_ns;
  CHECK(meanwhile == 5'003'000);
  counted.metrics.end(slow);
  counted.clock.advance_to(counted.clock.now() + 1us);
  counted.loop.refresh_now();
  counted.metrics.end(quick);
  CHECK(counted.only().open_ns == 5'004'000);
}

TEST_CASE("call metrics: the time in which calls were open never goes back from one snapshot to the next") {
  Counted counted;
  counted.call("pull", 1us);
  auto call = counted.metrics.begin(CallSide::kClient, fnv1a("pull"), counted.loop.refresh_now(),
                                    [] { return std::string("pull"); });
  counted.clock.advance_to(counted.clock.now() + 8us);
  counted.loop.refresh_now();
  const std::int64_t before = counted.only().open_ns;
  CHECK(before == 9'000);
  counted.metrics.end(call);  // not timed: the short one before stands for it
  CHECK(counted.only().open_ns >= before);
}

TEST_CASE(
    "call metrics: of calls that came in one round and are answered in turn, none's time counts twice") {
  Counted counted;
  counted.metrics.learn("push");
  counted.loop.refresh_now();
  std::vector<rpc::detail::MeteredCall> calls;
  calls.reserve(3);
  for (int i = 0; i < 3; ++i) calls.push_back(counted.metrics.arrive(fnv1a("push")));
  for (const auto& call : calls) {
    counted.clock.advance_to(counted.clock.now() + 1ms);  // the loop does not look
    counted.metrics.end(call);
  }
  CHECK(counted.only().duration_ns == 6'000'000);  // the third has waited for two
  CHECK(counted.only().open_ns == 3'000'000);
}

TEST_CASE("call metrics: a call that comes is timed from then on, though its round began long before") {
  Counted counted;
  counted.metrics.learn("push");
  counted.loop.refresh_now();
  counted.clock.advance_to(counted.clock.now() + 5ms);  // others had the core
  const auto call = counted.metrics.arrive(fnv1a("push"));
  counted.clock.advance_to(counted.clock.now() + 1ms);
  counted.metrics.end(call);
  CHECK(counted.only().duration_ns == 1'000'000);
  CHECK(counted.only().open_ns == 1'000'000);
}

TEST_CASE("call metrics: handlers that hold the loop in one round are timed one by one") {
  Counted counted;
  counted.metrics.learn("push");
  counted.loop.refresh_now();
  for (const auto took : {5ms, 1ms, 2ms}) {
    const auto call = counted.metrics.arrive(fnv1a("push"));
    counted.clock.advance_to(counted.clock.now() + took);
    counted.metrics.end(call);
  }
  CHECK(counted.only().duration_ns == 8'000'000);
  CHECK(counted.only().open_ns == 8'000'000);
}

TEST_CASE("call metrics: short calls that were not timed are taken to be as long as one that was") {
  Counted counted;
  for (int i = 0; i < 1000; ++i) counted.call("short", 1500ns, false);
  CHECK(counted.only().open_ns == 1000 * 1500);
}

TEST_CASE(
    "call metrics: a handler that holds the loop is timed though the loop has not looked at its clock") {
  Counted counted;
  counted.call("hold", 5ms, false);
  const FunctionMetrics hold = counted.only();
  CHECK(hold.duration_ns == 5'000'000);
}

TEST_CASE("call metrics: past the bound functions are counted together") {
  Counted counted;
  const std::size_t many = CallMetrics::kMaxFunctions + 100;
  for (std::size_t i = 0; i < many; ++i) counted.call("f" + std::to_string(i), 1us);
  const auto all = counted.metrics.snapshot();
  CHECK(all.size() == CallMetrics::kMaxFunctions + 1);
  std::uint64_t calls = 0;
  std::uint64_t others = 0;
  for (const auto& each : all) {
    calls += each.calls;
    if (each.function == "other") others += each.calls;
  }
  CHECK(calls == many);
  CHECK(others == 100);
}

TEST_CASE("call metrics: a function whose name nobody told is shown by its hash") {
  Counted counted;
  (void)counted.metrics.begin(CallSide::kServer, 0x12, counted.loop.now(), [] { return std::string(); });
  CHECK(counted.only().function == "0x0000000000000012");
}

TEST_CASE("call metrics: percentiles lie within the bucket in proportion") {
  std::vector<std::uint64_t> buckets{0, 100};  // 1 to 2 µs
  CHECK(duration_percentile(buckets, 0.5) == doctest::Approx(1500));
  CHECK(duration_percentile({}, 0.5) == 0);
  buckets.assign(kDurationBounds + 1, 0);
  buckets.back() = 1;
  CHECK(duration_percentile(buckets, 0.99) == 100e9);
}

TEST_CASE("loop times: what a loop spends adds up to its age, by what it did") {
  SimClock clock;
  Loop loop(clock, {.idle = [&](TimePoint until) { clock.advance_to(std::min(until, clock.now() + 4ms)); }});
  const TimePoint start = clock.now();
  bool ran = false;
  loop.post([&] {
    clock.advance_to(clock.now() + 3ms);  // it works
    ran = true;
  });
  loop.wait_until([&] { return ran && clock.now() - start >= 15ms; }, start + 1s);
  const Loop::Turn turn(loop);
  const Loop::Stats& stats = loop.stats();
  Duration all{0};
  for (const Duration each : stats.spent) all += each;
  CHECK(all == loop.now() - start);
  CHECK(stats.time(Loop::Spent::kBusy) == 3ms);
  CHECK(stats.time(Loop::Spent::kAsleep) >= 8ms);
}
