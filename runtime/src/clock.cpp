#include <troupe/runtime/clock.hpp>

#include <time.h>

#include <cassert>

namespace troupe {

TimePoint RealClock::now() const {
  timespec time{};
  clock_gettime(CLOCK_MONOTONIC, &time);
  return {time.tv_sec * 1'000'000'000LL + time.tv_nsec};
}

void SimClock::advance_to(TimePoint t) {
  assert(t >= now_);
  now_ = t;
}

}  // namespace troupe
