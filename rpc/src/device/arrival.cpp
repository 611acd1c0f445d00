#include "device/arrival.hpp"

#include <algorithm>
#include <cstring>
#include <new>
#include <utility>

#include <troupe/rpc/call.hpp>
#include <troupe/runtime/device_range.hpp>

#include "wire/message_impl.hpp"

namespace troupe::rpc {

namespace {

/// Bytes of a tensor on its way that are worth a copy of their own.
constexpr std::size_t kLeastStep = std::size_t{1} << 20;

Buffer memory_of(const Tensor& tensor) {
  return tensor.buffer().slice(static_cast<std::size_t>(tensor.data() - tensor.buffer().data()),
                               tensor.bytes());
}

bool on_device(const Buffer& buffer) {
  return buffer.device().kind == MemoryKind::kDevice;
}

}  // namespace

Result<bool> DeviceArrival::examine(const InMessage& message, const PeerDevices* from) {
  InMessage::Impl& impl = message.impl();
  const bool into_device = into_ && into_->device().kind == MemoryKind::kDevice;
  for (std::size_t index = impl.first_tensor; index < impl.locations.size(); ++index) {
    Piece piece;
    piece.number = index - impl.first_tensor;
    DType dtype{};
    Shape shape;
    // Who reads what is malformed hears of it; but what lies in a device must be right.
    const bool is_right = message.read_description(piece.number, dtype, shape, piece.bytes);
    const auto [part, offset] = impl.locations[index];
    if (part == SIZE_MAX) continue;
    const flat::StructView entry = impl.tensors[static_cast<std::uint32_t>(index)];
    const bool stays = std::ranges::find(impl.left, index) != impl.left.end();
    const bool of_device = entry.get<std::uint8_t>(AttachmentLayout::kMemoryKind) ==
                           static_cast<std::uint8_t>(MemoryKind::kDevice);
    const bool is_first = into_ && piece.number == 0;
    const bool fits = is_right && is_first && into_->dtype() == dtype && into_->shape() == shape;
    if (stays) {
      std::span<const std::byte> handle;
      if (!is_right || !impl.head.read(entry, AttachmentLayout::kHandle, handle) ||
          handle.size() != piece.slab.handle.size())
        return corrupt("what it says of device memory is malformed");
      std::memcpy(piece.slab.handle.data(), handle.data(), handle.size());
      piece.slab.id = entry.get<std::uint64_t>(AttachmentLayout::kSlab);
      piece.lease = entry.get<std::uint64_t>(AttachmentLayout::kLease);
      piece.offset = entry.get<std::uint64_t>(AttachmentLayout::kOffset);
      piece.to_host = is_first && !into_device;
    } else {
      if (!is_right) continue;
      piece.from = message.parts_[part].slice(offset, piece.bytes);
      // Of this node's own it is there already; what is for the host's memory has come there.
      if (const auto written = entry.get<std::uint32_t>(AttachmentLayout::kWritten); written != 0) {
        const auto mapping = SharedMapping::of(piece.from);
        piece.written = mapping ? mapping->number(written) : nullptr;
        if (!of_device || !piece.written) return corrupt("it says wrongly where its progress is told");
      }
      piece.to_host = fits && !into_device && on_device(piece.from);
      const bool moves = piece.to_host ? true
                         : fits && into_device
                             ? piece.from.data() != into_->data()
                             : of_device && !on_device(piece.from) && !(fits && !into_device);
      piece.stays = !moves;
      if (!moves && !piece.written) continue;
    }
    if (fits && into_device) piece.to = memory_of(*into_);
    const auto chosen = choose(piece, from, entry.get<std::uint8_t>(AttachmentLayout::kGpu),
                               entry.get<std::uint8_t>(AttachmentLayout::kTarget));
    if (!chosen) return chosen.error();
    pieces_.push_back(std::move(piece));
  }
  return !pieces_.empty();
}

/// Which of our GPUs copies: the one where it is to lie, else the one that the peer has named, else any that
/// can.
Result<void> DeviceArrival::choose(Piece& piece, const PeerDevices* from, std::uint8_t gpu,
                                   std::uint8_t target) const {
  const std::size_t count = devices_.lanes().size();
  if (count == 0) return devices_.no_lane({});
  if (target > count) return corrupt("it is for a GPU that was not named");
  if (target != 0) piece.lane = target - 1U;
  if (target == 0) {  // the sender did not know who it would be
    if (is_own_ && gpu < count) piece.lane = gpu;
    if (from && gpu < from->gpus.size() && from->gpus[gpu].uuid != decltype(DeviceLane::uuid){})
      for (std::size_t lane = 0; lane < count; ++lane)
        if (devices_.lanes()[lane]->uuid == from->gpus[gpu].uuid) piece.lane = lane;
  }
  std::uint8_t number = 0;
  const Device device = piece.to_host ? piece.from.device() : piece.to.device();
  if (device.kind == MemoryKind::kDevice && devices_.lane_of(device, &number)) piece.lane = number;
  piece.gpu = gpu;
  if (piece.lease == 0) return {};
  const auto reaches = [&](std::size_t lane) {
    return from && std::ranges::find(from->we_reach, Reach{gpu, static_cast<std::uint8_t>(lane)}) !=
                       from->we_reach.end();
  };
  for (std::size_t lane = 0; lane < count && !reaches(piece.lane); ++lane)
    if (reaches(lane)) piece.lane = lane;
  if (reaches(piece.lane) || (from && from->is_lost({gpu, static_cast<std::uint8_t>(piece.lane)}))) return {};
  for (std::size_t lane = 0; lane < count; ++lane) {
    if (!from || !from->is_lost({gpu, static_cast<std::uint8_t>(lane)})) continue;
    piece.lane = lane;
    return {};
  }
  return corrupt("a device tensor lies where this side reaches nothing");
  return {};
}

/// Memory for the copy, of which its stream may begin to write.
Result<void> DeviceArrival::find_place(Piece& piece) {
  DeviceLane& lane = *devices_.lanes()[piece.lane];
  Staging& staging = *devices_.staging();
  const troupe::Stream& in = stream_of(piece);
  if (!piece.to.empty()) return begin_write(piece.to, in);
  auto found = piece.to_host ? staging.take(piece.bytes, Staging::For::kReceiving)
                             : lane.pool.allocate(piece.bytes, in);
  if (!found) return found.error();
  piece.to = *std::move(found);
  return {};
}

/// Where copy engines may read it.
Result<void> DeviceArrival::find_source(Piece& piece) {
  Staging& staging = *devices_.staging();
  if (piece.mapping) return {};
  if (!piece.may_copy) {
    // A device would be told to copy pages that the system may move: copied here, it is not held up.
    auto pinned = staging.take(piece.bytes, Staging::For::kReceiving);
    if (!pinned) return pinned.error();
    std::memcpy(pinned->data(), piece.from.data(), piece.bytes);
    piece.from = *std::move(pinned);
    piece.may_copy = true;
  }
  return begin_read(piece.from, stream_of(piece));
}

Result<void> DeviceArrival::begin() {
  for (Piece& piece : pieces_) {
    if (piece.mapping &&
        (piece.offset > piece.mapping->bytes() || piece.bytes > piece.mapping->bytes() - piece.offset))
      return corrupt("a device tensor lies outside of its slab");
    piece.may_copy = !piece.mapping && (on_device(piece.from) || devices_.staging()->can_copy(piece.from));
  }
  return {};
}

Result<bool> DeviceArrival::advance(Piece& piece) {
  std::uint64_t come = piece.bytes;
  if (piece.written) {
    come = piece.written->load(std::memory_order_acquire);
    if (come > piece.bytes) return Error{Code::kInternal, "the sender's device has failed"};
    come = std::max<std::uint64_t>(come, piece.given);  // whoever says less now than before
    const bool in_steps = piece.stays || piece.may_copy;
    if (come < piece.bytes && (!in_steps || come - piece.given < kLeastStep)) return false;
  }
  if (piece.stays) return come == piece.bytes;
  if (piece.given == piece.bytes) return true;
  const DeviceRange range("receive a tensor");
  if (piece.given == 0) {
    for (const auto step : {&DeviceArrival::find_source, &DeviceArrival::find_place}) {
      const auto found = (this->*step)(piece);
      if (found) continue;
      if (found.error().code == Code::kUnavailable) return false;  // there is no pinned memory now
      return found.error();
    }
  }
  const std::byte* const from = piece.mapping ? piece.mapping->data() + piece.offset : piece.from.data();
  if (auto copied = piece.stream->copy(piece.to.data() + piece.given, from + piece.given, come - piece.given);
      !copied)
    return copied.error();
  piece.given = come;
  return piece.given == piece.bytes;
}

Result<bool> DeviceArrival::advance() {
  bool all = true;
  for (Piece& piece : pieces_) {
    const auto given = advance(piece);
    if (!given) return given.error();
    all = all && *given;
  }
  return all;
}

/// Where others may still be at work, in memory of the program's, nothing else stands behind them.
const troupe::Stream& DeviceArrival::stream_of(Piece& piece) const {
  if (piece.stream) return *piece.stream;
  DeviceLane& lane = *devices_.lanes()[piece.lane];
  const bool is_ours = piece.to.empty() && !on_device(piece.from);
  piece.stream = is_ours ? &lane.in : &lane.aside();
  return *piece.stream;
}

void DeviceArrival::lose_memory() {
  for (const Piece& each : pieces_) {
    devices_.staging()->lose(each.from);
    devices_.staging()->lose(each.to);
  }
}

/// The memory's own event is left as it is: whoever reads it hears of it when the copy has passed.
Result<std::vector<Event>> DeviceArrival::events() {
  Staging& staging = *devices_.staging();
  struct Point {
    const troupe::Stream* stream;
    Event event;
  };
  std::vector<Point> points;
  std::vector<Event> events;
  const auto lose = [&](Error why) {  // a device is at work in them, and will not say when it is done
    lose_memory();
    return why;
  };
  try {
    points.reserve(pieces_.size());
    events.reserve(pieces_.size());
  } catch (const std::bad_alloc&) {
    return lose({Code::kResourceExhausted, {}});
  }
  for (Piece& piece : pieces_) {
    if (piece.given == 0) continue;
    auto known = std::ranges::find(points, piece.stream, &Point::stream);
    if (known == points.end()) {
      auto point = piece.stream->point();
      if (!point) return lose(point.error());
      devices_.lanes()[piece.lane]->note_waiting(*piece.stream, *point);
      events.push_back(*point);
      known = points.insert(points.end(), {piece.stream, *std::move(point)});
    }
    staging.in_use_until(piece.from, known->event);
    if (piece.to_host) staging.in_use_until(piece.to, known->event);
  }
  return events;
}

std::unique_ptr<InMessage> DeviceArrival::finish(TimePoint now) {
  InMessage::Impl& impl = message_->impl();
  for (Piece& piece : pieces_) {
    if (piece.stays) continue;
    piece.from = Buffer();
    auto& location = impl.locations[piece.number + impl.first_tensor];
    Buffer& part = message_->parts_[location.part];
    // Where no other tensor lies it goes at once: it is locked, or lent by the peer.
    if (part.empty() || part.size() == piece.bytes) {
      part = std::move(piece.to);
      location.offset = 0;
      continue;
    }
    location = {message_->parts_.size(), 0};
    message_->parts_.push_back(std::move(piece.to));
  }
  MessageHeader& header = message_->header_;
  const bool is_call = header.kind == MessageKind::kRequest || header.kind == MessageKind::kOneWay;
  if (is_call && header.remaining != kNoDeadline) header.remaining -= now - came_;
  return std::move(message_);
}

std::vector<std::uint64_t> DeviceArrival::leases() const {
  std::vector<std::uint64_t> leases;
  for (const Piece& piece : pieces_)
    if (piece.lease != 0) leases.push_back(piece.lease);
  return leases;
}

std::size_t DeviceArrival::own_bytes() const {
  std::size_t bytes = 0;
  for (const Piece& piece : pieces_)
    if (!piece.stays) bytes += piece.bytes;
  return bytes;
}

TimePoint DeviceArrival::deadline() const {
  const MessageHeader& header = message_->header();
  const bool is_call = header.kind == MessageKind::kRequest || header.kind == MessageKind::kOneWay;
  if (!is_call || header.remaining == kNoDeadline) return TimePoint::never();
  return came_ + header.remaining;
}

}  // namespace troupe::rpc
