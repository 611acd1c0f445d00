#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include <troupe/runtime/random.hpp>
#include <troupe/runtime/result.hpp>

namespace troupe {

/// W3C trace context of a call, or of other work: the trace it belongs to, and the span within that.
struct TraceContext {
  std::uint64_t trace_high = 0, trace_low = 0;  ///< the trace's id, 128 bits; 0: there is none
  std::uint64_t span_id = 0;
  std::uint8_t flags = 0;

  static constexpr std::uint8_t kSampled = 1;
  /// Without an id: it was decided that this work belongs to no trace, and so nothing within it does.
  static constexpr std::uint8_t kNotTraced = 0x80;

  explicit operator bool() const { return (trace_high | trace_low) != 0; }
  bool sampled() const { return *this && (flags & kSampled) != 0; }
  /// Whether somebody has decided already, either way.
  bool decided() const { return *this || flags == kNotTraced; }
  static TraceContext not_traced() { return {0, 0, 0, kNotTraced}; }
  friend bool operator==(const TraceContext&, const TraceContext&) = default;
};

/// 32 and 16 lower-case hexadecimal digits.
std::string trace_id_text(const TraceContext& context);
std::string span_id_text(std::uint64_t span_id);

/// The value of W3C's `traceparent` header, version 00. Precondition: there are a trace and a span.
std::string to_traceparent(const TraceContext& context);
/// Reads such a value, of this or a later version. kInvalidArgument: it is malformed, or an id is zero.
Result<TraceContext> parse_traceparent(std::string_view text);

/// Makes ids, and decides which traces are kept. One thread at a time.
class TraceIds {
 public:
  /// Of all traces that begin here, the fraction `ratio` (0 to 1) is sampled.
  TraceIds(std::uint64_t seed, double ratio) : random_(seed) { set_ratio(ratio); }
  void set_ratio(double ratio);

  /// A new trace, without a span; kNotTraced if it is not sampled. Ids are drawn only for those that are, and
  /// how many there are between two of them is drawn with the first: so a trace that is not sampled costs
  /// nearly nothing, and the sampled ones are those that drawing an id for each would give.
  TraceContext begin() {
    if (--until_sampled_ != 0) [[likely]]
      return TraceContext::not_traced();
    return begin_sampled();
  }
  std::uint64_t span_id() { return nonzero(); }
  /// Whether the trace with this low half of an id is sampled. The same for equal ratios everywhere, and what
  /// OpenTelemetry's consistent probability sampling says: the id's last 56 bits are the random number.
  bool is_sampled(std::uint64_t trace_low) const { return (trace_low & kRandomBits) >= rejected_; }

 private:
  static constexpr std::uint64_t kRandomBits = (std::uint64_t{1} << 56) - 1;
  TraceContext begin_sampled();
  void draw_next();
  std::uint64_t nonzero() {
    std::uint64_t id = 0;
    while (id == 0) id = random_();
    return id;
  }

  Random random_;
  std::uint64_t rejected_ = 0;       // random numbers below it
  std::uint64_t until_sampled_ = 0;  // traces, that one included; 0: 2^64, which nobody lives to see
};

/// Says in which trace the calling thread works just now. Any thread.
class CurrentTrace {
 public:
  virtual ~CurrentTrace() = default;
  virtual TraceContext current() const = 0;
};

}  // namespace troupe
