// Answering calls: what an InboundCall and its endpoint do from the reply to the frame that carries it.
#include <algorithm>

#include <troupe/rpc/endpoint.hpp>

#include "calls/answers.hpp"
#include "calls/call_scope.hpp"
#include "calls/recycled.hpp"
#include "endpoint/core.hpp"

namespace troupe::rpc {

void* InboundCall::operator new(std::size_t) {
  return Recycled<InboundCall>::take();
}
void InboundCall::operator delete(void* memory, std::size_t) {
  Recycled<InboundCall>::give(memory);
}

InboundCall::InboundCall(EndpointCore& endpoint, SessionId session, std::unique_ptr<InMessage> message,
                         TimePoint deadline)
    : endpoint_(&endpoint), session_(session), message_(std::move(message)), deadline_(deadline) {
  endpoint.enlist(*this);
}

void EndpointCore::enlist(InboundCall& call) {
  PeerCalls* calls = calls_of(call.session_);
  if (calls && call.session_ != kLocal)
    call.counted_bytes_ = std::min(call.bytes() + kRequestBytes, options_.limits.max_bytes_in_flight);
  if (calls)
    calls->in.add(call);
  else
    orphans_.add(call);
  ++inbound_calls_;
}

InboundCall::~InboundCall() {
  if (!endpoint_) return;
  EndpointCore& endpoint = *endpoint_;
  endpoint.shield("answering a call that was dropped", [&] {
    reply_error({Code::kInternal, "the handler dropped the call without an answer"});
  });
  if (endpoint_) endpoint.abandon(*this);
}

void InboundCall::reply_error(Error error) {
  if (!endpoint_) return;
  // Who waited for others until the deadline may be told of it as of a cancellation, and earlier than the
  // caller.
  if (error.code == Code::kCancelled && expired()) error.code = Code::kDeadlineExceeded;
  metered_.code = error.code;
  if (span_) note_error(error);
  if (error.node.empty()) {  // else it has been told where it happened
    error.node = endpoint_->options().node_name;
    endpoint_->shield("who is told of failures", [&] { endpoint_->events_.on_failure(*this, error); });
    if (!endpoint_) return;
  }
  if (direct_) return reply_directly_error(std::move(error));
  reply_with([&](OutMessage& out) { out.error(error); });
}

void InboundCall::refuse(Error error) {
  if (!endpoint_ || token_owner_ == 0) return reply_error(std::move(error));
  if (error.node.empty()) error.node = endpoint_->options().node_name;
  metered_.code = error.code;
  if (span_) note_error(error);
  EndpointCore& endpoint = *endpoint_;
  endpoint.forget(*this);
  endpoint.answer_token(
      *this, [&](OutMessage& out) { out.error(error); }, false);
}

void InboundCall::reply_with(const BodyWriter& body) {
  if (!endpoint_) return;
  EndpointCore& endpoint = *endpoint_;
  if (session_ == kLocal)
    endpoint.forget(*this);  // the caller goes on inside of the answer
  else
    endpoint.delist(*this);
  if (token_owner_ != 0) {
    endpoint.answer_token(*this, body, true);
  } else if (header().kind == MessageKind::kRequest && !cancelled_) {
    endpoint.answer(*this, body);
  } else if (span_) {
    endpoint.end_span(*this, std::move(span_));
  }
  // The answer is on its way: nobody waits for this any more.
  if (metered_.series && session_ != kLocal) endpoint.metrics()->end(metered_);
}

void EndpointCore::forget(InboundCall& call) {
  delist(call);
  if (call.metered_.series) metrics_->end(call.metered_);
}

/// Ends a call without an answer, as if it had never come.
void EndpointCore::drop(InboundCallPtr call) {
  abandon(*call);
}

void EndpointCore::abandon(InboundCall& call) {
  if (const std::uint64_t owner = std::exchange(call.token_owner_, 0); owner != 0) {
    // Its repeats have nothing to wait for; they answer as they go.
    const Answers::Id id = Answers::id_of(call);
    Answers::Record* record = answers_->find(owner, id);
    const auto repeats = record ? std::exchange(record->repeats, {}) : std::vector<InboundCallPtr>();
    answers_->forget(owner, id);
  }
  forget(call);
}

void EndpointCore::delist(InboundCall& call) {
  call.listed_->remove(call);
  call.endpoint_ = nullptr;
  --inbound_calls_;
  if (call.header().kind == MessageKind::kOneWay) [[unlikely]]
    note_done(call.session_, call.bytes());
  if (call.scope_) [[unlikely]]
    call.scope_->finish();
}

void EndpointCore::answer(InboundCall& call, const BodyWriter& body) {
  MessageHeader header;  // member by member: as a list of values it would be zeroed first, word by word
  header.kind = MessageKind::kReply;
  header.call_id = call.header().call_id;
  header.target = call.items_;
  auto frame = encode(header, body, call.session_, true);
  if (frame) call.metered_.sent(bytes_of(*frame));
  if (call.span_ && !frame) detail::note_error(*call.span_, frame.error());
  if (call.span_) options_.tracer->stop(*call.span_);  // before the caller's; the rest has time
  if (call.span_ && call.session_ == kLocal) end_span(call, std::move(call.span_));
  const Result<void> sent =
      frame ? send_frame(call.session_, std::move(*frame), Flow::kReply, nullptr, call.deadline_)
            : std::move(frame).error();
  if (call.span_) end_span(call, std::move(call.span_));
  // The caller must hear of it all the same; if it is gone this does nothing.
  if (!sent) answer_error(call, with_context(sent.error(), "the answer could not be sent"));
}

/// Whatever is in flight: an error is short.
void EndpointCore::answer_error(const InboundCall& call, const Error& error) {
  auto frame = encode({MessageKind::kReply, call.header().call_id, call.items_, 0, 0, Duration{0}, {}},
                      [&](OutMessage& out) { out.error(error); });
  if (!frame) return;
  (void)send_frame(call.session_, std::move(*frame), Flow::kReply);
}

}  // namespace troupe::rpc
