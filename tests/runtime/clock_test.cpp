#include <troupe/runtime/clock.hpp>

#include <doctest/doctest.h>

using namespace troupe;
using namespace std::chrono_literals;

TEST_CASE("real time does not go back") {
  const RealClock clock;
  TimePoint last = clock.now();
  for (int i = 0; i < 1000; ++i) {
    const TimePoint now = clock.now();
    CHECK(now >= last);
    last = now;
  }
}

TEST_CASE("virtual time stands still until told to move") {
  SimClock clock;
  CHECK(clock.now() == TimePoint{0});
  clock.advance_to(TimePoint{5});
  CHECK(clock.now() == TimePoint{5});
}

TEST_CASE("adding to a time saturates at never") {
  CHECK(TimePoint::never() + 1h == TimePoint::never());
  CHECK(TimePoint{7} + Duration::max() == TimePoint::never());
  CHECK(TimePoint{7} + 3ns == TimePoint{10});
  CHECK(TimePoint{7} - TimePoint{3} == 4ns);
}
