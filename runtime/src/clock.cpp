#include <troupe/runtime/clock.hpp>

#include <time.h>
#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include <cassert>

namespace troupe {

TimePoint RealClock::now() const {
  timespec time{};
  clock_gettime(CLOCK_MONOTONIC, &time);
  return {time.tv_sec * 1'000'000'000LL + time.tv_nsec};
}

bool processor_ticks_tell_time() {
#if defined(__x86_64__)
  // "Invariant TSC": Intel's manual, volume 3, 18.17.1; AMD's, volume 3, function 8000_0007h.
  constexpr unsigned kPowerManagement = 0x80000007;
  constexpr unsigned kInvariant = 1U << 8;
  unsigned a = 0, b = 0, c = 0, d = 0;
  static const bool invariant = __get_cpuid(kPowerManagement, &a, &b, &c, &d) != 0 && (d & kInvariant) != 0;
  return invariant;
#else
  return false;
#endif
}

void SimClock::advance_to(TimePoint t) {
  assert(t >= now_);
  now_ = t;
}

}  // namespace troupe
