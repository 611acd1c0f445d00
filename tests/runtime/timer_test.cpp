#include <troupe/runtime/timer.hpp>

#include <algorithm>
#include <memory>
#include <vector>

#include <doctest/doctest.h>
#include <troupe/runtime/random.hpp>

using namespace troupe;
using namespace std::chrono_literals;

namespace {

constexpr std::int64_t kTick = 1024;

struct Fired {
  TimePoint due;
  std::uint64_t order;
};

/// A node that notes that it fired. `order` is the order of scheduling, by which equal times are told.
struct Noting final : TimerNode {
  explicit Noting(std::vector<Fired>& l) : log(l) {}
  void on_timer() override { log.push_back({due(), order}); }
  std::vector<Fired>& log;
  std::uint64_t order = 0;
};

/// Extents from a nanosecond to centuries, each magnitude as likely.
std::int64_t any_magnitude(Random& random) {
  return static_cast<std::int64_t>(random() >> (1 + random.below(63)));
}

}  // namespace

TEST_CASE("a timer fires at its exact time, not before") {
  TimerWheel wheel(TimePoint{0});
  int fired = 0;
  Timer timer([&] { ++fired; });
  for (const std::int64_t due :
       {std::int64_t{1}, kTick - 1, kTick, kTick + 1, 64 * kTick, 64 * kTick + 5, 1'000'000'007L}) {
    fired = 0;
    wheel.schedule(timer, TimePoint{due});
    CHECK(wheel.next_due() == TimePoint{due});
    CHECK(wheel.advance(TimePoint{due - 1}) == 0);
    CHECK(wheel.advance(TimePoint{due}) == 1);
    CHECK(fired == 1);
    CHECK_FALSE(timer.scheduled());
  }
  CHECK(wheel.empty());
  CHECK(wheel.next_due() == TimePoint::never());
}

TEST_CASE("timers behave like a sorted list under random scheduling, cancelling and advancing") {
  for (std::uint64_t seed = 1; seed <= 20; ++seed) {
    CAPTURE(seed);
    Random random(seed);
    TimePoint now{static_cast<std::int64_t>(random() >> 24)};
    TimerWheel wheel(now);
    std::vector<Fired> fired;
    std::vector<std::unique_ptr<Noting>> nodes;
    nodes.reserve(200);
    for (int i = 0; i < 200; ++i) nodes.push_back(std::make_unique<Noting>(fired));
    std::uint64_t order = 0;
    for (int step = 0; step < 3000; ++step) {
      Noting& node = *nodes[random.below(nodes.size())];
      if (random.chance(0.6)) {
        const std::int64_t delay = any_magnitude(random) - (random.chance(0.1) ? 3000 : 0);
        wheel.schedule(node, now + Duration(delay));
        node.order = ++order;
      } else if (random.chance(0.5)) {
        wheel.cancel(node);
        REQUIRE_FALSE(node.scheduled());
      } else {
        now = now + Duration(any_magnitude(random) >> 14);
        std::vector<Fired> expected;
        for (const auto& each : nodes) {
          if (each->scheduled() && each->due() <= now) expected.push_back({each->due(), each->order});
        }
        std::ranges::sort(expected, [](const Fired& a, const Fired& b) {
          return a.due != b.due ? a.due < b.due : a.order < b.order;
        });
        fired.clear();
        REQUIRE(wheel.advance(now) == static_cast<int>(expected.size()));
        for (std::size_t i = 0; i < expected.size(); ++i) REQUIRE(fired[i].order == expected[i].order);
      }
      TimePoint earliest = TimePoint::never();
      for (const auto& each : nodes) {
        if (each->scheduled()) earliest = std::min(earliest, each->due());
      }
      REQUIRE(wheel.next_due() == earliest);
    }
  }
}

TEST_CASE("timers that move and cancel others from inside, and advance again, fire in time and once") {
  for (std::uint64_t seed = 1; seed <= 20; ++seed) {
    CAPTURE(seed);
    Random random(seed);
    TimePoint now{static_cast<std::int64_t>(random() >> 24)};
    TimerWheel wheel(now);
    std::vector<Timer> timers(50);
    const auto some_time = [&] { return now + Duration(any_magnitude(random) >> random.below(40)); };
    const auto any = [&]() -> Timer& { return timers[random.below(timers.size())]; };
    int fired = 0;
    int depth = 0;
    for (Timer& timer : timers)
      timer.set([&] {
        ++fired;
        REQUIRE_FALSE(timer.scheduled());
        REQUIRE(timer.due() <= now);
        if (random.chance(0.8)) wheel.schedule(timer, some_time());
        if (random.chance(0.5)) wheel.schedule(any(), some_time());
        if (random.chance(0.3)) wheel.cancel(any());
        if (depth > 3 || !random.chance(0.1)) return;
        ++depth;
        now = now + Duration(static_cast<std::int64_t>(random.below(5 * kTick)));
        wheel.advance(now);
        --depth;
      });
    for (int step = 0; step < 3000; ++step) {
      if (random.chance(0.3)) wheel.schedule(any(), some_time());
      // Steps far below a tick, and some far above the next timer.
      now = now + Duration(random.chance(0.9) ? static_cast<std::int64_t>(random.below(2 * kTick))
                                              : any_magnitude(random) >> 20);
      wheel.advance(now);
      // What was scheduled from inside for a time that has come is left for the next advance.
      for (int rounds = 0; wheel.next_due() <= now; ++rounds) {
        REQUIRE(rounds < 1000);
        REQUIRE(wheel.advance(now) > 0);
      }
      TimePoint earliest = TimePoint::never();
      for (const Timer& timer : timers)
        if (timer.scheduled()) earliest = std::min(earliest, timer.due());
      REQUIRE(wheel.next_due() == earliest);
    }
    CHECK(fired > 1000);
  }
}

TEST_CASE("a timer later than the wheel reaches fires in its time") {
  TimerWheel wheel(TimePoint{12345});
  std::vector<Fired> fired;
  Noting year(fired);
  Noting century(fired);
  Noting forever(fired);
  const TimePoint in_a_year = TimePoint{12345} + 24h * 365;
  const TimePoint in_a_century = TimePoint{12345} + 24h * 36500;
  wheel.schedule(century, in_a_century);
  wheel.schedule(year, in_a_year);
  wheel.schedule(forever, TimePoint::never());
  CHECK(wheel.next_due() == in_a_year);
  CHECK(wheel.advance(in_a_year + Duration(-1)) == 0);
  CHECK(wheel.advance(in_a_year) == 1);
  CHECK(wheel.next_due() == in_a_century);
  CHECK(wheel.advance(in_a_century) == 1);
  CHECK(forever.scheduled());
}

TEST_CASE("a timer that reschedules itself for now fires once in each advance") {
  TimerWheel wheel(TimePoint{0});
  int fired = 0;
  Timer timer;
  timer.set([&] {
    ++fired;
    wheel.schedule(timer, TimePoint{0});
  });
  wheel.schedule(timer, TimePoint{10});
  CHECK(wheel.advance(TimePoint{5'000'000}) == 1);
  CHECK(wheel.advance(TimePoint{5'000'000}) == 1);
  CHECK(fired == 2);
}

TEST_CASE("a periodic timer keeps its times") {
  TimerWheel wheel(TimePoint{0});
  std::vector<std::int64_t> times;
  Timer timer;
  timer.set([&] {
    times.push_back(timer.due().ns);
    wheel.schedule(timer, timer.due() + 1ms);
  });
  wheel.schedule(timer, TimePoint{0} + 1ms);
  for (std::int64_t now = 0; now <= 10'000'000; now += 700) wheel.advance(TimePoint{now});
  CHECK(times == std::vector<std::int64_t>{1'000'000, 2'000'000, 3'000'000, 4'000'000, 5'000'000, 6'000'000,
                                           7'000'000, 8'000'000, 9'000'000});
}

TEST_CASE("a timer may cancel, move and destroy others that are due in the same advance") {
  TimerWheel wheel(TimePoint{0});
  std::vector<int> fired;
  Timer cancelled([&] { fired.push_back(1); });
  Timer moved([&] { fired.push_back(2); });
  auto destroyed = std::make_unique<Timer>([&] { fired.push_back(3); });
  Timer first([&] {
    fired.push_back(0);
    wheel.cancel(cancelled);
    wheel.schedule(moved, TimePoint{9'000'000});
    destroyed.reset();
  });
  wheel.schedule(first, TimePoint{100});
  wheel.schedule(cancelled, TimePoint{200});
  wheel.schedule(moved, TimePoint{300});
  wheel.schedule(*destroyed, TimePoint{2'000'000});
  CHECK(wheel.advance(TimePoint{3'000'000}) == 1);
  CHECK(fired == std::vector<int>{0});
  CHECK(wheel.advance(TimePoint{9'000'000}) == 1);
  CHECK(fired == std::vector<int>{0, 2});
}

TEST_CASE("an advance inside a timer fires the rest, once") {
  TimerWheel wheel(TimePoint{0});
  std::vector<int> fired;
  Timer second([&] { fired.push_back(2); });
  Timer first([&] {
    fired.push_back(1);
    wheel.advance(TimePoint{50'000});
    fired.push_back(3);
  });
  wheel.schedule(second, TimePoint{20'000});
  wheel.schedule(first, TimePoint{10'000});
  CHECK(wheel.advance(TimePoint{30'000}) == 1);
  CHECK(fired == std::vector<int>{1, 2, 3});
}

TEST_CASE("many timers of one tick fire in the order of their times") {
  Random random(4);
  TimerWheel wheel(TimePoint{0});
  std::vector<Fired> fired;
  std::vector<std::unique_ptr<Noting>> nodes;
  for (int i = 0; i < 5000; ++i) {
    nodes.push_back(std::make_unique<Noting>(fired));
    wheel.schedule(*nodes.back(), TimePoint{kTick * 100 + random.between(0, kTick - 1)});
  }
  // Not all in one advance: a loop looks at its sources in between.
  for (int advance = 0; advance < 9; ++advance) CHECK(wheel.advance(TimePoint{kTick * 101}) == 512);
  CHECK(wheel.advance(TimePoint{kTick * 101}) == 392);
  CHECK(fired.size() == 5000);
  CHECK(std::ranges::is_sorted(fired, {}, &Fired::due));
}

TEST_CASE("a timer may outlive its wheel") {
  Timer timer([] {});
  {
    TimerWheel wheel(TimePoint{0});
    wheel.schedule(timer, TimePoint{1000});
    CHECK(timer.scheduled());
  }
  CHECK_FALSE(timer.scheduled());
}
