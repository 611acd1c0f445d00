#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <troupe/rpc/endpoint.hpp>
#include <troupe/runtime/timer.hpp>

#include "meeting/proof.hpp"
#include "session/flow_queue.hpp"
#include "session/liveness.hpp"
#include "session/session_memory.hpp"

namespace troupe::rpc {

/// Of the envelope and its attachments.
inline std::size_t bytes_of(const OutFrame& frame) {
  std::size_t bytes = frame.head.size();
  for (const Buffer& part : frame.parts) bytes += part.size();
  return bytes;
}

/// What a message is to the bounds on what is on its way to a peer.
enum class Endpoint::Flow : std::uint8_t {
  kCall,    // takes one of the peer's places until it is answered
  kOneWay,  // waits behind the calls made before it
  kReply,   // answers and items of streams: never refused, and never behind a call that waits for an answer
  kUrgent,  // short, and makes room: never waits
};

/// One link and what both sides have said on it so far.
struct Endpoint::Session {
  enum class State {
    kDialling,  // on_link has not come yet
    kGreeting,  // there is a secret: waiting for the other's greeting or challenge
    kProving,   // waiting for the other's proof
    kMeeting,   // waiting for the other's hello
    kOpening,   // hello came, our data way is open; waiting for the other's `ready`
    kReady,     // calls flow
  };

  explicit Session(LinkId id) : link(id) {}

  LinkId link;
  State state = State::kDialling;
  Peer peer;
  TimePoint begun{};
  SignsOfLife life;
  MeetingTerms terms;  // what has been said before the hello

  std::uint32_t calls_in_flight = 0;  // sent and not answered
  FlowQueue queue;                    // what waits for room, or for kReady
  SessionMemory memory;               // tensors that are mapped instead of copied
  bool pumped = false;                // the pump looks after the queue

  const std::string& name() const { return peer.node_name.empty() ? peer.address : peer.node_name; }
};

/// A greeting or a challenge, as it came.
struct Endpoint::Greeting {
  std::uint16_t scheme = 0;
  std::uint64_t node_id = 0;
  std::span<const std::byte> nonce;
};

/// A call of ours that has no answer yet; its timer is its deadline.
struct Endpoint::OpenCall final : TimerNode {
  OpenCall(Endpoint& owner, std::uint32_t own_slot) : endpoint(owner), slot(own_slot) {}
  std::uint64_t id() const { return (std::uint64_t{generation} << 32) | slot; }  // never 0

  Endpoint& endpoint;
  std::uint32_t slot;
  std::uint32_t generation = 1;
  ReplySink* sink = nullptr;  // null: the slot is free
  CallTarget target;
  Session* session = nullptr;  // while it takes a place there, sent or waiting
  FlowQueue::Place place;      // while it waits
  bool waits = false;
  detail::MeteredCall metered;
  bool attempt = false;  // of a call that may be tried again: its end is not the caller's last word
  std::shared_ptr<const Tensor> into;  // where the answer's first tensor is to lie
  std::unique_ptr<InMessage> parked;   // a stream's reply that came before the last item
  OpenSpan span;                       // null: it is not traced

 private:
  void on_timer() override;
};

// ---- Asked for each call: counters only -----------------------------------------------------------

/// Null if there is no such session.
inline Endpoint::Session* Endpoint::find(SessionId session) {
  return last_found_ && last_found_->link == session ? last_found_ : look_up(session);
}

/// Whether a message may be sent now if nothing of its lane waits. A long one may always be the only one.
inline bool Endpoint::may_send(const Session& to, Flow flow, std::size_t bytes) const {
  if (flow == Flow::kCall && to.calls_in_flight >= options_.limits.max_calls_in_flight) return false;
  if (flow == Flow::kReply && bytes <= long_from_) return true;
  const std::size_t in_flight = transport_->bytes_in_flight(to.link);
  const std::size_t most = options_.limits.max_bytes_in_flight;
  if (bytes > long_from_) return in_flight + bytes <= most || in_flight == 0;
  return in_flight + bytes <= 2 * most;
}

inline Result<void> Endpoint::send_now(Session& to, OutFrame&& frame) {
  if (frame.leases) [[unlikely]]
    to.memory.lend(std::move(*frame.leases));
  return transport_->send(to.link, std::move(frame));
}

/// What a call that is made now is part of: what its caller says, or the call that is being answered.
inline TraceContext Endpoint::trace_of(const CallOptions& options) const {
  if (!loop_.context() || options.trace.decided()) return options.trace;
  return detail::trace_of_context(loop_);
}

/// Begins the span of a call of ours, within `trace`, which becomes what the callee is told.
inline OpenSpan Endpoint::begin_span(TraceContext& trace, SpanKind kind, const CallTarget& target,
                                     const MethodId& method) {
  if (!options_.tracer) return {};
  OpenSpan span = options_.tracer->begin(trace, kind);
  if (span) [[unlikely]]
    name_span(*span, target, method);
  return span;
}

inline void Endpoint::begin_metered(InboundCall& call) {
  if (!metrics_) return;
  call.metered_ = metrics_->arrive(call.header().method);
  call.metered_.series->bytes_received += call.bytes();
}

inline void Endpoint::end_metered(detail::MeteredCall& call,
                                  const Result<std::unique_ptr<InMessage>>& reply) {
  if (!call.series) return;
  if (reply) call.series->bytes_received += (*reply)->bytes();
  call.code = !reply ? reply.error().code : (*reply)->is_error() ? (*reply)->error().code : Code::kOk;
  metrics_->end(call);
  call.series = nullptr;
}

/// Something is open on the session now: see Liveness.
inline void Endpoint::attend(Session& session) {
  if (!session.life.attended) [[unlikely]]
    liveness_->attend(session);
}

/// A call gives its place back.
inline void Endpoint::end_of_flow(OpenCall& call) {
  Session& session = *std::exchange(call.session, nullptr);
  if (std::exchange(call.waits, false))
    session.queue.erase(call.place);
  else
    --session.calls_in_flight;
}

/// Sends what waits as room comes free: asked in every round of the loop while anything waits.
class Endpoint::FlowPump final : public Source {
 public:
  explicit FlowPump(Endpoint& owner) : endpoint_(owner) {}
  ~FlowPump() override;
  void add(Session& session);
  int poll() override;

 private:
  Endpoint& endpoint_;
  std::vector<SessionId> sessions_;  // ready ones in whose queues something waits
};

/// Fires when messages of an endpoint to itself wait.
struct Endpoint::LocalDelivery final : TimerNode {
  explicit LocalDelivery(Endpoint& owner) : endpoint(owner) {}
  Endpoint& endpoint;

 private:
  void on_timer() override { endpoint.deliver_waiting_local(); }
};

}  // namespace troupe::rpc
