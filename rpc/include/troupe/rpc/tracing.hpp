#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <string_view>
#include <vector>

#include <troupe/runtime/log.hpp>
#include <troupe/runtime/loop.hpp>
#include <troupe/runtime/span.hpp>

/// Traces: which calls belong together, and how long each took. docs/tracing.md tells what one sees of them.
namespace troupe::rpc {

class Endpoint;

/// Decides which traces are kept, and hands their finished spans to a SpanBuffer. An endpoint that is given
/// one (EndpointOptions::tracer) makes a span for each call of a sampled trace, at the caller and at the
/// callee. With the turn of the endpoint's loop.
class Tracer {
 public:
  /// What begins and ends a span: see OpenSpan.
  struct End {
    Tracer* tracer = nullptr;
    void operator()(Span* span) const { tracer->end(*span); }
  };

  /// `spans` and `clock` must outlive it. Of the traces that begin here the fraction `ratio` is sampled.
  Tracer(SpanBuffer& spans, const Clock& clock, std::uint64_t seed, double ratio)
      : spans_(spans), clock_(clock), ids_(seed, ratio) {}
  Tracer(const Tracer&) = delete;
  Tracer& operator=(const Tracer&) = delete;

  /// Begins a span within `trace`, which then is the span's own context, to be passed on. If nobody has
  /// decided yet this is the root of a new trace, and decides. Null if it is not sampled.
  std::unique_ptr<Span, End> begin(TraceContext& trace, SpanKind kind) {
    if (!trace) {
      if (trace.flags == TraceContext::kNotTraced) return {};
      trace = ids_.begin();
    }
    if (!trace.sampled()) [[likely]]
      return {};
    return make(trace, kind);
  }
  /// The span is over; it goes to the buffer later, when its pointer goes.
  void stop(Span& span) const { span.end = clock_.now(); }
  /// For traces that begin from now on.
  void set_ratio(double ratio) { ids_.set_ratio(ratio); }
  SpanBuffer& spans() { return spans_; }

 private:
  std::unique_ptr<Span, End> make(TraceContext& trace, SpanKind kind);
  void end(Span& span);

  SpanBuffer& spans_;
  const Clock& clock_;
  TraceIds ids_;
  std::deque<Span> slots_;  // of open spans
  std::vector<Span*> free_;
};

/// A span that ends with this pointer, and goes to the Tracer's buffer then.
using OpenSpan = std::unique_ptr<Span, Tracer::End>;

/// Who is called, for people; empty: not known.
struct CallNames {
  std::string_view actor, method;
};

/// The trace of the call that is being answered on this loop by the calling thread; none: nothing is, or it
/// is not traced. For calls to other systems, as to_traceparent(). Any thread.
TraceContext current_trace(const Loop& loop);

/// The same log, whose lines carry the trace and span of the call in whose handler they are written. Logs
/// made so must not be written to when the loop has gone.
Logger follow_trace(const Logger& log, const Loop& loop);

/// A span of the application's own. Calls are made part of it by giving them its context:
///
///     rpc::TraceSpan step(node->endpoint(), "train step");
///     node->rpc_sync_with<Tensor>({.trace = step.context()}, "ps0", "pull", keys);
///
/// Any thread; takes the turn to begin and to end. Must end before the endpoint.
class TraceSpan {
 public:
  /// Within `parent`, else within the call that is being answered, else the root of a new trace, of which the
  /// tracer's ratio is sampled. Without a tracer it is nothing but its parent's context. `name`: one of few,
  /// for the first of them are kept (SpanBuffer::kMaxNames).
  TraceSpan(Endpoint& endpoint, std::string_view name, const TraceContext& parent = {});
  ~TraceSpan();
  TraceSpan(const TraceSpan&) = delete;
  TraceSpan& operator=(const TraceSpan&) = delete;

  /// To be given to calls within it, whether it is sampled or not.
  const TraceContext& context() const { return context_; }
  /// What it is for has failed.
  void fail(const Error& error);

 private:
  Endpoint& endpoint_;
  TraceContext context_;
  OpenSpan span_;
};

namespace detail {
/// What calls within the present work take over. Precondition: the loop has a context.
TraceContext trace_of_context(const Loop& loop);
/// The same of a context that is there.
TraceContext trace_of_work(const void* context);
/// The span's outcome.
void note_error(Span& span, const Error& error);
}  // namespace detail

}  // namespace troupe::rpc
