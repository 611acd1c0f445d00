// Spans of calls: what the caller and the callee each say of one, how they hang together, who decides.
#include "tracing_support.hpp"

namespace troupe::rpc::testing {

TEST_CASE_TEMPLATE("traces: a call is a span at the caller and, within it, one at the callee", Kind,
                   TROUPE_ENDPOINT_TRANSPORTS) {
  Traced<Kind> traced(1, 1);
  REQUIRE(traced.duo->template call<std::int64_t>("relay", false).ok());
  auto spans = traced.take();
  REQUIRE(spans[SpanKind::kClient].size() == 2);
  REQUIRE(spans[SpanKind::kServer].size() == 2);
  // The nested call ends first, and the caller's span after the callee's.
  const Span& client = spans[SpanKind::kClient][0];
  const Span& server = spans[SpanKind::kServer][1];
  const Span& nested = spans[SpanKind::kClient][1];
  const Span& last = spans[SpanKind::kServer][0];
  CHECK(client.parent_id == 0);
  CHECK(server.parent_id == client.context.span_id);
  CHECK(nested.parent_id == server.context.span_id);
  CHECK(last.parent_id == nested.context.span_id);
  for (const Span* span : {&client, &server, &nested, &last}) {
    CHECK(span->context.trace_high == client.context.trace_high);
    CHECK(span->context.trace_low == client.context.trace_low);
    CHECK(span->code == Code::kOk);
    REQUIRE(span->peer);
  }
  REQUIRE(client.method);
  REQUIRE(nested.method);
  CHECK(*client.method == "relay");
  CHECK(*client.peer == "bob");
  CHECK(*server.peer == "alice");
  CHECK(*nested.method == "add");
  CHECK(lies_within(server, client));
  CHECK(lies_within(nested, server));
  CHECK(lies_within(last, nested));
  CHECK(traced.relay.seen == server.context);
  CHECK(traced.relay.current == server.context);
  CHECK_FALSE(current_trace(traced.duo->world.b));
}

TEST_CASE_TEMPLATE("traces: a call that is not sampled has no spans anywhere, nor have those within it", Kind,
                   TROUPE_ENDPOINT_TRANSPORTS) {
  Traced<Kind> traced(0, 1);
  for (const bool detached : {false, true})
    REQUIRE(traced.duo->template call<std::int64_t>("relay", detached).ok());
  CHECK(traced.take().empty());
  CHECK_FALSE(traced.relay.current);
}

TEST_CASE_TEMPLATE("traces: without a tracer at the caller the trace begins at the callee", Kind,
                   TROUPE_ENDPOINT_TRANSPORTS) {
  Traced<Kind> traced(-1, 1);
  REQUIRE(traced.duo->template call<std::int64_t>("relay", false).ok());
  auto spans = traced.take();
  REQUIRE(spans[SpanKind::kServer].size() == 1);
  REQUIRE(spans[SpanKind::kClient].size() == 1);
  CHECK(spans[SpanKind::kServer][0].parent_id == 0);
  CHECK(spans[SpanKind::kClient][0].parent_id == spans[SpanKind::kServer][0].context.span_id);

  // It decides for what its handlers call, too.
  Traced<Kind> none(-1, 0);
  REQUIRE(none.duo->template call<std::int64_t>("relay", false).ok());
  CHECK(none.take().empty());
}

TEST_CASE_TEMPLATE("traces: a node without a tracer passes the context on", Kind,
                   TROUPE_ENDPOINT_TRANSPORTS) {
  Traced<Kind> traced(1, -1);
  for (const bool detached : {false, true}) {
    REQUIRE(traced.duo->template call<std::int64_t>("relay", detached).ok());
    auto spans = traced.take();
    REQUIRE(spans[SpanKind::kClient].size() == 1);
    REQUIRE(spans[SpanKind::kServer].size() == 1);  // a's own, of the call that came back
    CHECK(spans[SpanKind::kServer][0].parent_id == spans[SpanKind::kClient][0].context.span_id);
  }
}

TEST_CASE("traces: the parent's decision is obeyed, whatever the ratio") {
  const TraceContext sampled{1, 2, 3, TraceContext::kSampled};
  const TraceContext dropped{1, 2, 3, 0};
  {
    Traced<contract::Sim> traced(0, 0);
    REQUIRE(traced.duo->call_with<std::int64_t>({.trace = sampled}, "relay", false).ok());
    auto spans = traced.take();
    REQUIRE(spans[SpanKind::kClient].size() == 2);
    CHECK(spans[SpanKind::kClient][0].parent_id == 3);
    CHECK(spans[SpanKind::kServer].size() == 2);
    CHECK(spans[SpanKind::kServer][0].context.trace_low == 2);
  }
  Traced<contract::Sim> traced(1, 1);
  REQUIRE(traced.duo->call_with<std::int64_t>({.trace = dropped}, "relay", false).ok());
  CHECK(traced.take().empty());
  CHECK(traced.relay.seen == dropped);
  REQUIRE(traced.duo->call_with<std::int64_t>({.trace = TraceContext::not_traced()}, "relay", false).ok());
  CHECK(traced.take().empty());
}

TEST_CASE("traces: the ratio of calls is sampled, each with all of its spans") {
  Traced<contract::Sim> traced(0.25, 1);
  constexpr int kCalls = 2000;
  int sampled = 0;
  for (int i = 0; i < kCalls; ++i) {
    REQUIRE(traced.duo->call<std::int64_t>("relay", false).ok());
    auto spans = traced.take();
    if (spans.empty()) continue;
    ++sampled;
    CHECK(spans[SpanKind::kClient].size() == 2);
    CHECK(spans[SpanKind::kServer].size() == 2);
  }
  CHECK(std::abs(sampled - kCalls / 4) < 100);  // five standard deviations
}

TEST_CASE_TEMPLATE("traces: an error stands at both spans, and carries the trace", Kind,
                   TROUPE_ENDPOINT_TRANSPORTS) {
  Traced<Kind> traced(1, 1);
  const auto failed = traced.duo->template call<std::int64_t>("fail");
  REQUIRE_FALSE(failed.ok());
  auto spans = traced.take();
  for (const SpanKind kind : {SpanKind::kClient, SpanKind::kServer}) {
    REQUIRE(spans[kind].size() == 1);
    CHECK(spans[kind][0].code == Code::kAborted);
    CHECK(spans[kind][0].error == "on purpose");
    CHECK(spans[kind][0].context.trace_low == failed.error().trace_id);
  }
}

TEST_CASE("traces: a call that is not answered in time, and one that is given up, end with that") {
  Traced<contract::Sim> traced(1, 1);
  auto& answers = traced.duo->answers(2);
  Endpoint& a = *traced.duo->a.endpoint;
  const CallTarget keeper{traced.duo->ab, Side::kKeeper};
  start_call(a, keeper, "keep", 1s, answers[0]);
  const auto second = start_call(a, keeper, "keep", 60s, answers[1]);
  REQUIRE(traced.duo->until([&] { return answers[0].count == 1 && traced.relay.kept.size() == 2; }));
  CHECK(answers[0].error->trace_id != 0);
  a.cancel(second);
  REQUIRE(traced.duo->until([&] {
    return std::all_of(traced.relay.kept.begin(), traced.relay.kept.end(),
                       [](const auto& call) { return call->cancelled(); });
  }));
  traced.relay.kept.clear();  // unanswered
  auto spans = traced.take();
  REQUIRE(spans[SpanKind::kClient].size() == 2);
  CHECK(spans[SpanKind::kClient][0].code == Code::kDeadlineExceeded);
  CHECK(spans[SpanKind::kClient][1].code == Code::kCancelled);
  REQUIRE(spans[SpanKind::kServer].size() == 2);
  for (const Span& span : spans[SpanKind::kServer]) CHECK(span.code == Code::kCancelled);
}

TEST_CASE("traces: spans end with their endpoint") {
  Traced<contract::Sim> traced(1, 1);
  Answer& answer = traced.duo->answer();
  start_call(*traced.duo->a.endpoint, {traced.duo->ab, Side::kKeeper}, "keep", 60s, answer);
  REQUIRE(traced.duo->until([&] { return traced.relay.kept.size() == 1; }));
  traced.duo->b.endpoint.reset();
  auto spans = traced.take();
  REQUIRE(spans[SpanKind::kServer].size() == 1);
  traced.relay.kept.clear();
  traced.duo->a.endpoint.reset();
  CHECK(traced.take()[SpanKind::kClient].size() == 1);
  CHECK(answer.count == 1);
}

TEST_CASE_TEMPLATE("traces: a one-way call is a producer's span and a consumer's", Kind,
                   TROUPE_ENDPOINT_TRANSPORTS) {
  Traced<Kind> traced(1, 1);
  REQUIRE(traced.duo->a.endpoint
              ->send({traced.duo->ab, 5}, {fnv1a("quiet"), 0, "quiet"}, {}, detail::arguments_writer())
              .ok());
  std::map<SpanKind, std::vector<Span>> spans;
  REQUIRE(traced.duo->until([&] {
    for (auto& [kind, more] : traced.take())
      for (Span& span : more) spans[kind].push_back(std::move(span));
    return spans.size() == 2;
  }));
  REQUIRE(spans[SpanKind::kProducer].size() == 1);
  REQUIRE(spans[SpanKind::kConsumer].size() == 1);
  CHECK(spans[SpanKind::kConsumer][0].parent_id == spans[SpanKind::kProducer][0].context.span_id);
}

TEST_CASE_TEMPLATE("traces: a stream is one span for all of it", Kind, TROUPE_ENDPOINT_TRANSPORTS) {
  Traced<Kind> traced(1, 1);
  auto reader =
      open_stream<std::int64_t>(*traced.duo->a.endpoint, {traced.duo->ab, 5}, "count", "b.count", {});
  for (std::int64_t i = 0; i < 4; ++i) {
    auto next = reader.next_async(10s);
    REQUIRE(traced.duo->until([&] { return next.ready(); }));
    auto item = next.get();
    REQUIRE(item.ok());
    CHECK(item->has_value() == (i < 3));
  }
  auto spans = traced.take();
  REQUIRE(spans[SpanKind::kClient].size() == 1);
  REQUIRE(spans[SpanKind::kServer].size() == 1);
  CHECK(spans[SpanKind::kServer][0].parent_id == spans[SpanKind::kClient][0].context.span_id);
  CHECK(spans[SpanKind::kServer][0].code == Code::kOk);
}

TEST_CASE("traces: each attempt of a call that is repeated is a span within that of the whole call") {
  Traced<contract::Sim> traced(1, 1);
  Answer& answer = traced.duo->answer();
  // The callee answers the first attempt with UNAVAILABLE, as one does that is about to go.
  bool refused = false;
  traced.duo->b.handler = [&](InboundCallPtr call) {
    if (!std::exchange(refused, true)) return call->refuse({Code::kUnavailable, "not yet"});
    call->reply_void();
  };
  traced.duo->a.endpoint->call_with_retries(
      [&] {
        return CallTarget{traced.duo->ab, 5};
      },
      {fnv1a("quiet"), 0, "quiet"}, {.token = 7, .retry = {.max_attempts = 3}}, detail::arguments_writer(),
      answer);
  REQUIRE(traced.duo->until([&] { return answer.count == 1; }));
  CHECK(answer.code() == Code::kOk);
  auto spans = traced.take();
  REQUIRE(spans[SpanKind::kInternal].size() == 1);
  REQUIRE(spans[SpanKind::kClient].size() == 2);
  REQUIRE(spans[SpanKind::kServer].size() == 2);
  const Span& whole = spans[SpanKind::kInternal][0];
  CHECK(whole.code == Code::kOk);
  CHECK(whole.parent_id == 0);
  for (std::uint32_t i = 0; i < 2; ++i) {
    const Span& attempt = spans[SpanKind::kClient][i];
    CHECK(attempt.attempt == i + 1);
    CHECK(attempt.parent_id == whole.context.span_id);
    CHECK(lies_within(attempt, whole));
    CHECK(spans[SpanKind::kServer][i].parent_id == attempt.context.span_id);
    REQUIRE(attempt.method);
    CHECK(*attempt.method == "quiet");
  }
  CHECK(spans[SpanKind::kClient][0].code == Code::kUnavailable);
  CHECK(spans[SpanKind::kServer][0].code == Code::kUnavailable);
  CHECK(spans[SpanKind::kClient][1].code == Code::kOk);
}

TEST_CASE("traces: an application's own spans join the call in whose handler they are made") {
  Traced<contract::Sim> traced(1, 1);
  REQUIRE(traced.duo->call<void>("work").ok());
  auto spans = traced.take();
  REQUIRE(spans[SpanKind::kInternal].size() == 2);
  const Span& inner = spans[SpanKind::kInternal][0];
  const Span& outer = spans[SpanKind::kInternal][1];
  CHECK(*outer.method == "outer");
  CHECK(outer.parent_id == spans[SpanKind::kServer][0].context.span_id);
  CHECK(inner.parent_id == outer.context.span_id);
  CHECK(inner.code == Code::kAborted);
  CHECK(outer.code == Code::kOk);
}

TEST_CASE("traces: calls made with a span's context are part of it, sampled or not") {
  for (const double ratio : {0.0, 1.0}) {
    Traced<contract::Sim> traced(ratio, 1);
    {
      const TraceSpan step(*traced.duo->a.endpoint, "step");
      CHECK(bool(step.context()) == (ratio == 1.0));
      REQUIRE(traced.duo->call_with<std::int64_t>({.trace = step.context()}, "relay", false).ok());
    }
    auto spans = traced.take();
    if (ratio == 0.0) {
      CHECK(spans.empty());
      continue;
    }
    REQUIRE(spans[SpanKind::kInternal].size() == 1);
    CHECK(spans[SpanKind::kClient][0].parent_id == spans[SpanKind::kInternal][0].context.span_id);
  }
}

TEST_CASE("traces: lines that a handler logs carry its trace and span") {
  Traced<contract::Sim> traced(1, 1);
  std::vector<std::string> lines;
  const Logger log =
      follow_trace(Logger::open({.write = [&](std::string_view line) { lines.emplace_back(line); }}).value(),
                   traced.duo->world.b);
  Methods<Relay> methods;
  methods.add("say", [&](Relay&) { log.info("within"); });
  traced.duo->b.handler = [&](InboundCallPtr call) {
    methods.table()->invoke(&traced.relay, std::move(call));
  };
  REQUIRE(traced.duo->call<void>("say").ok());
  log.info("outside");
  const Span span = traced.take()[SpanKind::kServer].at(0);
  REQUIRE(lines.size() == 2);
  CHECK(lines[0].ends_with("within trace=" + trace_id_text(span.context) +
                           " span=" + span_id_text(span.context.span_id)));
  CHECK(lines[1].ends_with("outside"));
}

}  // namespace troupe::rpc::testing
