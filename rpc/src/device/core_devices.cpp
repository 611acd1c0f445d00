// Tensors in device memory: the endpoint's part, from the message that is made to the one that has come.
#include <algorithm>
#include <utility>

#include "calls/frugal_error.hpp"
#include "device/arrival.hpp"
#include "device/departure.hpp"
#include "device/device_tensors.hpp"
#include "endpoint/core.hpp"
#include "wire/envelope_layout.hpp"
#include "wire/envelope_patch.hpp"
#include "wire/flat_reader.hpp"
#include "wire/head_pool.hpp"

namespace troupe::rpc {

namespace {

/// Slabs of one peer that are kept mapped between tensors.
constexpr std::size_t kMostSlabs = 256;

/// Of an envelope of ours.
std::uint64_t call_id_of(const Buffer& head) {
  flat::Reader reader;
  flat::StructView envelope;
  if (!reader.open(head.bytes()) || !reader.root(envelope)) return 0;
  return envelope.get<std::uint64_t>(EnvelopeLayout::kCallId);
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
}

bool EndpointCore::must_wait(const OutFrame& frame) {
  auto& waits = frame.leases->waits;
  std::erase_if(waits, [](const Event& event) { return event.done(); });
  return !waits.empty();
}

/// The call, if it makes one, has its place with the peer already, and ends with that.
void EndpointCore::hold_for_devices(SessionId session, OutFrame&& frame, Flow flow, OpenCall* call,
                                    TimePoint deadline) {
  auto waits = std::exchange(frame.leases->waits, {});
  const std::uint64_t call_id = call ? call->id() : 0;
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
  flat::Reader reader;
  flat::StructView envelope;
  if (!reader.open(frame.head.bytes()) || !reader.root(envelope)) return;
  const auto kind = static_cast<MessageKind>(envelope.get<std::uint16_t>(EnvelopeLayout::kKind));
  if (kind != MessageKind::kReply && kind != MessageKind::kItem) return;
  auto answer =
      encode({MessageKind::kReply, call_id_of(frame.head), 0, 0, 0, Duration{0}, {}}, [&](OutMessage& out) {
        Error told = with_context(why, "the answer could not be sent");
        told.node = options_.node_name;
        out.error(told);
      });
  if (answer) (void)send_frame(session, std::move(*answer), Flow::kReply);
}

// ---- Receiving ------------------------------------------------------------------------------------

bool EndpointCore::take_to_devices(SessionId id, std::unique_ptr<InMessage>& message) {
  if (devices_->lanes().empty()) return false;
  std::shared_ptr<const Tensor> into;
  if (!into_.empty() && message->header().kind == MessageKind::kReply) {
    const OpenCall* const call = find_call(message->header().call_id);
    if (call && call->target.session == id) into = call->into;
    // A second answer must not be written where the first one lies.
    if (into && std::ranges::find(receiving_, message->header().call_id) != receiving_.end()) {
      ++stats_.replies_late;
      return true;
    }
  }
  if (!message->from_device() && !(into && into->device().kind == MemoryKind::kDevice)) return false;
  Session* const session = id == kLocal ? nullptr : find(id);
  auto arrival = std::make_shared<DeviceArrival>(*devices_, loop_.now(), into);
  const auto any = arrival->examine(*message, session ? &session->memory().devices : nullptr);
  if (!any) {
    end_session(id, any.error(), true);
    return true;
  }
  if (!*any) return false;
  if (into) receiving_.push_back(message->header().call_id);
  arrival->take(std::move(message));
  map_slabs(id, arrival);
  return true;
}

void EndpointCore::map_slabs(SessionId id, const std::shared_ptr<DeviceArrival>& arrival) {
  for (DeviceArrival::Piece& piece : arrival->pieces()) {
    if (!piece.needs_mapping()) continue;
    Session* const session = find(id);
    if (!session) return;
    auto& mappings = session->memory().devices.mappings;
    const std::pair key(piece.slab.id, static_cast<std::uint8_t>(piece.lane));
    if (const auto known = mappings.find(key); known != mappings.end()) {
      piece.mapping = known->second;
      continue;
    }
    return devices_->map(piece.slab, key.second, [this, id, key, arrival](auto mapping) {
      shield("device memory that was mapped", [&] {
        Session* const owner = find(id);
        if (!mapping) return end_session(id, mapping.error(), true);
        if (!owner) return devices_->let_go(*std::move(mapping));
        auto& all = owner->memory().devices.mappings;
        for (auto each = all.begin(); all.size() >= kMostSlabs && each != all.end();) {
          if (each->second.use_count() == 1) devices_->let_go(std::move(each->second));
          each = each->second ? std::next(each) : all.erase(each);
        }
        if (const auto [place, is_new] = all.try_emplace(key, *mapping); !is_new)
          devices_->let_go(*std::move(mapping));
        map_slabs(id, arrival);
      });
    });
  }
  bring(id, arrival);
}

void EndpointCore::bring(SessionId id, const std::shared_ptr<DeviceArrival>& arrival) {
  if (auto begun = arrival->begin(); !begun) return end_session(id, begun.error(), true);
  const auto advance = [this, id, arrival]() -> Result<bool> {
    if (id != kLocal && !find(id)) return Error{Code::kUnavailable, "the peer is gone"};
    return arrival->advance();
  };
  devices_->when_given(advance, [this, id, arrival](Result<void> given) {
    // Whatever became of it, what a device has been given it is left to do in peace.
    auto events = arrival->events();
    if (!events) devices_->lose(arrival);
    if (!events && given) given = events.error();
    auto waits = events ? *std::move(events) : std::vector<Event>();
    devices_->when_all(std::move(waits), [this, id, arrival, given = std::move(given)](Result<void> done) {
      const HeadPool::Scope heads(*heads_);
      shield("a message for a GPU", [&] { brought(id, *arrival, given ? done : given); });
    });
  });
}

void EndpointCore::brought(SessionId id, DeviceArrival& arrival, const Result<void>& outcome) {
  std::erase(receiving_, arrival.message().header().call_id);
  if (!outcome) return fail_arrival(id, arrival, outcome.error());
  Session* const session = id == kLocal ? nullptr : find(id);
  if (id != kLocal && !session) return;
  if (session)
    for (const std::uint64_t lease : arrival.leases()) session->memory().return_lease(lease);
  auto message = arrival.finish(loop_.now());
  // What was staged is wanted for the next tensor, and to lock more takes longer than this; what stays where
  // it is can wait until the callee has answered.
  if (session && arrival.leases().empty()) session->return_leases();
  deliver_whole(id, std::move(message));
  if (Session* const still = find(id)) still->return_leases();
}

/// There is no memory, or a device has failed: the call ends with that.
void EndpointCore::fail_arrival(SessionId id, DeviceArrival& arrival, const Error& why) {
  Session* const session = id == kLocal ? nullptr : find(id);
  if (id != kLocal && !session) return;
  if (session) {
    for (const std::uint64_t lease : arrival.leases()) session->memory().return_lease(lease);
    session->return_leases();
  }
  const MessageHeader& header = arrival.message().header();
  Error error = with_context(why, "a device tensor could not be received");
  if (header.kind == MessageKind::kOneWay) return note_done(id, arrival.message().bytes());
  if (header.kind == MessageKind::kReply || header.kind == MessageKind::kItem) {
    OpenCall* const call = find_call(header.call_id);
    if (!call || call->target.session != id) return;
    if (header.kind == MessageKind::kItem) send_cancel(call->target, header.call_id);
    complete(*call, std::move(error));
    return;
  }
  error.node = options_.node_name;
  auto answer = encode({MessageKind::kReply, header.call_id, 0, 0, 0, Duration{0}, {}},
                       [&](OutMessage& out) { out.error(error); });
  if (answer) (void)send_frame(id, std::move(*answer), Flow::kReply);
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
  for (auto& [key, mapping] : session.memory().devices.mappings) devices_->let_go(std::move(mapping));
  session.memory().devices.mappings.clear();
  // The peer may not have heard yet that this is over, and may be copying what it will take for whole.
  auto lent = session.memory().take_device_leases();
  const bool lives = session.memory().owner_lives();
  session.memory().end();
  if (!lent.empty() && lives) devices_->retire(std::move(lent), loop_.now() + 2 * options_.silence_limit);
  if (devices_->staging()) devices_->staging()->forget_peers();
}

}  // namespace troupe::rpc
