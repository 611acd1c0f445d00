// Calls: making them, taking them in, and ending each of them once; how they are answered is in
// inbound_call.cpp. What concerns the links between endpoints is in session/.
#include <troupe/rpc/endpoint.hpp>

#include <cassert>

#include <troupe/rpc/stream_ends.hpp>

#include "calls/answers.hpp"
#include "calls/call_scope.hpp"
#include "calls/recycled.hpp"
#include "calls/retrying_call.hpp"
#include "endpoint/endpoint_parts.hpp"
#include "wire/flat_writer.hpp"

namespace troupe::rpc {

namespace {
/// Whether nothing waits that must be sent before such a message. Asked for each call: counters only.
bool nothing_is_before(const FlowQueue& queue, bool is_reply, bool is_long) {
  using Lane = FlowQueue::Lane;
  if (queue.empty()) return true;
  if (is_reply) return !is_long || queue.empty(Lane::kReplies);
  return queue.empty(is_long ? Lane::kLong : Lane::kShort);
}

Error shutting_down() {
  return {Code::kCancelled, "the node shuts down"};
}
}  // namespace

Endpoint::Endpoint(Loop& loop, std::unique_ptr<Transport> transport, EndpointOptions options,
                   EndpointEvents& events)
    : loop_(loop),
      options_(std::move(options)),
      events_(events),
      shared_pool_(options_.shared),
      metrics_(options_.metrics ? std::make_unique<CallMetrics>(loop) : nullptr),
      heads_(std::make_unique<HeadPool>(flat::Writer::kFirstBytes)),
      pump_(std::make_unique<FlowPump>(*this)),
      long_from_(transport->limits().eager_bytes),
      answers_(std::make_unique<Answers>(options_.answers)),
      random_(options_.seed != 0 ? options_.seed : options_.node_id),
      liveness_(std::make_unique<Liveness>(*this)),
      local_delivery_(std::make_unique<LocalDelivery>(*this)),
      transport_(std::move(transport)) {
  assert(options_.node_id != 0);
  transport_->set_events(*this);
  expect_strangers();
}

void Endpoint::shut_down() {
  closing_ = true;
  while (!sessions_.empty()) close(sessions_.begin()->first, shutting_down());
  end_streams(kLocal, shutting_down());
  fail_calls(kLocal, shutting_down());
  while (!retrying_.empty()) retrying_.begin()->second->finish(shutting_down());
  cancel_inbound(kLocal, kAllCalls);
}

Endpoint::~Endpoint() {
  shut_down();
  std::vector<std::shared_ptr<detail::CallScope>> scopes;
  for (InboundCall* call = inbound_; call; call = call->next_) {
    call->endpoint_ = nullptr;
    if (call->span_) end_span(*call, std::move(call->span_));
    if (call->scope_) scopes.push_back(call->scope_);
  }
  for (const auto& scope : scopes) scope->finish();
}

// ---- Making calls -------------------------------------------------------------------------------

Endpoint::OpenCall& Endpoint::open_call() {
  if (free_calls_.empty()) {
    free_calls_.push_back(static_cast<std::uint32_t>(calls_.size()));
    calls_.emplace_back(*this, free_calls_.back());
  }
  OpenCall& call = calls_[free_calls_.back()];
  free_calls_.pop_back();
  ++open_calls_;
  return call;
}

Endpoint::OpenCall* Endpoint::find_call(std::uint64_t call_id) {
  const auto slot = static_cast<std::uint32_t>(call_id);
  if (slot >= calls_.size()) return nullptr;
  OpenCall& call = calls_[slot];
  return call.sink && call.id() == call_id ? &call : nullptr;
}

ReplySink& Endpoint::release(OpenCall& call) {
  ReplySink& sink = *std::exchange(call.sink, nullptr);
  loop_.cancel(call);
  if (call.session) end_of_flow(call);
  call.parked.reset();
  if (call.into) [[unlikely]] {
    release_into(*call.into);
    call.into.reset();
  }
  call.attempt = false;
  if (++call.generation == 0) call.generation = 1;
  free_calls_.push_back(call.slot);
  --open_calls_;
  return sink;
}

void Endpoint::complete(OpenCall& call, Result<std::unique_ptr<InMessage>>&& reply) {
  end_metered(call.metered, reply);
  if (call.span) [[unlikely]]
    end_span(call, reply);
  release(call).on_reply(std::move(reply));  // last: it may do anything
}

void Endpoint::OpenCall::on_timer() {
  ++endpoint.stats_.deadlines_exceeded;
  const std::uint64_t call_id = id();
  if (!waits && !attempt) endpoint.send_cancel(target, call_id);
  if (endpoint.find_call(call_id) == this)
    endpoint.complete(*this, Error{Code::kDeadlineExceeded, "no answer in time"});
}

std::uint64_t Endpoint::call(CallTarget target, MethodId method, const CallOptions& options,
                             const BodyWriter& body, ReplySink& sink) {
  if (!loop_.context() || options.detached) return open(target, method, options, body, sink, nullptr);
  CallOptions nested = options;
  auto scope = join_scope(nested);
  if (scope) return open(target, method, nested, body, sink, scope->get());
  sink.on_reply(std::move(scope).error());
  return 0;
}

std::uint64_t Endpoint::open(CallTarget target, MethodId method, const CallOptions& options,
                             const BodyWriter& body, ReplySink& sink, detail::CallScope* scope) {
  OpenSpan span;
  const auto refuse = [&](Error error) {
    count_refused(method.name, error.code, sink);
    if (span) detail::note_error(*span, error);
    span.reset();
    sink.on_reply(std::move(error));
    return std::uint64_t{0};
  };
  const Duration timeout = options.timeout.count() ? options.timeout : options_.default_timeout;
  if (closing_) return refuse(shutting_down());
  if (timeout <= Duration::zero())
    return refuse({Code::kDeadlineExceeded, "no time was left when the call was made"});
  if (open_calls_ >= options_.limits.max_open_calls)
    return refuse(
        {Code::kResourceExhausted, std::to_string(open_calls_) + " calls are open already; wait for some"});

  if (options.into) [[unlikely]]
    if (auto fit = check_into(*options.into); !fit) return refuse(std::move(fit).error());

  TraceContext trace = trace_of(options);
  span = begin_span(trace, SpanKind::kClient, target, method);
  if (target.session == kLocal && options.token == 0 && body.type() && !options.into &&
      events_.takes_directly(target.actor, method.name, body.type()))
    return open_directly(target, method, timeout, trace, std::move(span), body, sink, scope);

  std::optional<Error> failure;
  const std::uint64_t call_id = begin(
      {MessageKind::kRequest, 0, target.actor, method.name, method.signature, timeout, trace, options.token},
      target, options, body, sink, span, scope, failure);
  if (!failure) return call_id;
  if (call_id == 0) return refuse(std::move(*failure));
  // A sink may do anything, and so hears of it last.
  if (OpenCall* failed = find_call(call_id)) complete(*failed, std::move(*failure));
  return call_id;
}

std::uint64_t Endpoint::begin(const MessageHeader& header, CallTarget target, const CallOptions& options,
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
  OpenCall& opened = open_call();
  opened.sink = &sink;
  opened.target = target;
  opened.span = std::move(span);
  if (options.into) [[unlikely]] {
    opened.into = options.into;
    claim_into(*opened.into);
  }
  const std::uint64_t call_id = opened.id();
  // now() may lie far back if a handler that took long makes the call.
  const TimePoint now = loop_.fresh_now();
  loop_.schedule(opened, now + header.remaining);
  if (metrics_)
    opened.metered = metrics_->begin(CallSide::kClient, header.method, now, [&] { return sink.called(); });
  ++stats_.calls_sent;
  if (scope) scope->add(call_id);

  message.set_call_id(call_id);
  lease_tensors(message, target.session, options.token == 0);
  auto frame = message.finish(max_head_bytes(target.session));
  if (!frame) {
    failure = std::move(frame).error();
    return call_id;
  }
  Result<void> sent = send_frame(target.session, std::move(*frame), Flow::kCall, &opened);
  if (!sent) failure = std::move(sent).error();
  return call_id;
}

/// What we send to ourselves goes through no transport, and so its parts stay apart.
std::size_t Endpoint::max_head_bytes(SessionId session) const {
  return session == kLocal ? SIZE_MAX : transport_->limits().max_head_bytes;
}

Result<OutFrame> Endpoint::encode(const MessageHeader& header, const BodyWriter& body, SessionId to,
                                  bool share) {
  OutMessage message(pool_, header, heads_.get());
  try {
    body(message);
  } catch (...) {
    return detail::current_exception_error("encoding a message");
  }
  lease_tensors(message, to, share);
  return message.finish(max_head_bytes(to));
}

Result<void> Endpoint::send(CallTarget target, MethodId method, const CallOptions& options,
                            const BodyWriter& body) {
  if (closing_) return shutting_down();
  CallOptions own = options;
  if (own.timeout.count() == 0) own.timeout = options_.default_timeout;
  if (loop_.context() && !options.detached)
    if (auto scope = join_scope(own); !scope) return std::move(scope).error();
  if (own.timeout <= Duration::zero())
    return Error{Code::kDeadlineExceeded, "no time was left when the call was made"};
  own.trace = trace_of(own);
  const OpenSpan span = begin_span(own.trace, SpanKind::kProducer, target, method);
  ++stats_.calls_sent;
  auto frame = encode({MessageKind::kOneWay, 0, target.actor, method.name, method.signature, own.timeout,
                       own.trace, own.token},
                      body, target.session, own.token == 0);
  if (frame) count_one_way(method.name, bytes_of(*frame));
  auto sent =
      frame ? send_frame(target.session, std::move(*frame), Flow::kOneWay, nullptr, loop_.now() + own.timeout)
            : Result<void>(std::move(frame).error());
  if (span && !sent) detail::note_error(*span, sent.error());
  return sent;
}

bool Endpoint::is_open(std::uint64_t call_id) const {
  const auto slot = static_cast<std::uint32_t>(call_id);
  return retrying_.contains(call_id) ||
         (slot < calls_.size() && calls_[slot].sink && calls_[slot].id() == call_id);
}

void Endpoint::cancel(std::uint64_t call_id) {
  if (const auto retrying = retrying_.find(call_id); retrying != retrying_.end())
    return retrying->second->cancel();
  OpenCall* call = find_call(call_id);
  if (!call) return;
  if (!call->waits) send_cancel(call->target, call_id);
  if (find_call(call_id) == call) complete(*call, Error{Code::kCancelled, "cancelled by the caller"});
}

void Endpoint::send_cancel(CallTarget target, std::uint64_t call_id) {
  if (target.session == kLocal) return on_cancel(kLocal, call_id);
  if (!ready(target.session)) return;
  auto frame = encode({MessageKind::kCancel, call_id, target.actor, 0, 0, Duration{0}, {}},
                      [](OutMessage& out) { out.values(0); });
  // A lost cancel only means that the callee works in vain.
  if (frame) (void)send_frame(target.session, std::move(*frame), Flow::kUrgent);
}

void Endpoint::fail_calls(SessionId session, const Error& error) {
  // A sink may make new calls, so that slots are added while this runs; those are not of the session.
  for (std::size_t slot = 0; slot < calls_.size(); ++slot)
    if (calls_[slot].sink && calls_[slot].target.session == session) complete(calls_[slot], error);
}

bool Endpoint::can_go(const Session& to, Flow flow, std::size_t bytes) const {
  if (to.state != Session::State::kReady) return false;
  return flow == Flow::kUrgent ||
         (nothing_is_before(to.queue, flow == Flow::kReply, bytes > long_from_) && may_send(to, flow, bytes));
}

Result<void> Endpoint::send_frame(SessionId session, OutFrame&& frame, Flow flow, OpenCall* call,
                                  TimePoint deadline) {
  const std::size_t bytes = bytes_of(frame);
  if (bytes > options_.limits.max_message_bytes)
    return Error{Code::kResourceExhausted,
                 "a message of " + std::to_string(bytes) + " bytes is longer than the " +
                     std::to_string(options_.limits.max_message_bytes) + " allowed; send it in pieces"};
  if (call) call->metered.sent(bytes);
  if (session == kLocal) return send_local(std::move(frame));
  Session* to = find(session);
  if (!to) return Error{Code::kUnavailable, "the peer is gone"};
  if (!can_go(*to, flow, bytes)) [[unlikely]]
    return wait_for_room(*to, std::move(frame), flow, bytes, call, deadline);
  if (call) {
    call->session = to;
    ++to->calls_in_flight;
    attend(*to);
  }
  stats_.bytes_sent += bytes;
  return send_now(*to, std::move(frame));
}

// ---- What comes in ------------------------------------------------------------------------------

Result<void> Endpoint::on_parts(LinkId link, std::span<const std::byte> head, std::size_t total_bytes,
                                std::vector<Buffer>& parts) {
  // Nobody is told where to send to before the meeting: what comes earlier is a stranger's.
  if (Session* session = find(link); !session || session->state < Session::State::kOpening)
    return Error{Code::kUnauthenticated, "a message came before the meeting"};
  if (total_bytes > options_.limits.max_message_bytes)
    return Error{Code::kResourceExhausted,
                 "a message of " + std::to_string(total_bytes) + " bytes is longer than the " +
                     std::to_string(options_.limits.max_message_bytes) + " allowed"};
  return InMessage::allocate_parts(head, total_bytes, pool_, parts, destination(link, head));
}

/// Where the first tensor of an answer that comes is to be received; null: wherever.
const Tensor* Endpoint::destination(LinkId link, std::span<const std::byte> head) {
  if (into_.empty()) return nullptr;
  const OpenCall* call = find_call(InMessage::call_answered_by(head));
  return call && call->target.session == link ? call->into.get() : nullptr;
}

void Endpoint::on_frame(LinkId link, Buffer&& head, std::vector<Buffer>&& parts) {
  Session* session = find(link);
  if (!session) return;
  if (session->state < Session::State::kOpening)
    return end_session(link, {Code::kUnauthenticated, "a message came before the meeting"}, true);
  session->life.heard = loop_.now();
  const HeadPool::Scope heads(*heads_);
  stats_.bytes_received += head.size();
  for (const Buffer& part : parts) stats_.bytes_received += part.size();
  auto message = InMessage::parse(std::move(head), std::move(parts), &session->memory);
  if (!message) return end_session(link, message.error(), true);
  if (!session->life.listed && session->memory.maps()) [[unlikely]]
    liveness_->list(*session);
  deliver(link, std::move(*message));
}

void Endpoint::deliver(SessionId session, std::unique_ptr<InMessage>&& message) {
  switch (message->header().kind) {
    case MessageKind::kRequest:
    case MessageKind::kOneWay:
      return on_request(session, std::move(message));
    case MessageKind::kReply:
      return on_reply(session, std::move(message));
    case MessageKind::kCancel:
      return on_cancel(session, message->header().call_id);
    case MessageKind::kItem:
      return on_item(session, std::move(message));
    case MessageKind::kCredit:
      return on_credit(session, message->header());
    case MessageKind::kRelease:
      return on_release(session, *message);
  }
}

void Endpoint::on_request(SessionId session, std::unique_ptr<InMessage>&& message) {
  ++stats_.calls_received;
  const Duration remaining = message->header().remaining;
  if (remaining <= Duration::zero()) return;  // the caller has ended it already
  const TimePoint deadline = loop_.now() + remaining;
  auto call = std::make_unique<InboundCall>(*this, session, std::move(message), deadline);
  begin_metered(*call);
  if (inbound_calls_ > options_.limits.max_inbound_calls)
    return call->reply_error({Code::kResourceExhausted, std::to_string(options_.limits.max_inbound_calls) +
                                                            " calls wait for their answers here already"});
  if (call->header().token != 0 && take_repeat(call)) return;
  // Most callers have decided against it.
  if (options_.tracer && call->header().trace.flags != TraceContext::kNotTraced) begin_span(*call);
  events_.on_call(std::move(call));
}

void Endpoint::on_reply(SessionId session, std::unique_ptr<InMessage>&& message) {
  OpenCall* call = find_call(message->header().call_id);
  if (!call || call->target.session != session) {
    ++stats_.replies_late;
    return;
  }
  if (message->header().target != 0 && !call->sink->has_items(message->header().target)) {
    call->parked = std::move(message);  // it has overtaken an item: see on_item()
    return;
  }
  if (call->into) [[unlikely]]
    if (auto received = message->receive_into(*call->into); !received)
      return complete(*call, std::move(received).error());
  complete(*call, std::move(message));
}

void Endpoint::on_cancel(SessionId session, std::uint64_t call_id) {
  cancel_inbound(session, call_id);
  if (const auto stream = streams_.find({session, call_id}); stream != streams_.end())
    std::shared_ptr(stream->second)->end_by_reader({Code::kCancelled, "the reader has cancelled the stream"});
}

}  // namespace troupe::rpc
