// Tensors in device memory: the endpoint's part, from the meeting to the message that is sent. How they come:
// core_arrivals.cpp.
#include <algorithm>
#include <optional>
#include <utility>

#include "calls/frugal_error.hpp"
#include "device/departure.hpp"
#include "device/device_tensors.hpp"
#include "endpoint/core.hpp"
#include "wire/envelope_layout.hpp"
#include "wire/envelope_patch.hpp"
#include "wire/flat_reader.hpp"
#include "wire/head_pool.hpp"

namespace troupe::rpc {

namespace {

/// What stands in place of a message of ours that cannot be sent; kCancel: nothing.
MessageHeader substitute_of(const Buffer& head) {
  MessageHeader header{MessageKind::kCancel, 0, 0, 0, 0, Duration{0}, {}};
  flat::Reader reader;
  flat::StructView envelope;
  if (!reader.open(head.bytes()) || !reader.root(envelope)) return header;
  const auto kind = static_cast<MessageKind>(envelope.get<std::uint16_t>(EnvelopeLayout::kKind));
  if (kind == MessageKind::kReply || kind == MessageKind::kItem) {
    header.kind = MessageKind::kReply;
    header.call_id = envelope.get<std::uint64_t>(EnvelopeLayout::kCallId);
  } else if (kind == MessageKind::kStaged) {
    header.kind = MessageKind::kStaged;
    header.target = envelope.get<std::uint64_t>(EnvelopeLayout::kTarget);
  }
  return header;
}

bool is_one_way(const Buffer& head) {
  flat::Reader reader;
  flat::StructView envelope;
  return reader.open(head.bytes()) && reader.root(envelope) &&
         envelope.get<std::uint16_t>(EnvelopeLayout::kKind) ==
             static_cast<std::uint16_t>(MessageKind::kOneWay);
}

}  // namespace

// ---- Sending --------------------------------------------------------------------------------------

void EndpointCore::depart(OutMessage& message, Session* to, bool may_stay, const troupe::Stream* after) {
  if (!devices_)
    throw BadResult({Code::kFailedPrecondition,
                     "a tensor lies in device memory, and this node was given no GPUs (NodeOptions::gpus)"});
  const bool knows = to && to->ready();
  const bool shares = knows && may_stay;
  std::uint64_t no_lease = 0;
  DeviceDeparture departure(
      *devices_, {knows ? &to->memory().devices : nullptr, shares, shares && to->memory().peer_maps},
      knows ? to->memory().next_lease : no_lease, after);
  message.depart(departure, transport_->limits().max_head_bytes);
  stats_.device_mapped += departure.stayed;
  stats_.device_staged += departure.staged;
  stats_.device_mapped_bytes += departure.stayed_bytes;
  stats_.device_staged_bytes += departure.staged_bytes;
}

bool EndpointCore::must_wait(const OutFrame& frame) {
  auto& waits = frame.leases->waits;
  std::erase_if(waits, [](const Event& event) { return event.done(); });
  return !waits.empty() || !frame.leases->later.empty();
}

/// Copies to pinned memory, as far as there is any. False: that is not all.
Result<bool> EndpointCore::stage_later(SessionId session, OutFrame& frame) {
  FrameLeases& leases = *frame.leases;
  Session* const to = session == kLocal ? nullptr : find(session);
  for (StagedLater& each : leases.later) {
    if (each.memory.empty()) continue;
    const std::size_t bytes = each.memory.size();
    DeviceLane* const lane = devices_->lane_of(each.memory.device());
    if (!lane) return devices_->no_lane(each.memory.device());
    auto host = devices_->staging()->take(bytes, Staging::For::kSending);
    if (!host && host.error().code == Code::kUnavailable) return false;
    if (!host) return host.error();
    const auto location =
        each.may_share && to && bytes >= SharedPool::kSmallest ? SharedPool::locate(*host) : std::nullopt;
    auto begun = begin_staging(*devices_, *lane, std::move(each.memory), *host, each.after,
                               location && each.may_follow);
    each.memory = Buffer();
    if (!begun) return begun.error();
    if (!begun->follows) leases.waits.push_back(std::move(begun->written));
    if (location) {
      const std::uint64_t lease = to->memory().next_lease++;
      patch_shared(frame.head, each.attachment, *location, lease, begun->follows);
      leases.late.emplace_back(lease, SharedLease(*std::move(host)));
      leases.device_leases.emplace_back(lease, bytes);
    } else {
      frame.parts[each.part] = SharedPool::leased(*std::move(host));
      leases.device_bytes -= bytes;
    }
  }
  std::erase_if(frame.parts, [](const Buffer& part) { return part.empty(); });
  leases.later.clear();
  return true;
}

/// Others go on meanwhile; those that wait for the same keep their order.
void EndpointCore::hold_for_memory(SessionId session, OutFrame&& frame, Flow flow, std::uint64_t call_id,
                                   TimePoint deadline) {
  ++stats_.device_waited;
  const auto held = std::make_shared<OutFrame>(std::move(frame));
  const auto over = [this, session, call_id, deadline]() -> std::optional<Error> {
    if (call_id != 0 && !find_call(call_id)) return Error{Code::kCancelled, "the call has ended"};
    if (session != kLocal && !find(session)) return Error{Code::kUnavailable, "the peer is gone"};
    if (deadline <= loop_.now())
      return Error{Code::kDeadlineExceeded, "no pinned memory for a device tensor in time"};
    return std::nullopt;
  };
  const auto take = [this, session, held]() -> Result<bool> {
    try {
      return stage_later(session, *held);
    } catch (...) {
      return detail::current_exception_error("copying a device tensor to pinned memory");
    }
  };
  devices_->pinned_queue().add(
      {over, take, [this, session, held, flow, call_id, deadline](Result<void> taken) {
         const HeadPool::Scope heads(*heads_);
         shield("a message that waited for pinned memory", [&] {
           if (!taken) return fail_held(session, *held, call_id, taken.error());
           hold_for_devices(session, std::move(*held), flow, call_id != 0 ? find_call(call_id) : nullptr,
                            deadline);
         });
       }});
}

/// The call, if it makes one, has its place with the peer already, and ends with that.
void EndpointCore::hold_for_devices(SessionId session, OutFrame&& frame, Flow flow, OpenCall* call,
                                    TimePoint deadline) {
  const std::uint64_t call_id = call ? call->id() : 0;
  if (!frame.leases->later.empty())
    return hold_for_memory(session, std::move(frame), flow, call_id, deadline);
  auto waits = std::exchange(frame.leases->waits, {});
  devices_->when_all(std::move(waits), [this, session, flow, call_id, deadline,
                                        held = std::move(frame)](Result<void> outcome) mutable {
    const HeadPool::Scope heads(*heads_);
    shield("a message that waited for a GPU", [&] {
      // Its head alone is needed to tell of a failure, and what is sent is used up.
      const OutFrame told{held.head, {}};
      Result<void> sent = std::move(outcome);
      try {
        if (sent) sent = send_held(session, std::move(held), flow, call_id, deadline);
      } catch (...) {
        sent = detail::current_exception_error("sending a message");
      }
      if (!sent) fail_held(session, told, call_id, sent.error());
    });
  });
}

Result<void> EndpointCore::send_held(SessionId session, OutFrame&& frame, Flow flow, std::uint64_t call_id,
                                     TimePoint deadline) {
  OpenCall* const call = call_id != 0 ? find_call(call_id) : nullptr;
  if (call_id != 0 && !call) return {};  // it has ended meanwhile
  if (call && call->scheduled() && !call->attempt)
    patch_remaining(frame.head, std::max(time_left(call->due(), loop_.fresh_now()), Duration(1)));
  if (!call && deadline != TimePoint::never() && is_one_way(frame.head)) {
    const Duration left = time_left(deadline, loop_.fresh_now());
    if (left <= Duration::zero()) return {};  // as those that wait for room
    patch_remaining(frame.head, left);
  }
  if (session == kLocal) return send_local(std::move(frame));
  Session* const to = find(session);
  if (!to) return {};  // and with it all that was open there
  const std::size_t bytes = bytes_of(frame);
  return to->send(std::move(frame), bytes, flow, call, deadline);
}

/// Who waits for what the message says must hear that it will not come.
void EndpointCore::fail_held(SessionId session, const OutFrame& frame, std::uint64_t call_id,
                             const Error& why) {
  if (call_id != 0) {
    if (OpenCall* const call = find_call(call_id)) complete(*call, Error(why));
    return;
  }
  const MessageHeader header = substitute_of(frame.head);
  // Nobody waits for a one-way message: it is told here.
  if (is_one_way(frame.head)) events_.on_exception(with_context(why, "a one-way message was not sent"));
  if (header.kind == MessageKind::kCancel) return;
  auto answer = encode(header, [&](OutMessage& out) {
    Error told = with_context(why, "the answer could not be sent");
    told.node = options_.node_name;
    out.error(told);
  });
  if (answer) (void)send_frame(session, std::move(*answer), Flow::kReply);
}

// ---- Meeting and parting --------------------------------------------------------------------------

void EndpointCore::meet_devices(Session& session) {
  if (!options_.map_gpu_memory) {
    // A copy: who is told may end the session.
    return events_.on_device_way(session.id(), Peer(session.peer()),
                                 "staged through pinned memory (map_gpu_memory is off)");
  }
  devices_->meet(session.memory().devices.gpus,
                 [this, id = session.id()](std::vector<Reach> reached, const std::string& words) {
                   shield("GPUs that have met", [&] {
                     Session* const met = find(id);
                     if (!met) return;
                     met->memory().devices.we_reach = std::move(reached);
                     met->tell_reaches();
                     const Peer peer = met->peer();
                     events_.on_device_way(id, peer, words);
                   });
                 });
}

void EndpointCore::leave_devices(Session& session) {
  leave_arrivals(session.id());
  session.memory().devices.slabs.clear([this](auto mapping) { devices_->let_go(std::move(mapping)); });
  // The peer may not have heard yet that this is over, and may be copying what it will take for whole.
  auto lent = session.memory().take_device_leases();
  const bool lives = session.memory().owner_lives();
  session.memory().end();
  if (!lent.empty() && lives) devices_->retire(std::move(lent), loop_.now() + 2 * options_.silence_limit);
  if (devices_->staging()) devices_->staging()->forget_peers();
}

/// The peer has given a slab back.
void EndpointCore::forget_slab(Session& session, std::uint64_t slab) {
  if (!devices_) return;
  session.memory().devices.slabs.remove(slab, [this](auto mapping) { devices_->let_go(std::move(mapping)); });
}

/// Slabs of ours are freed: peers that map them keep their memory from others.
void EndpointCore::tell_slabs_gone(const std::vector<std::uint64_t>& slabs) {
  for (const auto& [id, session] : sessions_)
    if (session->met() && !session->memory().devices.it_reaches.empty()) session->tell_slabs_gone(slabs);
}

Endpoint::DeviceUse EndpointCore::device_use() const {
  Endpoint::DeviceUse use;
  if (!devices_) return use;
  if (const Staging* const staging = devices_->staging()) use.pinned_bytes = staging->bytes();
  use.messages_waiting = devices_->pinned_queue().size();
  use.messages_arriving = devices_->arriving.size();
  for (const auto& [id, session] : sessions_) use.slabs_mapped += session->memory().devices.slabs.size();
  for (const auto& lane : devices_->lanes()) use.pool_bytes += lane->pool.stats().bytes_in_use;
  return use;
}

}  // namespace troupe::rpc
