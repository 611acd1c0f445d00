// Calls of ours: making them, and ending each of them once.
#include "calls/call_scope.hpp"
#include "calls/frugal_error.hpp"
#include "calls/retrying_call.hpp"
#include "endpoint/core_sources.hpp"
#include "wire/head_pool.hpp"

namespace troupe::rpc {

namespace {
Error shutting_down() {
  return frugal_error(Code::kCancelled, "the node shuts down");
}
}  // namespace

ReplySink& EndpointCore::release(OpenCall& call) {
  ReplySink& sink = *std::exchange(call.sink, nullptr);
  loop_.cancel(call);
  if (call.session) call.session->end_of_flow(call);
  OpenCalls::remove(call);
  call.parked.reset();
  if (devices_) [[unlikely]]
    leave_arrivals(call);
  if (call.into) [[unlikely]] {
    release_into(*call.into);
    call.into.reset();
  }
  call.attempt = false;
  calls_.give_back(call);
  return sink;
}

void EndpointCore::complete(OpenCall& call, Result<std::unique_ptr<InMessage>>&& reply) {
  end_metered(call.metered, reply);
  if (call.span) [[unlikely]]
    shield("ending a span", [&] { end_span(call, reply); });
  ReplySink& sink = release(call);
  shield("who waited for an answer", [&] { sink.on_reply(std::move(reply)); });  // last: it may do anything
}

void OpenCall::on_timer() {
  ++endpoint.stats_.deadlines_exceeded;
  const std::uint64_t call_id = id();
  if (!waits && !attempt) endpoint.shield("giving a call up", [&] { endpoint.send_cancel(target, call_id); });
  if (endpoint.find_call(call_id) == this)
    endpoint.complete(*this, frugal_error(Code::kDeadlineExceeded, "no answer in time"));
}

std::uint64_t Endpoint::call(CallTarget target, MethodId method, const CallOptions& options,
                             const BodyWriter& body, ReplySink& sink) {
  return core_->call(target, method, options, body, sink);
}

std::uint64_t EndpointCore::call(CallTarget target, MethodId method, const CallOptions& options,
                                 const BodyWriter& body, ReplySink& sink) {
  if (!loop_.context() || options.detached) return open(target, method, options, body, sink, nullptr);
  CallOptions nested = options;
  auto scope = join_scope(nested);
  if (scope) return open(target, method, nested, body, sink, scope->get());
  sink.on_reply(std::move(scope).error());
  return 0;
}

std::uint64_t EndpointCore::open(CallTarget target, MethodId method, const CallOptions& options,
                                 const BodyWriter& body, ReplySink& sink, detail::CallScope* scope) {
  OpenSpan span;
  const auto refuse = [&](Error error) {
    count_refused(method.name, error.code, sink);
    if (span) detail::note_error(*span, error);
    span.reset();
    sink.on_reply(std::move(error));
    return std::uint64_t{0};
  };
  const Duration timeout = timeout_of(options);
  if (closing_) return refuse(shutting_down());
  if (loop_.is_forked()) [[unlikely]]
    return refuse(HomeProcess::error());
  if (timeout <= Duration::zero())
    return refuse({Code::kDeadlineExceeded, "no time was left when the call was made"});
  if (calls_.open() >= options_.limits.max_open_calls)
    return refuse(
        {Code::kResourceExhausted, std::to_string(calls_.open()) + " calls are open already; wait for some"});

  if (options.into) [[unlikely]]
    if (auto fit = check_into(*options.into); !fit) return refuse(std::move(fit).error());

  if (!options.metadata.empty()) [[unlikely]]
    if (auto checked = options.metadata.check(); !checked) return refuse(checked.error());

  TraceContext trace = trace_of(options);
  span = begin_span(trace, SpanKind::kClient, target, method);
  const MessageHeader header{MessageKind::kRequest, 0,       target.actor, method.name,
                             method.signature,      timeout, trace,        options.token,
                             options.metadata};
  if (target.session == kLocal && options.token == 0 && body.type() && !options.into &&
      events_.takes_directly(target.actor, method.name, body.type()))
    return open_directly(target, header, std::move(span), body, sink, scope);

  std::optional<Error> failure;
  const std::uint64_t call_id = begin(header, target, options, body, sink, span, scope, failure);
  if (!failure) return call_id;
  if (call_id == 0) return refuse(std::move(*failure));
  // A sink may do anything, and so hears of it last.
  if (OpenCall* failed = find_call(call_id)) complete(*failed, std::move(*failure));
  return call_id;
}

std::uint64_t EndpointCore::begin(const MessageHeader& header, CallTarget target, const CallOptions& options,
                                  const BodyWriter& body, ReplySink& sink, OpenSpan& span,
                                  detail::CallScope* scope, std::optional<Error>& failure) {
  const HeadPool::Scope heads(*heads_);
  OutMessage message(pool_, header, heads_.get());
  try {
    body(message);
  } catch (...) {
    failure = detail::current_exception_error("encoding the arguments");
    return 0;
  }
  if (options.into && message.overlaps(*options.into)) [[unlikely]] {
    failure = Error{Code::kInvalidArgument,
                    "an answer cannot be received into memory in which an argument of the call lies"};
    return 0;
  }
  OpenCall& opened = calls_.take(*this);
  opened.sink = &sink;
  opened.target = target;
  opened.span = std::move(span);
  const std::uint64_t call_id = opened.id();
  // now() may lie far back if a handler that took long makes the call.
  const TimePoint now = loop_.fresh_now();
  if (header.remaining != kNoDeadline) loop_.schedule(opened, now + header.remaining);
  try {
    if (options.into) [[unlikely]] {
      claim_into(*options.into);
      opened.into = options.into;
    }
    if (metrics_)
      opened.metered = metrics_->begin(CallSide::kClient, header.method, now, [&] { return sink.called(); });
    ++stats_.calls_sent;
    if (scope) scope->add(call_id);

    message.set_call_id(call_id);
    if (message.has_tensors())
      lease_tensors(message, target.session, options.token == 0, options.stream.get());
    auto frame = message.finish(max_head_bytes(target.session));
    if (!frame) {
      failure = std::move(frame).error();
      return call_id;
    }
    Result<void> sent = send_frame(target.session, std::move(*frame), Flow::kCall, &opened);
    if (!sent) failure = std::move(sent).error();
  } catch (...) {
    failure = detail::current_exception_error("making a call");  // there is no memory: whoever waits hears it
  }
  return call_id;
}

/// What we send to ourselves goes through no transport, and so its parts stay apart.
std::size_t EndpointCore::max_head_bytes(SessionId session) const {
  return session == kLocal ? SIZE_MAX : transport_->limits().max_head_bytes;
}

Result<OutFrame> EndpointCore::encode(const MessageHeader& header, const BodyWriter& body, SessionId to,
                                      bool share, const troupe::Stream* after) {
  try {
    OutMessage message(pool_, header, heads_.get());
    body(message);
    if (message.has_tensors()) lease_tensors(message, to, share, after);
    return message.finish(max_head_bytes(to));
  } catch (...) {
    return detail::current_exception_error("encoding a message");
  }
}

Result<void> EndpointCore::send(CallTarget target, MethodId method, const CallOptions& options,
                                const BodyWriter& body) {
  if (closing_) return shutting_down();
  if (loop_.is_forked()) return HomeProcess::error();
  CallOptions own = options;
  own.timeout = timeout_of(own);
  if (loop_.context() && !options.detached)
    if (auto scope = join_scope(own); !scope) return std::move(scope).error();
  if (own.timeout <= Duration::zero())
    return Error{Code::kDeadlineExceeded, "no time was left when the call was made"};
  if (auto checked = own.metadata.check(); !checked) return checked;
  own.trace = trace_of(own);
  const OpenSpan span = begin_span(own.trace, SpanKind::kProducer, target, method);
  ++stats_.calls_sent;
  auto frame = encode({MessageKind::kOneWay, 0, target.actor, method.name, method.signature, own.timeout,
                       own.trace, own.token, own.metadata},
                      body, target.session, own.token == 0, own.stream.get());
  if (frame) count_one_way(method.name, bytes_of(*frame));
  auto sent =
      frame ? send_frame(target.session, std::move(*frame), Flow::kOneWay, nullptr, loop_.now() + own.timeout)
            : Result<void>(std::move(frame).error());
  if (span && !sent) detail::note_error(*span, sent.error());
  return sent;
}

bool EndpointCore::is_open(std::uint64_t call_id) const {
  return retrying_.contains(call_id) || calls_.contains(call_id);
}

void EndpointCore::cancel(std::uint64_t call_id) {
  if (const auto retrying = retrying_.find(call_id); retrying != retrying_.end())
    return retrying->second->cancel();
  OpenCall* call = find_call(call_id);
  if (!call) return;
  if (!call->waits) shield("giving a call up", [&] { send_cancel(call->target, call_id); });
  if (find_call(call_id) == call) complete(*call, frugal_error(Code::kCancelled, "cancelled by the caller"));
}

void EndpointCore::send_cancel(CallTarget target, std::uint64_t call_id) {
  if (target.session == kLocal) return on_cancel(kLocal, call_id);
  if (!ready(target.session)) return;
  auto frame = encode({MessageKind::kCancel, call_id, target.actor, 0, 0, Duration{0}, {}},
                      [](OutMessage& out) { out.values(0); });
  // A lost cancel only means that the callee works in vain.
  if (frame) (void)send_frame(target.session, std::move(*frame), Flow::kUrgent);
}

}  // namespace troupe::rpc
