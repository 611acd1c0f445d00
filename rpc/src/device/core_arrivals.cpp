// Tensors in device memory that come: from the message that has arrived to the one whose tensors have, too.
#include <algorithm>
#include <utility>

#include "device/arrival.hpp"
#include "device/device_tensors.hpp"
#include "endpoint/core.hpp"
#include "wire/head_pool.hpp"

namespace troupe::rpc {

namespace {

/// Answers and items of streams, for a call of ours.
bool is_for_call(const DeviceArrival& arrival) {
  const MessageKind kind = arrival.message().header().kind;
  return kind == MessageKind::kReply || kind == MessageKind::kItem;
}

}  // namespace

bool EndpointCore::take_to_devices(SessionId id, std::unique_ptr<InMessage>& message) {
  if (devices_->lanes().empty()) return false;
  const MessageHeader& header = message->header();
  std::shared_ptr<const Tensor> into;
  if (!into_.empty() && header.kind == MessageKind::kReply) {
    const OpenCall* const call = find_call(header.call_id);
    if (call && call->target.session == id) into = call->into;
    // A second answer must not be written where the first one lies.
    const auto comes = [&](const Arriving& each) {
      return each.session == id && is_for_call(*each.arrival) &&
             each.arrival->message().header().call_id == header.call_id;
    };
    if (into && std::ranges::any_of(devices_->arriving, comes)) {
      ++stats_.replies_late;
      return true;
    }
  }
  if (!message->from_device() && !(into && into->device().kind == MemoryKind::kDevice)) return false;
  Session* const session = id == kLocal ? nullptr : find(id);
  auto arrival = std::make_shared<DeviceArrival>(*devices_, loop_.now(), into, id == kLocal);
  const auto any = arrival->examine(*message, session ? &session->memory().devices : nullptr);
  if (!any) {
    end_session(id, any.error(), true);
    return true;
  }
  if (!*any) return false;
  arrival->take(std::move(message));
  begin_arrival(id, arrival);
  prepare(id, arrival);
  return true;
}

/// From now on it is listed until it has ended; a peer whose request it is is charged for it.
void EndpointCore::begin_arrival(SessionId id, const std::shared_ptr<DeviceArrival>& arrival) {
  Arriving& listed = devices_->arriving.emplace_back();
  listed.session = id;
  listed.arrival = arrival;
  arrival->place = std::prev(devices_->arriving.end());
  devices_->reserve_lost();
  ++stats_.device_arrived;
  stats_.device_arrived_bytes += arrival->own_bytes();
  if (is_for_call(*arrival)) return;
  if (Session* const session = id == kLocal ? nullptr : find(id)) {
    listed.counted = std::min(arrival->message().bytes(), options_.limits.max_bytes_in_flight);
    session->begin_arrival(listed.counted);
  }
  const TimePoint deadline = arrival->deadline();
  if (deadline == TimePoint::never()) return;
  listed.late.set([this, arrival = arrival.get()] { give_up(*arrival->place); });
  loop_.schedule(listed.late, deadline);
}

/// Nobody wants it any more. What devices have been given they do before memory goes elsewhere.
void EndpointCore::give_up(Arriving& listed) {
  const std::shared_ptr<DeviceArrival> arrival = listed.arrival;
  if (arrival->given_up()) return;
  arrival->give_up();
  ++stats_.device_given_up;
  if (arrival->stage == DeviceArrival::Stage::kPreparing)
    brought(listed.session, arrival, Error{Code::kCancelled, "nobody waits for it"});
}

/// Finds for each piece where its bytes are: its slab is mapped, or the peer has sent them.
void EndpointCore::prepare(SessionId id, const std::shared_ptr<DeviceArrival>& arrival) {
  if (arrival->stage != DeviceArrival::Stage::kPreparing || arrival->is_mapping) return;
  bool waits = false;
  for (DeviceArrival::Piece& piece : arrival->pieces()) {
    if (!piece.is_missing()) continue;
    Session* const session = find(id);
    if (!session) return;
    PeerDevices& devices = session->memory().devices;
    const Reach way{piece.gpu, static_cast<std::uint8_t>(piece.lane)};
    if (devices.is_lost(way)) {
      waits = true;
      if (std::exchange(piece.asked, true)) continue;
      ++stats_.device_fetched;
      auto frame = encode({MessageKind::kStage, 0, piece.lease, 0, 0, Duration{0}, {}},
                          [](OutMessage& out) { out.values(0); });
      if (frame) (void)send_frame(id, std::move(*frame), Flow::kUrgent);
      continue;
    }
    const PeerSlabs::Key key(piece.slab.id, way.reader);
    piece.mapping = devices.slabs.find(key);
    if (piece.mapping) continue;
    arrival->is_mapping = true;
    return devices_->map(piece.slab, way.reader, [this, id, key, way, arrival](auto mapping) {
      shield("device memory that was mapped", [&] {
        arrival->is_mapping = false;
        Session* const owner = find(id);
        if (mapping && !owner) return devices_->let_go(*std::move(mapping));
        if (!owner) return;
        if (mapping)
          owner->memory().devices.slabs.add(key, *std::move(mapping),
                                            [this](auto old) { devices_->let_go(std::move(old)); });
        else
          lose_way(*owner, way, mapping.error());
        prepare(id, arrival);
      });
    });
  }
  if (!waits) bring(id, arrival);
}

/// A slab could not be mapped, though others could: from now on the peer stages what this GPU is to have of
/// that one. May end the session.
void EndpointCore::lose_way(Session& session, const Reach& way, const Error& why) {
  PeerDevices& devices = session.memory().devices;
  if (devices.is_lost(way)) return;
  devices.lost.push_back(way);
  std::erase(devices.we_reach, way);
  session.tell_reaches();
  const Peer peer = session.peer();
  events_.on_device_way(session.id(), peer,
                        "from its GPU " + std::to_string(way.owner) + " to GPU " +
                            std::to_string(devices_->lanes()[way.reader]->gpu.device().ordinal) +
                            " from now on staged through pinned memory (" + why.message + ")");
}

/// The peer cannot map what it was lent.
void EndpointCore::on_stage(SessionId id, std::uint64_t lease) {
  Session* const session = find(id);
  if (!session || !devices_) return;
  const Buffer memory = session->memory().device_lease(lease);
  if (memory.empty() || !session->memory().may_stage(lease)) return;
  const MessageHeader header{MessageKind::kStaged, 0, lease, 0, 0, Duration{0}, {}};
  const auto bytes = static_cast<std::int64_t>(memory.size());
  auto frame = encode(
      header,
      [&](OutMessage& out) {
        out.values(1);
        out.value(0).tensor(Tensor(DType::kUInt8, Shape{bytes}, memory));
      },
      id);
  auto sent = frame ? send_frame(id, std::move(*frame), Flow::kReply) : Result<void>(frame.error());
  if (sent) return;
  auto told = encode(header, [&](OutMessage& out) { out.error(sent.error()); });
  if (told) (void)send_frame(id, std::move(*told), Flow::kReply);
}

void EndpointCore::on_staged(SessionId id, const InMessage& message) {
  if (!devices_) return;
  const std::uint64_t lease = message.header().target;
  for (const Arriving& each : devices_->arriving) {
    if (each.session != id) continue;
    for (DeviceArrival::Piece& piece : each.arrival->pieces()) {
      if (piece.lease != lease || !piece.asked || !piece.is_missing()) continue;
      const std::shared_ptr<DeviceArrival> arrival = each.arrival;
      if (message.is_error()) return brought(id, arrival, message.error());
      Tensor bytes;
      if (message.value_count() != 1 || !Codec<Tensor>::decode(message.value(0), bytes) ||
          bytes.bytes() != piece.bytes || bytes.dtype() != DType::kUInt8)
        return end_session(
            id, {Code::kDataLoss, "a peer's message is not valid: not the bytes that were asked for"}, true);
      piece.from =
          bytes.buffer().slice(static_cast<std::size_t>(bytes.data() - bytes.buffer().data()), bytes.bytes());
      return prepare(id, arrival);
    }
  }
}

void EndpointCore::bring(SessionId id, const std::shared_ptr<DeviceArrival>& arrival) {
  if (auto begun = arrival->begin(); !begun) return end_session(id, begun.error(), true);
  arrival->stage = DeviceArrival::Stage::kGiving;
  const auto advance = [arrival]() -> Result<bool> {
    if (arrival->given_up()) return Error{Code::kCancelled, "nobody waits for it"};
    return arrival->advance();
  };
  auto told = [this, id, arrival](Result<void> given) {
    // Whatever became of it, what a device has been given it is left to do in peace.
    auto events = arrival->events();
    if (!events) devices_->lose(arrival);
    if (!events && given) given = events.error();
    auto waits = events ? *std::move(events) : std::vector<Event>();
    devices_->when_all(std::move(waits), [this, id, arrival, given = std::move(given)](Result<void> done) {
      const HeadPool::Scope heads(*heads_);
      shield("a message for a GPU", [&] { brought(id, arrival, given ? done : given); });
    });
  };
  try {
    devices_->when_given(advance, std::move(told));
  } catch (...) {  // there is no memory to hear of the devices that may be at work
    arrival->lose_memory();
    devices_->lose(arrival);
    brought(id, arrival, detail::current_exception_error("bringing a device tensor"));
  }
}

/// It is over: devices have done what they were given.
void EndpointCore::brought(SessionId id, const std::shared_ptr<DeviceArrival>& arrival,
                           const Result<void>& outcome) {
  if (arrival->stage == DeviceArrival::Stage::kEnded) return;
  arrival->stage = DeviceArrival::Stage::kEnded;
  Session* const session = id == kLocal ? nullptr : find(id);
  if (session) session->end_arrival(arrival->place->counted);
  if (arrival->place->claimed) release_into(*arrival->place->claimed);
  devices_->arriving.erase(arrival->place);
  // The last to have one closes it, which takes long.
  for (DeviceArrival::Piece& piece : arrival->pieces())
    if (piece.mapping && piece.mapping.use_count() == 1) devices_->let_go(std::move(piece.mapping));
  if (id != kLocal && !session) return;
  if (!outcome || arrival->given_up()) return fail_arrival(id, *arrival, outcome);
  if (session)
    for (const std::uint64_t lease : arrival->leases()) session->memory().return_lease(lease);
  auto message = arrival->finish(loop_.now());
  // What was staged is wanted for the next tensor, and to lock more takes longer than this; what stays where
  // it is can wait until the callee has answered.
  if (session && arrival->leases().empty()) session->return_leases();
  deliver_whole(id, std::move(message));
  if (Session* const still = find(id)) still->return_leases();
}

/// There is no memory, or a device has failed: the call ends with that. Or nobody wants it any more.
void EndpointCore::fail_arrival(SessionId id, DeviceArrival& arrival, const Result<void>& outcome) {
  Session* const session = id == kLocal ? nullptr : find(id);
  if (session) {
    for (const std::uint64_t lease : arrival.leases()) session->memory().return_lease(lease);
    session->return_leases();
  }
  const MessageHeader& header = arrival.message().header();
  if (header.kind == MessageKind::kOneWay) note_done(id, arrival.message().bytes());
  if (arrival.given_up()) return;
  if (header.kind == MessageKind::kOneWay)
    return events_.on_exception(with_context(outcome.error(), "a one-way message could not be received"));
  Error error = with_context(outcome.error(), "a device tensor could not be received");
  if (is_for_call(arrival)) {
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

// ---- Who does not want it any more ----------------------------------------------------------------

namespace {
/// Those that are given up, none of which may be of the list's by then.
template <class Which>
std::vector<std::shared_ptr<DeviceArrival>> those(const std::list<Arriving>& all, Which&& which) {
  std::vector<std::shared_ptr<DeviceArrival>> found;
  for (const Arriving& each : all)
    if (which(each)) found.push_back(each.arrival);
  return found;
}
}  // namespace

/// A call of ours has ended. Where its answer was to lie stays taken until devices have done what they were
/// given.
void EndpointCore::leave_arrivals(OpenCall& call) {
  const auto mine = those(devices_->arriving, [&](const Arriving& each) {
    return each.session == call.target.session && is_for_call(*each.arrival) &&
           each.arrival->message().header().call_id == call.id();
  });
  for (const auto& arrival : mine) {
    if (call.into) arrival->place->claimed = std::exchange(call.into, nullptr);
    give_up(*arrival->place);
  }
}

/// A peer cancels a request whose tensors are on their way.
void EndpointCore::cancel_arrivals(SessionId session, std::uint64_t call_id) {
  const auto its = those(devices_->arriving, [&](const Arriving& each) {
    return each.session == session && !is_for_call(*each.arrival) &&
           each.arrival->message().header().kind == MessageKind::kRequest &&
           each.arrival->message().header().call_id == call_id;
  });
  for (const auto& arrival : its) give_up(*arrival->place);
}

void EndpointCore::leave_arrivals(SessionId session) {
  const auto its = those(devices_->arriving, [&](const Arriving& each) { return each.session == session; });
  for (const auto& arrival : its)
    if (arrival->stage != DeviceArrival::Stage::kEnded) give_up(*arrival->place);
}

}  // namespace troupe::rpc
