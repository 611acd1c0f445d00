// Messages that come in, from peers and from ourselves: what becomes of each kind.
#include <cassert>

#include <troupe/rpc/stream_ends.hpp>

#include "device/device_tensors.hpp"
#include "endpoint/core_sources.hpp"

namespace troupe::rpc {

void EndpointCore::deliver(SessionId session, std::unique_ptr<InMessage>&& message) {
  const MessageKind kind = message->header().kind;
  const bool is_answer = kind == MessageKind::kStaged;  // which belongs to another message
  if (devices_ && !is_answer && take_to_devices(session, message)) return;
  deliver_whole(session, std::move(message));
}

void EndpointCore::deliver_whole(SessionId session, std::unique_ptr<InMessage>&& message) {
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
    case MessageKind::kAskDone:
      return on_ask_done(session, message->header().target);
    case MessageKind::kDone:
      return on_done(session, message->header().target);
    case MessageKind::kStage:
      return on_stage(session, message->header().target);
    case MessageKind::kStaged:
      return on_staged(session, *message);
  }
}

void EndpointCore::on_request(SessionId session, std::unique_ptr<InMessage>&& message) {
  ++stats_.calls_received;
  const Duration remaining = message->header().remaining;
  if (remaining <= Duration::zero()) {  // the caller has ended it already
    if (message->header().kind == MessageKind::kOneWay) note_done(session, message->bytes());
    return;
  }
  const TimePoint deadline = loop_.now() + remaining;
  auto call = std::make_unique<InboundCall>(*this, session, std::move(message), deadline);
  if (session != kLocal)
    if (Session* from = find(session)) return from->take_in(std::move(call));
  begin_request(std::move(call));
}

void EndpointCore::begin_request(InboundCallPtr call) {
  begin_metered(*call);
  // No peer has more than there are in all, so one number is looked at as long as all is well.
  if (inbound_calls_ > options_.limits.max_inbound_calls_per_peer) [[unlikely]]
    if (auto refused = check_inbound(*call); !refused) return call->reply_error(std::move(refused).error());
  if (call->header().token != 0 && take_repeat(call, caller_of(*call))) return;
  hand_on(std::move(call));
}

/// Whether one more may run here: of all, and of its peer's share, so that no peer takes the others' places.
/// Those that are held have bounds of their own, and do not count for the peer.
Result<void> EndpointCore::check_inbound(const InboundCall& call) {
  const CallLimits& limits = options_.limits;
  if (inbound_calls_ > limits.max_inbound_calls)
    return Error{Code::kResourceExhausted,
                 std::to_string(limits.max_inbound_calls) +
                     " calls wait for their answers here already (limits.max_inbound_calls)"};
  const Session* const peer = find(call.session());  // null: ourselves
  // On all its sessions, and on those that have ended: who hangs up and comes back is to have no more.
  if (!peer || !peer->calls.node || peer->calls.node->running <= limits.max_inbound_calls_per_peer) return {};
  // What it repeats has a place already.
  if (call.header().token != 0 && first_of(call)) return {};
  return Error{Code::kResourceExhausted,
               std::to_string(limits.max_inbound_calls_per_peer) + " calls of " + peer->name() +
                   " wait for their answers here already (limits.max_inbound_calls_per_peer); wait for some"};
}

void EndpointCore::hand_on(InboundCallPtr call) {
  // Most callers have decided against it.
  if (options_.tracer && call->header().trace.flags != TraceContext::kNotTraced) begin_span(*call);
  shield("a call that came in", [&] { events_.on_call(std::move(call)); });
}

void EndpointCore::on_reply(SessionId session, std::unique_ptr<InMessage>&& message) {
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

void EndpointCore::on_cancel(SessionId session, std::uint64_t call_id) {
  if (devices_) [[unlikely]]
    cancel_arrivals(session, call_id);
  if (PeerCalls* calls = calls_of(session)) cancel_inbound(*calls, call_id);
  PeerCalls* calls = calls_of(session);  // anew: who is told may end the session
  if (!calls) return;
  if (const auto stream = calls->streams.find(call_id); stream != calls->streams.end())
    std::shared_ptr(stream->second)->end_by_reader({Code::kCancelled, "the reader has cancelled the stream"});
}

void EndpointCore::on_release(SessionId id, const InMessage& message) {
  Session* session = find(id);
  if (session && !session->take_back_leases(message))
    return end_session(id, {Code::kDataLoss, "a peer's message is not valid: no list of leases"}, true);
  if (devices_) devices_->pinned_queue().go_on();
}

}  // namespace troupe::rpc
