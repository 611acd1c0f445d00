#pragma once

#include <algorithm>
#include <map>
#include <string>
#include <vector>

#include <troupe/rpc/stream.hpp>
#include <troupe/rpc/tracing.hpp>

#include "endpoint_support.hpp"

namespace troupe::rpc::testing {

/// The clock of a loop that is made later.
struct LateClock final : Clock {
  TimePoint now() const override { return clock ? clock->now() : TimePoint{}; }
  const Clock* clock = nullptr;
};

/// Spans of one node.
struct NodeTraces {
  NodeTraces(std::uint64_t seed, double ratio) : tracer(spans, clock, seed, ratio) {}
  std::vector<Span> take() {
    std::vector<Span> taken;
    spans.take(taken, spans.capacity());
    return taken;
  }
  LateClock clock;
  SpanBuffer spans{1 << 12};
  Tracer tracer;
};

inline EndpointOptions traced(EndpointOptions options, Tracer* tracer) {
  options.tracer = tracer;
  return options;
}

/// Whether a span lies within another in time.
inline bool lies_within(const Span& inner, const Span& outer) {
  return inner.start >= outer.start && inner.start <= inner.end && inner.end <= outer.end;
}

/// a calls the Relay at b, which may call back to a's service.
struct Relay {
  Endpoint* endpoint = nullptr;
  CallTarget next;
  std::vector<InboundCallPtr> kept;
  std::vector<StreamWriter<std::int64_t>> writers;
  TraceContext seen;
  TraceContext current;

  Future<std::int64_t> relay(const CallContext& context, bool detached) {
    seen = context.trace;
    current = current_trace(endpoint->loop());
    return call_async<std::int64_t>(*endpoint, next, "add", "next.add", {.detached = detached}, 1, 2);
  }
  static void methods(Methods<Relay>& methods) {
    methods.add("relay", &Relay::relay)
        .add("fail",
             [](Relay&) -> Result<std::int64_t> {
               return Error{Code::kAborted, "on purpose"};
             })
        .add("quiet", [](Relay&) {})
        .add("count",
             [](Relay& self, StreamWriter<std::int64_t> out) {
               self.writers.push_back(std::move(out));
               for (std::int64_t i = 0; i < 3; ++i) (void)self.writers.back().write(i);
               self.writers.back().end();
             })
        .add("work", [](Relay& self) {
          TraceSpan outer(*self.endpoint, "outer");
          TraceSpan inner(*self.endpoint, "inner", outer.context());
          inner.fail({Code::kAborted, "no luck"});
        });
  }
};

template <class Kind>
struct Traced {
  /// A ratio below 0: no tracer at all.
  Traced(double ratio_a, double ratio_b) : a(1, ratio_a), b(2, ratio_b) {
    duo = std::make_unique<Duo<Kind>>(traced(options_of(1, "alice"), ratio_a < 0 ? nullptr : &a.tracer),
                                      traced(options_of(2, "bob"), ratio_b < 0 ? nullptr : &b.tracer));
    a.clock.clock = &duo->world.a.clock();
    b.clock.clock = &duo->world.b.clock();
    duo->connect();
    Methods<Relay> methods;
    Relay::methods(methods);
    relay.endpoint = duo->b.endpoint.get();
    relay.next = {duo->ba, 5};
    duo->b.handler = [this, table = methods.table()](InboundCallPtr call) {
      if (call->header().target == Side::kKeeper) return relay.kept.push_back(std::move(call));
      table->invoke(&relay, std::move(call));
    };
  }
  /// Spans by kind, of both nodes.
  std::map<SpanKind, std::vector<Span>> take() {
    std::map<SpanKind, std::vector<Span>> all;
    for (NodeTraces* node : {&a, &b})
      for (Span& span : node->take()) all[span.kind].push_back(std::move(span));
    return all;
  }

  NodeTraces a, b;
  Relay relay;
  std::unique_ptr<Duo<Kind>> duo;
};

}  // namespace troupe::rpc::testing
