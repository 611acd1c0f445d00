// What must wait on the way to a peer, and when it goes on: see FlowQueue for the order.
#include <algorithm>

#include <troupe/rpc/endpoint.hpp>

#include "endpoint/endpoint_parts.hpp"
#include "wire/envelope_patch.hpp"

namespace troupe::rpc {

namespace {
FlowQueue::Lane lane_of(bool is_reply, bool is_long) {
  if (is_reply) return FlowQueue::Lane::kReplies;
  return is_long ? FlowQueue::Lane::kLong : FlowQueue::Lane::kShort;
}
}  // namespace

Result<void> Endpoint::wait_for_room(Session& to, OutFrame&& frame, Flow flow, std::size_t bytes,
                                     OpenCall* call, TimePoint deadline) {
  FlowQueue& queue = to.queue;
  if (flow != Flow::kReply) {
    // One message may always wait, however long it is.
    const bool full = queue.calls() >= options_.limits.max_calls_waiting ||
                      (queue.calls() > 0 && queue.call_bytes() + bytes > options_.limits.max_bytes_waiting);
    if (full) {
      ++stats_.calls_refused;
      return Error{Code::kResourceExhausted, std::to_string(queue.calls()) + " calls (" +
                                                 std::to_string(queue.call_bytes()) + " bytes) wait for " +
                                                 to.name() + " already; wait for answers"};
    }
  }
  ++stats_.messages_waited;
  const FlowQueue::Lane lane = lane_of(flow == Flow::kReply, bytes > long_from_);
  const TimePoint until = call ? call->due() : deadline;
  const auto place = queue.push(lane, {std::move(frame), bytes, call ? call->id() : 0, until});
  if (call) {
    call->session = &to;
    call->place = place;
    call->waits = true;
  }
  attend(to);
  if (to.state == Session::State::kReady) pump_->add(to);
  return {};
}

/// Whether anything was sent, or given up.
bool Endpoint::send_waiting(SessionId id) {
  bool any = false;
  for (const FlowQueue::Lane lane : FlowQueue::kLanes) {
    // Found anew each time: a call that fails tells its caller, who may do anything.
    while (Session* session = find(id)) {
      FlowQueue& queue = session->queue;
      if (queue.empty(lane)) break;
      const Flow flow = lane == FlowQueue::Lane::kReplies ? Flow::kReply
                        : queue.front(lane).call_id != 0  ? Flow::kCall
                                                          : Flow::kOneWay;
      if (!may_send(*session, flow, queue.front(lane).bytes)) break;
      send_next(*session, static_cast<FlowLane>(lane));
      any = true;
    }
  }
  return any;
}

void Endpoint::send_next(Session& session, FlowLane lane_number) {
  const auto lane = static_cast<FlowQueue::Lane>(lane_number);
  FlowQueue::Entry entry = session.queue.pop(lane);
  OpenCall* call = entry.call_id != 0 ? find_call(entry.call_id) : nullptr;
  const Duration left = entry.deadline - loop_.now();
  if (call) {
    call->waits = false;  // it holds a place now, also if it is too late: its timer is about to end it
    ++session.calls_in_flight;
  }
  if (lane != FlowQueue::Lane::kReplies) {
    if (left <= Duration::zero()) return;
    // An attempt of a call that is repeated ends before the call does, as its envelope says.
    if (!call || !call->attempt) patch_remaining(entry.frame.head, left);
  }
  stats_.bytes_sent += entry.bytes;
  const Result<void> sent = send_now(session, std::move(entry.frame));
  if (!sent && call) complete(*call, sent.error());
}

Endpoint::Waiting Endpoint::waiting() const {
  Waiting all;
  for (const auto& [id, session] : sessions_) {
    all.calls += session->queue.calls();
    all.bytes += session->queue.call_bytes();
  }
  return all;
}

// ---- The pump -----------------------------------------------------------------------------------

Endpoint::FlowPump::~FlowPump() {
  if (sessions_.empty()) return;
  const Loop::Turn turn(endpoint_.loop_);
  endpoint_.loop_.remove_source(*this);
}

void Endpoint::FlowPump::add(Session& session) {
  if (std::exchange(session.pumped, true)) return;
  if (sessions_.empty()) endpoint_.loop_.add_source(*this);
  sessions_.push_back(session.link);
}

int Endpoint::FlowPump::poll() {
  int events = 0;
  const std::vector<SessionId> now(sessions_);
  for (const SessionId id : now)
    if (endpoint_.send_waiting(id)) ++events;
  if (sessions_.empty()) return events;  // polled from inside of itself
  std::erase_if(sessions_, [&](SessionId id) {
    Session* session = endpoint_.find(id);
    if (session && !session->queue.empty()) return false;
    if (session) session->pumped = false;
    return true;
  });
  if (sessions_.empty()) endpoint_.loop_.remove_source(*this);
  return events;
}

}  // namespace troupe::rpc
