#pragma once

#include <chrono>
#include <cstdint>

namespace troupe {

using Duration = std::chrono::nanoseconds;

/// A point of some Clock's time, in nanoseconds since that clock's start. Comparable only within one
/// process: what travels between nodes is a remaining Duration.
struct TimePoint {
  std::int64_t ns = 0;

  static constexpr TimePoint never() { return {INT64_MAX}; }
  friend auto operator<=>(const TimePoint&, const TimePoint&) = default;
  /// Saturates at never().
  friend TimePoint operator+(TimePoint t, Duration d) {
    return d.count() > INT64_MAX - t.ns ? never() : TimePoint{t.ns + d.count()};
  }
  friend Duration operator-(TimePoint a, TimePoint b) { return Duration(a.ns - b.ns); }
};

/// The only source of time. Everything that waits or measures takes one, so that whole clusters can
/// run in virtual time. Any thread.
class Clock {
 public:
  virtual ~Clock() = default;
  virtual TimePoint now() const = 0;
  /// Whether it goes on by itself, as the processor's counter does: see processor_ticks().
  virtual bool is_real() const { return false; }
};

/// Monotonic real time.
class RealClock final : public Clock {
 public:
  TimePoint now() const override;
  bool is_real() const override { return true; }
};

/// The processor's counter, some steps a nanosecond; 0 where there is none. Costs a fraction of what a clock
/// does, which waits for what the processor has begun before.
inline std::uint64_t processor_ticks() {
#if defined(__x86_64__)
  return __builtin_ia32_rdtsc();
#else
  return 0;
#endif
}

/// Whether that counter goes at one pace always, on all cores alike.
bool processor_ticks_tell_time();

/// Virtual time: stands still until told to move. One thread.
class SimClock final : public Clock {
 public:
  TimePoint now() const override { return now_; }
  /// Precondition: `t` is not in the past.
  void advance_to(TimePoint t);

 private:
  TimePoint now_{};
};

}  // namespace troupe
