#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <string_view>
#include <tuple>
#include <unordered_map>
#include <vector>

#include <troupe/rpc/by_hash.hpp>
#include <troupe/rpc/codec.hpp>
#include <troupe/runtime/clock.hpp>
#include <troupe/runtime/error.hpp>
#include <troupe/runtime/loop.hpp>

namespace troupe::rpc {

/// Which end of a call counts it.
enum class CallSide : std::uint8_t { kClient, kServer };

/// Upper bounds of the buckets of durations, in ns: 1 µs, 2 µs, 5 µs ... 100 s. One more bucket has what is
/// above them.
inline constexpr std::size_t kDurationBounds = 25;
const std::array<std::int64_t, kDurationBounds>& duration_bounds();

/// What one end has counted of the calls of one function since it started. A plain value.
struct FunctionMetrics {
  std::string function;  ///< the method's name; "0x..." if only its hash is known
  CallSide side = CallSide::kClient;
  std::uint64_t calls = 0;      ///< begun
  std::uint64_t in_flight = 0;  ///< begun and not ended
  std::uint64_t waiting = 0;    ///< of these, those that wait for room on the way to a peer; clients only
  std::uint64_t retries = 0;    ///< attempts beyond each call's first; clients only
  std::uint64_t bytes_sent = 0, bytes_received = 0;  ///< envelopes and attachments
  std::vector<std::uint64_t> ended;                  ///< by Code; without trailing zeros
  std::vector<std::uint64_t> durations;              ///< in each bucket; without trailing zeros
  std::int64_t duration_ns = 0;                      ///< their sum
  std::int64_t open_ns = 0;  ///< how long at least one was in flight: what overlaps counts once

  std::uint64_t ended_in_all() const;
  std::uint64_t errors() const;  ///< ended otherwise than in a value
};

/// The duration in ns that `fraction` (0..1) of all are not above, from counts in buckets, between the bounds
/// of the bucket in proportion; 0 if there are none, the last bound if it is above that.
double duration_percentile(const std::vector<std::uint64_t>& buckets, double fraction);

namespace detail {

/// One function's counters, at one end. What each call touches lies in one cache line.
struct alignas(64) CallSeries {
  std::uint64_t bytes_sent = 0, bytes_received = 0;
  TimePoint timed_at{-1'000'000'000'000};  // long ago
  std::int64_t short_ns = 0;               // the last short call that was timed
  TimePoint opened_at;                     // the first of those that are open began
  std::uint32_t open = 0;                  // begun and not ended
  std::uint8_t untimed = 0;                // short ones since
  std::uint8_t untimed_alone = 0;          // of these, those with which no long one was open
  std::array<std::uint64_t, 17> ended{};   // by Code
  std::array<std::uint64_t, kDurationBounds + 1> durations{};
  std::int64_t duration_ns = 0;
  std::int64_t open_ns = 0;  // while some were open, until counted_at
  TimePoint counted_at{-1'000'000'000'000};
  std::uint64_t retries = 0;
  std::uint64_t waiting = 0;  // for room on the way to a peer
  std::uint64_t method = 0;
  std::string name;
};

/// What a call carries until it ends. Without a series it is not counted.
struct MeteredCall {
  CallSeries* series = nullptr;
  TimePoint begun;
  Code code = Code::kOk;  // how it is about to end

  void sent(std::size_t bytes) const {
    if (series) series->bytes_sent += bytes;
  }
};

}  // namespace detail

/// Counts an endpoint's calls by function and side. Costs no lock, no allocation after a function's first
/// call, and seldom a look at the clock: of calls shorter than about 10 µs one in 32 is timed, and
/// stands for those since the one before; longer ones are timed by the loop's now(). Counts are always exact.
/// With the loop's turn.
class CallMetrics {
 public:
  /// Functions on each side; what is called beyond is counted together, as "other".
  static constexpr std::size_t kMaxFunctions = 1024;

  explicit CallMetrics(const Loop& loop) : loop_(loop) {}
  CallMetrics(const CallMetrics&) = delete;
  CallMetrics& operator=(const CallMetrics&) = delete;

  /// A method's name, for the functions known by its hash.
  void learn(std::string_view name);
  /// The same for who tells it each time.
  void learn_once(std::string_view name) {
    if (!knows(fnv1a(name))) learn(name);
  }
  bool knows(std::uint64_t method) const { return names_.contains(method); }

  /// `name()`, a std::string that ends with ".method", or with the method's name, is asked for when the
  /// function is new and its name not known yet.
  template <class Name>
  detail::CallSeries& series(CallSide side, std::uint64_t method, Name&& name) {
    Side& here = sides_[static_cast<std::size_t>(side)];
    if (detail::CallSeries* known = here.find(method)) [[likely]]
      return *known;
    if (!knows(method)) learn_of(method, name());
    return here.add(method);
  }
  /// A call begins. `now` may lie some microseconds back: one that will be timed has the clock's own time.
  template <class Name>
  detail::MeteredCall begin(CallSide side, std::uint64_t method, TimePoint now, Name&& name) {
    detail::CallSeries& found = series(side, method, name);
    return open(found, is_due(found) ? loop_.clock().now() : now);
  }
  /// A call of the server's side has come. The round in which it is found may have begun long ago, if others
  /// had the core meanwhile.
  detail::MeteredCall arrive(std::uint64_t method) {
    detail::CallSeries& found = series(CallSide::kServer, method, [] { return std::string(); });
    return open(found, deserves_clock(found) ? loop_.clock().now() : loop_.now());
  }
  /// It ends with `call.code`. Precondition: it has a series, and has not ended before.
  void end(const detail::MeteredCall& call) {
    detail::CallSeries& series = *call.series;
    ++series.ended[std::min<std::size_t>(static_cast<std::size_t>(call.code), series.ended.size() - 1)];
    const TimePoint now = loop_.now();
    const Duration seen = now - call.begun;
    const bool due = is_due(series);
    --series.open;
    if (seen < kLong && !due) {
      ++series.untimed;
      if (series.open > 0) return;
      if (now - series.opened_at < kLong)
        ++series.untimed_alone;
      else
        count_open(series, now);  // a long one was open with it
    } else {
      record(series, call, seen, due);
    }
  }

  /// All functions called so far, by name, clients first.
  std::vector<FunctionMetrics> snapshot();

 private:
  /// From here on the loop's now() is exact enough.
  static constexpr Duration kLong = std::chrono::microseconds(10);
  /// Of shorter calls so many in a row may go untimed, for so long.
  static constexpr std::uint8_t kMostUntimed = 31;
  static constexpr Duration kLongestUntimed = std::chrono::microseconds(50);

  bool is_due(const detail::CallSeries& series) const {
    return series.untimed >= kMostUntimed || deserves_clock(series);
  }
  /// Whether calls of the series are rare or long enough for a look at the clock with each. What seems short
  /// may be a handler that holds the loop, whose now() then stands still.
  bool deserves_clock(const detail::CallSeries& series) const {
    return loop_.now() - series.timed_at >= kLongestUntimed || series.short_ns >= kLong.count();
  }
  /// Adds the time until now in which calls were open.
  static void count_open(detail::CallSeries& series, TimePoint now);
  static detail::MeteredCall open(detail::CallSeries& series, TimePoint now) {
    if (series.open++ == 0) series.opened_at = now;
    return {&series, now};
  }

  /// The series of one side.
  class Side {
   public:
    /// Null if there is none.
    detail::CallSeries* find(std::uint64_t method) const { return by_method_.find(method); }
    /// Precondition: there is none.
    detail::CallSeries& add(std::uint64_t method);
    std::deque<detail::CallSeries>& all() { return all_; }

   private:
    detail::ByHash<detail::CallSeries> by_method_;
    std::deque<detail::CallSeries> all_;
    detail::CallSeries* other_ = nullptr;  // not in by_method_
  };

  void learn_of(std::uint64_t method, std::string_view what);
  void record(detail::CallSeries& series, const detail::MeteredCall& call, Duration seen, bool due);

  const Loop& loop_;
  std::unordered_map<std::uint64_t, std::string> names_;
  std::array<Side, 2> sides_;
};

}  // namespace troupe::rpc

template <>
struct troupe::rpc::Fields<troupe::rpc::FunctionMetrics> {
  using T = troupe::rpc::FunctionMetrics;
  static constexpr std::string_view name = "FunctionMetrics";
  static constexpr auto fields =
      std::tuple(&T::function, &T::side, &T::calls, &T::in_flight, &T::waiting, &T::retries, &T::bytes_sent,
                 &T::bytes_received, &T::ended, &T::durations, &T::duration_ns, &T::open_ns);
};
