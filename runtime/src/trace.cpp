#include <troupe/runtime/trace.hpp>

#include <algorithm>
#include <charconv>
#include <cmath>

#include <troupe/runtime/text.hpp>

namespace troupe {

namespace {

// 00-<trace id>-<span id>-<flags>: https://www.w3.org/TR/trace-context/
constexpr std::size_t kTraceAt = 3, kSpanAt = 36, kFlagsAt = 53, kLength = 55;

/// Upper-case digits are not allowed.
bool read_hex(std::string_view digits, std::uint64_t& value) {
  if (digits.find_first_not_of("0123456789abcdef") != std::string_view::npos) return false;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value, 16);
  return error == std::errc() && end == digits.data() + digits.size();
}

Error malformed(std::string_view text, std::string_view why) {
  return {Code::kInvalidArgument, "'" + std::string(text.substr(0, 80)) +
                                      "' is no traceparent: " + std::string(why) +
                                      "; it looks like "
                                      "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"};
}

}  // namespace

std::string trace_id_text(const TraceContext& context) {
  std::string text;
  text += to_hex(context.trace_high);
  text += to_hex(context.trace_low);
  return text;
}

std::string span_id_text(std::uint64_t span_id) {
  std::string text;
  text += to_hex(span_id);
  return text;
}

std::string to_traceparent(const TraceContext& context) {
  return "00-" + trace_id_text(context) + "-" + span_id_text(context.span_id) +
         (context.sampled() ? "-01" : "-00");
}

Result<TraceContext> parse_traceparent(std::string_view text) {
  std::uint64_t version = 0;
  std::uint64_t flags = 0;
  TraceContext context;
  if (text.size() < kLength) return malformed(text, "it is too short");
  if (!read_hex(text.substr(0, 2), version) || version == 0xff)
    return malformed(text, "its version is not known");
  // Later versions may only add to the end.
  if (text.size() > kLength && (version == 0 || text[kLength] != '-'))
    return malformed(text, "it is too long");
  const bool dashes = text[kTraceAt - 1] == '-' && text[kSpanAt - 1] == '-' && text[kFlagsAt - 1] == '-';
  if (!dashes || !read_hex(text.substr(kTraceAt, 16), context.trace_high) ||
      !read_hex(text.substr(kTraceAt + 16, 16), context.trace_low) ||
      !read_hex(text.substr(kSpanAt, 16), context.span_id) || !read_hex(text.substr(kFlagsAt, 2), flags))
    return malformed(text, "its fields are lower-case hexadecimal digits between dashes");
  if (!context || context.span_id == 0) return malformed(text, "an id is zero");
  context.flags = static_cast<std::uint8_t>(flags & TraceContext::kSampled);
  return context;
}

void TraceIds::set_ratio(double ratio) {
  rejected_ = static_cast<std::uint64_t>(std::ldexp(1.0 - std::clamp(ratio, 0.0, 1.0), 56));
  draw_next();
}

/// The id's low half is uniform among those that is_sampled() accepts.
TraceContext TraceIds::begin_sampled() {
  const std::uint64_t accepted = kRandomBits + 1 - rejected_;
  const std::uint64_t above = random_() & ~kRandomBits;
  const auto low = static_cast<std::uint64_t>((static_cast<unsigned __int128>(random_()) * accepted) >> 64);
  draw_next();
  return {nonzero(), above | (rejected_ + low), 0, TraceContext::kSampled};
}

/// How many trials it takes until one that succeeds with probability p succeeds: the geometric distribution,
/// by inversion (Devroye, Non-Uniform Random Variate Generation, X.2.1).
void TraceIds::draw_next() {
  if (rejected_ == 0) {
    until_sampled_ = 1;
    return;
  }
  const double p = 1.0 - std::ldexp(static_cast<double>(rejected_), -56);
  const double uniform = std::ldexp(static_cast<double>((random_() >> 11) + 1), -53);  // (0, 1]
  const double trials = p > 0 ? 1 + std::floor(std::log(uniform) / std::log1p(-p)) : HUGE_VAL;
  until_sampled_ = trials < 1e18 ? static_cast<std::uint64_t>(trials) : 0;
}

}  // namespace troupe
