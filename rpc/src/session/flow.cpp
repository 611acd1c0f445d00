// What must wait on the way to a peer, and when it goes on: see FlowQueue for the order.
#include <algorithm>

#include <troupe/rpc/endpoint.hpp>

#include "calls/frugal_error.hpp"
#include "endpoint/core_sources.hpp"
#include "wire/envelope_patch.hpp"

namespace troupe::rpc {

namespace {
FlowQueue::Lane lane_of(bool is_reply, bool is_long) {
  if (is_reply) return FlowQueue::Lane::kReplies;
  return is_long ? FlowQueue::Lane::kLong : FlowQueue::Lane::kShort;
}
/// Whether nothing waits that must be sent before such a message. Asked for each call: counters only.
bool nothing_is_before(const FlowQueue& queue, bool is_reply, bool is_long) {
  using Lane = FlowQueue::Lane;
  if (queue.empty()) return true;
  if (is_reply) return !is_long || queue.empty(Lane::kReplies);
  return queue.empty(is_long ? Lane::kLong : Lane::kShort);
}
}  // namespace

Result<void> EndpointCore::send_frame(SessionId session, OutFrame&& frame, Flow flow, OpenCall* call,
                                      TimePoint deadline) {
  const std::size_t bytes = bytes_of(frame);
  if (bytes > options_.limits.max_message_bytes)
    return Error{Code::kResourceExhausted,
                 "a message of " + std::to_string(bytes) + " bytes is longer than the " +
                     std::to_string(options_.limits.max_message_bytes) + " allowed; send it in pieces"};
  if (call) call->metered.sent(bytes);
  if (session == kLocal) {
    if (call) own_.out.add(*call);
    if (frame.leases && must_wait(frame)) [[unlikely]]
      return hold_for_devices(session, std::move(frame), flow, call, deadline), Result<void>();
    return send_local(std::move(frame));
  }
  Session* to = find(session);
  if (!to) return Error{Code::kUnavailable, "the peer is gone"};
  if (call) to->calls.out.add(*call);
  if (frame.leases && must_wait(frame)) [[unlikely]]
    return hold_for_devices(session, std::move(frame), flow, call, deadline), Result<void>();
  try {
    return to->send(std::move(frame), bytes, flow, call, deadline);
  } catch (...) {
    return detail::current_exception_error("sending a message");
  }
}

// ---- A session's ----------------------------------------------------------------------------------

/// Whether a call may be made beside those that are not answered: so the peer never has more of them than
/// this side's bounds say, and may hold them without fear that both sides wait for each other.
bool Session::may_call(std::size_t bytes) const {
  const CallLimits& limits = endpoint_.options_.limits;
  if (calls_in_flight_ >= limits.max_calls_in_flight) return false;
  const std::size_t open = bytes > endpoint_.long_from_ ? long_call_bytes_ : short_call_bytes_;
  return open + bytes + kRequestBytes <= limits.max_bytes_in_flight || open == 0;
}

/// Whether a message may be sent now if nothing of its lane waits. A long one may always be the only one.
[[gnu::always_inline]] inline bool Session::may_send(Flow flow, std::size_t bytes) const {
  const CallLimits& limits = endpoint_.options_.limits;
  const bool is_long = bytes > endpoint_.long_from_;
  if (flow == Flow::kCall && !may_call(bytes)) return false;
  if (flow == Flow::kOneWay && !one_way_.may_send(bytes + kRequestBytes, limits.max_bytes_in_flight))
    return false;
  if (flow == Flow::kReply && !is_long) return true;
  const std::size_t in_flight = endpoint_.transport_->bytes_in_flight(link_);
  const std::size_t most = limits.max_bytes_in_flight;
  if (is_long) return in_flight + bytes <= most || in_flight == 0;
  return in_flight + bytes <= 2 * most;
}

bool Session::can_go(Flow flow, std::size_t bytes) const {
  if (!ready()) return false;
  if (flow == Flow::kUrgent) return true;
  return nothing_is_before(queue_, flow == Flow::kReply, bytes > endpoint_.long_from_) &&
         may_send(flow, bytes);
}

Result<void> Session::send_now(OutFrame&& frame, std::size_t bytes, Flow flow) {
  endpoint_.stats_.bytes_sent += bytes;
  const std::size_t elsewhere = frame.leases ? frame.leases->device_bytes : 0;
  leaving_.note(bytes - elsewhere, flow == Flow::kReply);
  if (frame.leases) [[unlikely]]
    memory_.lend(std::move(*frame.leases), flow == Flow::kReply);
  if (flow == Flow::kOneWay) [[unlikely]]
    return send_one_way(std::move(frame), bytes);
  return endpoint_.transport_->send(link_, std::move(frame));
}

Result<void> Session::send(OutFrame&& frame, std::size_t bytes, Flow flow, OpenCall* call,
                           TimePoint deadline) {
  if (!can_go(flow, bytes)) [[unlikely]]
    return wait_for_room(std::move(frame), flow, bytes, call, deadline);
  if (call) {
    begin_flow(*call, bytes);
    endpoint_.attend(*this);
  }
  return send_now(std::move(frame), bytes, flow);
}

void Session::begin_flow(OpenCall& call, std::size_t bytes) {
  call.session = this;
  call.set_waits(false);
  call.bytes = bytes;
  ++calls_in_flight_;
  (bytes > endpoint_.long_from_ ? long_call_bytes_ : short_call_bytes_) += bytes + kRequestBytes;
}

void Session::end_of_wait(OpenCall& call) {
  call.set_waits(false);
  queue_.erase(call.position);
}

Result<void> Session::wait_for_room(OutFrame&& frame, Flow flow, std::size_t bytes, OpenCall* call,
                                    TimePoint deadline) {
  const CallLimits& limits = endpoint_.options_.limits;
  // What lies in a device, or in pinned memory, does not count while it waits: that has bounds of its own.
  const std::size_t held = bytes - (frame.leases ? frame.leases->device_bytes : 0);
  if (flow != Flow::kReply) {
    // One message may always wait, however long it is.
    const bool full = queue_.calls() >= limits.max_calls_waiting ||
                      (queue_.calls() > 0 && queue_.call_bytes() + held > limits.max_bytes_waiting);
    if (full) {
      ++endpoint_.stats_.calls_refused;
      return Error{Code::kResourceExhausted, std::to_string(queue_.calls()) + " calls (" +
                                                 std::to_string(queue_.call_bytes()) + " bytes) wait for " +
                                                 name() + " already; wait for answers"};
    }
  }
  ++endpoint_.stats_.messages_waited;
  const FlowQueue::Lane lane = lane_of(flow == Flow::kReply, bytes > endpoint_.long_from_);
  const bool is_next = queue_.empty(lane);
  // A call without a deadline has no timer.
  const TimePoint until = !call ? deadline : call->scheduled() ? call->due() : TimePoint::never();
  const auto position = queue_.push(lane, {std::move(frame), held, call ? call->id() : 0, until});
  if (call) {
    call->session = this;
    call->position = position;
    call->set_waits(true);
  }
  endpoint_.attend(*this);
  if (!ready()) return {};
  endpoint_.pump_->add(*this);
  if (flow == Flow::kOneWay && is_next) ask_for_room(bytes);
  return {};
}

bool Session::send_next() {
  if (!ready()) return false;
  for (const FlowQueue::Lane lane : FlowQueue::kLanes) {
    if (queue_.empty(lane)) continue;
    const FlowQueue::Entry& first = queue_.front(lane);
    const Flow flow = lane == FlowQueue::Lane::kReplies ? Flow::kReply
                      : first.call_id != 0              ? Flow::kCall
                                                        : Flow::kOneWay;
    const bool is_late = flow == Flow::kOneWay && first.deadline <= endpoint_.loop_.now();
    const std::size_t bytes = bytes_of(first.frame);
    if (!is_late && !may_send(flow, bytes)) {
      if (flow == Flow::kOneWay && ask_for_room(bytes)) return true;
      continue;
    }
    send_first_of(lane);
    return true;
  }
  return false;
}

/// May end this session.
void Session::send_first_of(FlowQueue::Lane lane) {
  FlowQueue::Entry entry = queue_.pop(lane);
  const std::size_t bytes = bytes_of(entry.frame);
  OpenCall* call = entry.call_id != 0 ? endpoint_.find_call(entry.call_id) : nullptr;
  const Duration left = time_left(entry.deadline, endpoint_.loop_.now());
  // It holds a place now, also if it is too late: its timer is about to end it.
  if (call) begin_flow(*call, bytes);
  if (lane != FlowQueue::Lane::kReplies) {
    if (left <= Duration::zero()) {
      if (!call) one_way_.note_dropped();
      return;
    }
    // An attempt of a call that is repeated ends before the call does, as its envelope says.
    if (!call || !call->attempt) patch_remaining(entry.frame.head, left);
  }
  const Flow flow = lane == FlowQueue::Lane::kReplies ? Flow::kReply : call ? Flow::kCall : Flow::kOneWay;
  EndpointCore& endpoint = endpoint_;
  const Result<void> sent = send_now(std::move(entry.frame), bytes, flow);
  if (sent || !call) return;
  if (OpenCall* failed = endpoint.find_call(entry.call_id))
    endpoint.complete(*failed, frugal_error(sent.error()));
}

// ---- Of all sessions ------------------------------------------------------------------------------

/// Whether anything was sent, or given up.
bool EndpointCore::send_waiting(SessionId id) {
  bool any = false;
  // Found anew each time: a call that fails tells its caller, who may do anything.
  for (Session* session = find(id); session && session->send_next(); session = find(id)) any = true;
  return any;
}

void EndpointCore::lease_tensors(OutMessage& message, SessionId to, bool may_map,
                                 const troupe::Stream* after) {
  if (to == kLocal) return;
  Session* const session = to == kElsewhere ? nullptr : find(to);
  if (message.has_device_tensors()) [[unlikely]]
    depart(message, session, may_map, after);
  message.lease();
  if (may_map && session && session->memory().peer_maps) message.share(session->memory().next_lease);
}

Endpoint::Waiting EndpointCore::waiting() const {
  return {waiting_.calls, waiting_.call_bytes};
}

// ---- The pump -----------------------------------------------------------------------------------

EndpointCore::FlowPump::~FlowPump() {
  if (sessions_.empty()) return;
  const Loop::Turn turn(endpoint_.loop_);
  endpoint_.loop_.remove_source(*this);
}

void EndpointCore::FlowPump::add(Session& session) {
  if (session.pumped) return;
  sessions_.push_back(session.id());
  try {
    if (sessions_.size() == 1) endpoint_.loop_.add_source(*this);
  } catch (...) {
    sessions_.pop_back();
    throw;
  }
  session.pumped = true;
}

void EndpointCore::FlowPump::hurry(Session& session) {
  add(session);
  if (!scheduled()) endpoint_.loop_.schedule(*this, endpoint_.loop_.now());
}

int EndpointCore::FlowPump::poll() {
  int events = 0;
  const std::vector<SessionId> now(sessions_);
  for (const SessionId id : now) {
    const bool sent = endpoint_.send_waiting(id);
    const bool begun = endpoint_.begin_held(id);
    const bool told = endpoint_.tell_done(id);
    if (sent || begun || told) ++events;
  }
  if (sessions_.empty()) return events;  // polled from inside of itself
  std::erase_if(sessions_, [&](SessionId id) {
    Session* session = endpoint_.find(id);
    if (session && session->has_waiting()) return false;
    if (session) session->pumped = false;
    return true;
  });
  if (sessions_.empty()) endpoint_.loop_.remove_source(*this);
  return events;
}

}  // namespace troupe::rpc
