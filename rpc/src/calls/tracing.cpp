// Spans: of calls, at the caller and at the callee, and of the application's own. Only those of sampled
// traces come here; what all calls pay is in core.hpp and Tracer::begin().
#include <troupe/rpc/tracing.hpp>

#include <utility>

#include "calls/call_scope.hpp"
#include "calls/retrying_call.hpp"
#include "endpoint/core.hpp"
#include "wire/envelope_patch.hpp"

namespace troupe::rpc {

// ---- The tracer ---------------------------------------------------------------------------------

OpenSpan Tracer::make(TraceContext& trace, SpanKind kind) {
  if (free_.empty()) free_.push_back(&slots_.emplace_back());
  Span& span = *std::exchange(free_.back(), nullptr);
  free_.pop_back();
  // What its last use has left, field by field: a whole new one would be written twice.
  span.parent_id = trace.span_id;
  span.kind = kind;
  span.code = Code::kOk;
  span.attempt = 0;
  span.method_hash = 0;
  span.end = {};
  span.actor = span.method = span.peer = nullptr;
  span.error.clear();
  trace.span_id = ids_.span_id();
  span.context = trace;
  span.start = clock_.now();
  return {&span, End{this}};
}

void Tracer::end(Span& span) {
  if (span.end == TimePoint()) stop(span);
  spans_.push(std::move(span));
  free_.push_back(&span);
}

namespace detail {
void note_error(Span& span, const Error& error) {
  span.code = error.code;
  span.error = error.message;
}
}  // namespace detail

// ---- Calls --------------------------------------------------------------------------------------

void EndpointCore::name_span(Span& span, const CallTarget& target, const MethodId& method) {
  SpanBuffer& names = options_.tracer->spans();
  span.method_hash = method.name;
  span.actor = names.kept(SpanBuffer::Name::kActor, target.actor);
  span.method = names.keep(SpanBuffer::Name::kMethod, method.name, method.text);
  if (span.actor && span.method) return;
  const CallNames known = events_.names_of(target, method.name);
  span.actor = names.keep(SpanBuffer::Name::kActor, target.actor, known.actor);
  span.method = names.keep(SpanBuffer::Name::kMethod, method.name, known.method);
}

const std::string* EndpointCore::peer_name(SessionId session) {
  const Session* known = session == kLocal ? nullptr : find(session);
  if (session != kLocal && !known) return nullptr;
  SpanBuffer& names = options_.tracer->spans();
  return names.keep(SpanBuffer::Name::kNode, known ? known->peer().node_id : options_.node_id,
                    known ? known->peer().node_name : options_.node_name);
}

void EndpointCore::begin_span(InboundCall& call) {
  const MessageHeader& header = call.header();
  TraceContext trace = header.trace;
  const bool answered = header.kind == MessageKind::kRequest;
  call.span_ = options_.tracer->begin(trace, answered ? SpanKind::kServer : SpanKind::kConsumer);
  if (!call.span_) {
    // Nobody had decided: this node has, for what the handler calls, too.
    if (!trace && trace.flags != header.trace.flags) call.not_traced_ = true;
    return;
  }
  call.span_->peer = peer_name(call.session_);
}

/// Names are looked up here rather than where it begins, because here the answer is on its way.
void EndpointCore::end_span(const InboundCall& call, OpenSpan span) {
  name_span(*span, {kLocal, call.header().target}, {call.header().method, 0});
}

void InboundCall::note_error(Error& error) {
  if (error.trace_id == 0) error.trace_id = span_->context.trace_low;
  detail::note_error(*span_, error);
  // A call that was given up ends unanswered; that is no fault of the handler's.
  if (cancelled_) span_->code = Code::kCancelled;
}

void EndpointCore::end_span(OpenCall& call, const Error* error) {
  call.span->peer = peer_name(call.target.session);
  if (error) detail::note_error(*call.span, *error);
  call.span.reset();
}

void EndpointCore::end_span(OpenCall& call, Result<std::unique_ptr<InMessage>>& reply) {
  const std::uint64_t trace_id = call.span->context.trace_low;
  if (!reply) {
    Error error = reply.error();
    end_span(call, &error);
    if (error.trace_id == 0) error.trace_id = trace_id;
    reply = std::move(error);
  } else if ((*reply)->is_error()) {
    const Error error = (*reply)->error();
    end_span(call, &error);
  } else {
    end_span(call, nullptr);
  }
}

/// Each attempt is a span of its own, within that of the whole call.
OpenSpan EndpointCore::RetryingCall::begin_attempt(OutFrame& frame) {
  if (!span_) return {};
  TraceContext trace = span_->context;
  OpenSpan span = endpoint_.options_.tracer->begin(trace, SpanKind::kClient);
  endpoint_.name_span(*span, target_, {span_->method_hash, 0});
  span_->actor = span->actor;
  span->attempt = attempts_;
  patch_trace(frame.head, trace);
  return span;
}

// ---- What applications see ----------------------------------------------------------------------

namespace {
/// In whose name this thread works, with the turn or, in a pool, without.
const void* work_of_thread(const Loop& loop) {
  return loop.in_turn() ? loop.context() : Loop::OnBehalf::of(loop);
}
}  // namespace

TraceContext current_trace(const Loop& loop) {
  const void* const work = work_of_thread(loop);
  const TraceContext trace = work ? detail::trace_of_work(work) : TraceContext{};
  return trace ? trace : TraceContext{};
}

namespace {
class TraceOfLoop final : public CurrentTrace {
 public:
  explicit TraceOfLoop(const Loop& loop) : loop_(loop) {}
  TraceContext current() const override { return current_trace(loop_); }

 private:
  const Loop& loop_;
};
}  // namespace

Logger follow_trace(const Logger& log, const Loop& loop) {
  return log.with_current_trace(std::make_shared<TraceOfLoop>(loop));
}

TraceSpan::TraceSpan(Endpoint& endpoint, std::string_view name, const TraceContext& parent)
    : endpoint_(endpoint), context_(parent) {
  const void* const within = work_of_thread(endpoint.loop());
  if (!context_.decided() && within) context_ = detail::trace_of_work(within);
  Tracer* tracer = endpoint.options().tracer;
  if (!tracer) return;
  const Loop::Turn turn(endpoint.loop());
  span_ = tracer->begin(context_, SpanKind::kInternal);
  if (span_) span_->method = tracer->spans().keep(SpanBuffer::Name::kWork, fnv1a(name), name);
}

TraceSpan::~TraceSpan() {
  if (!span_) return;
  const Loop::Turn turn(endpoint_.loop());
  span_.reset();
}

void TraceSpan::fail(const Error& error) {
  if (span_) detail::note_error(*span_, error);
}

}  // namespace troupe::rpc
