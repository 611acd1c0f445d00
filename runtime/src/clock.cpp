#include <troupe/runtime/clock.hpp>

#include <time.h>

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
  constexpr unsigned kMostFunctions = 0x80000000, kPowerManagement = 0x80000007;
  constexpr unsigned kInvariant = 1U << 8;
  static const bool invariant = [] {
    const auto ask = [](unsigned function, unsigned& last) {
      unsigned a = function, b = 0, c = 0;
      asm("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(last));
      return a;
    };
    unsigned d = 0;
    return ask(kMostFunctions, d) >= kPowerManagement && (ask(kPowerManagement, d), (d & kInvariant) != 0);
  }();
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
