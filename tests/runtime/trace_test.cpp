#include <troupe/runtime/trace.hpp>

#include <cmath>
#include <set>
#include <string>

#include <doctest/doctest.h>
#include <troupe/runtime/span.hpp>

using namespace troupe;

namespace {
// The example of the W3C recommendation.
const std::string kExample = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
}  // namespace

TEST_CASE("traceparent: the recommendation's example is read and written") {
  const auto context = parse_traceparent(kExample);
  REQUIRE(context.ok());
  CHECK(context->trace_high == 0x4bf92f3577b34da6U);
  CHECK(context->trace_low == 0xa3ce929d0e0e4736U);
  CHECK(context->span_id == 0x00f067aa0ba902b7U);
  CHECK(context->sampled());
  CHECK(to_traceparent(*context) == kExample);
  CHECK(trace_id_text(*context) == "4bf92f3577b34da6a3ce929d0e0e4736");
  CHECK(span_id_text(context->span_id) == "00f067aa0ba902b7");
}

TEST_CASE("traceparent: what is not sampled stays so, and of the flags only that is known") {
  std::string text = kExample;
  text.replace(53, 2, "00");
  REQUIRE(parse_traceparent(text).ok());
  CHECK_FALSE(parse_traceparent(text)->sampled());
  CHECK(to_traceparent(*parse_traceparent(text)) == text);
  text.replace(53, 2, "ff");
  CHECK(to_traceparent(*parse_traceparent(text)) == kExample);
}

TEST_CASE("traceparent: a later version may have more at its end, version 00 not") {
  std::string text = kExample;
  text.replace(0, 2, "01");
  CHECK(parse_traceparent(text).ok());
  CHECK(parse_traceparent(text + "-more").ok());
  CHECK_FALSE(parse_traceparent(text + "more").ok());
  CHECK_FALSE(parse_traceparent(kExample + "-more").ok());
}

TEST_CASE("traceparent: what is malformed is refused") {
  const auto with = [](std::size_t at, const std::string& part) {
    std::string text = kExample;
    return text.replace(at, part.size(), part);
  };
  for (const std::string& text :
       {std::string(), kExample.substr(0, 54), with(0, "ff"), with(0, "0x"), with(2, "_"), with(35, " "),
        with(52, "0"), with(10, "F"), with(40, "g"), with(53, "0 "), with(3, std::string(32, '0')),
        with(36, std::string(16, '0')), with(3, "+f"), " " + kExample}) {
    const auto context = parse_traceparent(text);
    CHECK_MESSAGE(!context.ok(), text);
    if (!context) CHECK(context.error().code == Code::kInvalidArgument);
  }
}

TEST_CASE("trace ids: none is zero or comes twice, and a seed gives the same") {
  TraceIds ids(1, 1.0), same(1, 1.0);
  std::set<std::uint64_t> seen;
  for (int i = 0; i < 10'000; ++i) {
    const TraceContext trace = ids.begin();
    CHECK(trace == same.begin());
    CHECK((trace.sampled() && trace.trace_high != 0 && trace.span_id == 0));
    CHECK(seen.insert(trace.trace_low).second);
  }
  CHECK(ids.span_id() != 0);
}

TEST_CASE("trace ids: the ratio of traces is sampled, decided by the id alone") {
  constexpr int kTraces = 200'000;
  for (const double ratio : {0.0, 0.01, 0.3, 1.0}) {
    TraceIds ids(7, ratio);
    const TraceIds other(8, ratio);
    int sampled = 0;
    for (int i = 0; i < kTraces; ++i) {
      const TraceContext trace = ids.begin();
      if (trace) {
        ++sampled;
        CHECK(other.is_sampled(trace.trace_low));
      } else {
        CHECK(trace == TraceContext::not_traced());
      }
    }
    // Five standard deviations of a binomial distribution.
    CHECK(std::abs(sampled - ratio * kTraces) <= 5 * std::sqrt(kTraces * ratio * (1 - ratio)));
  }
}

TEST_CASE("trace ids: what a smaller ratio samples a greater one samples, too") {
  const TraceIds small(1, 0.1), great(1, 0.4);
  Random random(3);
  for (int i = 0; i < 10'000; ++i) {
    const std::uint64_t id = random();
    CHECK((!small.is_sampled(id) || great.is_sampled(id)));
  }
}

TEST_CASE("span buffer: spans come out in order, and what finds no room is counted") {
  SpanBuffer buffer(4);
  int woken = 0;
  buffer.set_wake([&] { ++woken; });
  for (std::uint64_t i = 1; i <= 6; ++i) {
    Span span;
    span.context.span_id = i;
    buffer.push(std::move(span));
  }
  CHECK(buffer.dropped() == 2);
  CHECK(woken == 1);
  std::vector<Span> spans;
  buffer.take(spans, 3);
  buffer.take(spans, 100);
  REQUIRE(spans.size() == 4);
  for (std::uint64_t i = 0; i < 4; ++i) CHECK(spans[i].context.span_id == i + 1);
  buffer.push({});
  buffer.take(spans, 100);
  CHECK(spans.size() == 5);
}

TEST_CASE("span buffer: a name is kept under its key, and of its kind only so many") {
  SpanBuffer buffer(2);
  const std::string* first = buffer.keep(SpanBuffer::Name::kActor, 5, "adder");
  REQUIRE(first);
  CHECK(*first == "adder");
  CHECK(buffer.keep(SpanBuffer::Name::kActor, 5, "") == first);
  CHECK(buffer.kept(SpanBuffer::Name::kMethod, 5) == nullptr);
  CHECK(buffer.keep(SpanBuffer::Name::kMethod, 6, "") == nullptr);
  for (std::uint64_t i = 0; i < 2 * SpanBuffer::kMaxNames; ++i) buffer.keep(SpanBuffer::Name::kNode, i, "n");
  CHECK(buffer.kept(SpanBuffer::Name::kNode, SpanBuffer::kMaxNames - 1) != nullptr);
  CHECK(buffer.kept(SpanBuffer::Name::kNode, SpanBuffer::kMaxNames) == nullptr);
  CHECK(*first == "adder");
}
