#pragma once

// What is asked for each call, and compiles to a look at a counter or two: the end of core.hpp.
#include "endpoint/core.hpp"

namespace troupe::rpc {

template <class F>
void EndpointCore::shield(std::string_view where, F&& run) noexcept {
  try {
    run();
  } catch (...) {
    on_thrown(where);
  }
}

inline Duration EndpointCore::timeout_of(const CallOptions& options) const {
  return options.timeout == kDefaultTimeout ? default_timeout() : options.timeout;
}

/// Null if there is no such session.
inline Session* EndpointCore::find(SessionId session) {
  return last_found_ && last_found_->id() == session ? last_found_ : look_up(session);
}

inline PeerCalls* EndpointCore::calls_of(SessionId session) {
  if (session == kLocal) return &own_;
  Session* const found = find(session);
  return found ? &found->calls : nullptr;
}

/// Something is open on the session now: see Liveness.
inline void EndpointCore::attend(Session& session) {
  if (!session.life.attended) [[unlikely]]
    liveness_->attend(session);
}

inline void Session::end_of_flow(OpenCall& call) {
  call.session = nullptr;
  if (call.waits) [[unlikely]]
    return end_of_wait(call);
  --calls_in_flight_;
  (call.bytes > endpoint_.long_from_ ? long_call_bytes_ : short_call_bytes_) -= call.bytes + kRequestBytes;
}

/// What a call that is made now is part of: what its caller says, or the call that is being answered.
inline TraceContext EndpointCore::trace_of(const CallOptions& options) const {
  if (!loop_.context() || options.trace.decided()) return options.trace;
  return detail::trace_of_context(loop_);
}

/// Begins the span of a call of ours, within `trace`, which becomes what the callee is told.
inline OpenSpan EndpointCore::begin_span(TraceContext& trace, SpanKind kind, const CallTarget& target,
                                         const MethodId& method) {
  if (!options_.tracer) return {};
  OpenSpan span = options_.tracer->begin(trace, kind);
  if (span) [[unlikely]]
    name_span(*span, target, method);
  return span;
}

inline void EndpointCore::begin_metered(InboundCall& call) {
  if (!metrics_) return;
  call.metered_ = metrics_->arrive(call.header().method);
  call.metered_.series->bytes_received += call.bytes();
}

inline void EndpointCore::end_metered(detail::MeteredCall& call,
                                      const Result<std::unique_ptr<InMessage>>& reply) {
  if (!call.series) return;
  if (reply) call.series->bytes_received += (*reply)->bytes();
  call.code = !reply ? reply.error().code : (*reply)->is_error() ? (*reply)->error().code : Code::kOk;
  metrics_->end(call);
  call.series = nullptr;
}

}  // namespace troupe::rpc
