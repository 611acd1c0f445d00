#include <troupe/rpc/call_metrics.hpp>

#include <algorithm>
#include <numeric>

#include <troupe/runtime/loop.hpp>
#include <troupe/runtime/text.hpp>

#include "endpoint/core.hpp"

namespace troupe::rpc {

namespace {

constexpr std::string_view kOther = "other";
/// Names beyond are not kept.
constexpr std::size_t kMostNames = 1 << 14;

std::size_t bucket_of(std::int64_t ns) {
  const auto& bounds = duration_bounds();
  return static_cast<std::size_t>(std::lower_bound(bounds.begin(), bounds.end(), ns) - bounds.begin());
}

template <std::size_t N>
std::vector<std::uint64_t> without_zeros(const std::array<std::uint64_t, N>& counts) {
  std::vector<std::uint64_t> kept(counts.begin(), counts.end());
  while (!kept.empty() && kept.back() == 0) kept.pop_back();
  return kept;
}

}  // namespace

const std::array<std::int64_t, kDurationBounds>& duration_bounds() {
  static constexpr auto kBounds = [] {
    std::array<std::int64_t, kDurationBounds> bounds{};
    std::int64_t decade = 1000;
    for (std::size_t i = 0; i < kDurationBounds; ++i) {
      bounds[i] = decade * (i % 3 == 0 ? 1 : i % 3 == 1 ? 2 : 5);
      if (i % 3 == 2) decade *= 10;
    }
    return bounds;
  }();
  return kBounds;
}

std::uint64_t FunctionMetrics::ended_in_all() const {
  return std::accumulate(ended.begin(), ended.end(), std::uint64_t{0});
}

std::uint64_t FunctionMetrics::errors() const {
  return ended.empty() ? 0 : ended_in_all() - ended.front();
}

double duration_percentile(const std::vector<std::uint64_t>& buckets, double fraction) {
  const auto& bounds = duration_bounds();
  const auto all = static_cast<double>(std::accumulate(buckets.begin(), buckets.end(), std::uint64_t{0}));
  if (all == 0) return 0;
  const double wanted = std::clamp(fraction, 0.0, 1.0) * all;
  double below = 0;
  for (std::size_t i = 0; i < buckets.size() && i < kDurationBounds; ++i) {
    const auto here = static_cast<double>(buckets[i]);
    if (here > 0 && below + here >= wanted) {
      const double low = i == 0 ? 0 : static_cast<double>(bounds[i - 1]);
      return low + (static_cast<double>(bounds[i]) - low) * (wanted - below) / here;
    }
    below += here;
  }
  return static_cast<double>(bounds.back());
}

// ---- Names --------------------------------------------------------------------------------------

void CallMetrics::learn(std::string_view name) {
  if (names_.size() < kMostNames) names_.try_emplace(fnv1a(name), name);
}

void CallMetrics::learn_of(std::uint64_t method, std::string_view what) {
  const std::string_view name = what.substr(what.rfind('.') + 1);
  if (fnv1a(name) == method) learn(name);
}

// ---- Series -------------------------------------------------------------------------------------

detail::CallSeries& CallMetrics::Side::add(std::uint64_t method) {
  if (all_.size() >= kMaxFunctions) {
    if (!other_) {
      other_ = &all_.emplace_back();
      other_->name = kOther;
    }
    return *other_;
  }
  detail::CallSeries& made = all_.emplace_back();
  made.method = method;
  by_method_.add(method, made);
  return made;
}

// ---- Durations ----------------------------------------------------------------------------------

void CallMetrics::record(detail::CallSeries& series, const detail::MeteredCall& call, Duration seen,
                         bool due) {
  std::uint64_t times = 1;
  std::int64_t took = seen.count();
  if (due) {
    series.timed_at = loop_.clock().now();
    took = (series.timed_at - call.begun).count();
  }
  took = std::max<std::int64_t>(took, 0);
  if (seen < kLong) {
    times += std::exchange(series.untimed, std::uint8_t{0});
    series.open_ns += took * std::exchange(series.untimed_alone, std::uint8_t{0});
    series.short_ns = took;
  }
  series.durations[bucket_of(took)] += times;
  series.duration_ns += took * static_cast<std::int64_t>(times);
  if (series.open == 0) count_open(series, call.begun + Duration(took));
}

void CallMetrics::count_open(detail::CallSeries& series, TimePoint now) {
  // The first call may seem to have begun before those before it ended: the loop's now() can be old.
  const TimePoint from = std::max(series.opened_at, series.counted_at);
  if (now <= from) return;
  series.open_ns += (now - from).count();
  series.counted_at = now;
}

std::vector<FunctionMetrics> CallMetrics::snapshot() {
  std::vector<FunctionMetrics> all;
  for (const CallSide side : {CallSide::kClient, CallSide::kServer}) {
    for (detail::CallSeries& series : sides_[static_cast<std::size_t>(side)].all()) {
      // Those that no later call stands for yet.
      series.durations[bucket_of(series.short_ns)] += series.untimed;
      series.duration_ns += series.short_ns * static_cast<std::int64_t>(series.untimed);
      series.open_ns += series.short_ns * series.untimed_alone;
      series.untimed = series.untimed_alone = 0;
      // Kept, so that no later snapshot has less: Prometheus would take that for a restart.
      if (series.open > 0) count_open(series, loop_.now());
      if (series.name.empty())
        if (const auto known = names_.find(series.method); known != names_.end()) series.name = known->second;
      FunctionMetrics& made = all.emplace_back();
      made.function = series.name.empty() ? "0x" + to_hex(series.method) : series.name;
      made.side = side;
      made.waiting = series.waiting;
      made.retries = series.retries;
      made.bytes_sent = series.bytes_sent;
      made.bytes_received = series.bytes_received;
      made.ended = without_zeros(series.ended);
      made.in_flight = series.open;
      made.calls = made.ended_in_all() + made.in_flight;
      made.durations = without_zeros(series.durations);
      made.duration_ns = series.duration_ns;
      made.open_ns = series.open_ns;
    }
  }
  std::sort(all.begin(), all.end(), [](const FunctionMetrics& a, const FunctionMetrics& b) {
    return std::tie(a.side, a.function) < std::tie(b.side, b.function);
  });
  return all;
}

// ---- The endpoint's -----------------------------------------------------------------------------

std::vector<FunctionMetrics> EndpointCore::function_metrics() {
  return metrics_ ? metrics_->snapshot() : std::vector<FunctionMetrics>();
}

/// It has no duration here, and no end that anybody hears of.
void EndpointCore::count_one_way(std::uint64_t method, std::size_t bytes) {
  if (!metrics_) return;
  detail::CallSeries& series = metrics_->series(CallSide::kClient, method, [] { return std::string(); });
  ++series.ended[0];
  series.bytes_sent += bytes;
}

/// A call that ends before it could begin.
void EndpointCore::count_refused(std::uint64_t method, Code code, const ReplySink& sink) {
  if (!metrics_) return;
  detail::MeteredCall call =
      metrics_->begin(CallSide::kClient, method, loop_.now(), [&] { return sink.called(); });
  call.code = code;
  metrics_->end(call);
}

}  // namespace troupe::rpc
