#include <troupe/rpc/direct.hpp>
#include <troupe/rpc/message.hpp>

#include <algorithm>
#include <cassert>
#include <utility>

#include "calls/recycled.hpp"
#include "wire/capnp_support.hpp"
#include "wire/message_impl.hpp"

namespace troupe::rpc {

namespace {

/// More than all of an envelope without body and attachments.
constexpr std::size_t kShortHead = 512;

/// The root and the envelope of a message that has nothing yet; returns the envelope's first word.
std::uint32_t begin_envelope(flat::Writer& writer) {
  const std::uint32_t root = writer.allocate(1);
  return writer.add_struct(root, EnvelopeLayout::kLayout);
}

bool has_extras(const MessageHeader& header) {
  return header.trace || header.token != 0;
}

void write_extras(flat::Writer& writer, std::uint32_t envelope, const TraceContext& trace,
                  std::uint64_t token) {
  const std::uint32_t at = writer.add_struct(
      slot_of(envelope, EnvelopeLayout::kLayout, EnvelopeLayout::kExtras), ExtrasLayout::kLayout);
  writer.put(at, ExtrasLayout::kTraceHigh, trace.trace_high);
  writer.put(at, ExtrasLayout::kTraceLow, trace.trace_low);
  writer.put(at, ExtrasLayout::kSpan, trace.span_id);
  writer.put(at, ExtrasLayout::kFlags, trace.flags);
  writer.put(at, ExtrasLayout::kToken, token);
}

void write_attachment(flat::Writer& writer, std::uint32_t at, DType dtype, MemoryKind kind,
                      std::span<const std::int64_t> shape, std::uint64_t bytes, flat::Layout layout) {
  writer.put(at, AttachmentLayout::kDtype, dtype);
  writer.put(at, AttachmentLayout::kMemoryKind, kind);
  writer.put(at, AttachmentLayout::kBytes, bytes);
  const std::uint32_t first = writer.add_numbers(slot_of(at, layout, AttachmentLayout::kShape), shape.size());
  for (std::uint32_t axis = 0; axis < shape.size(); ++axis) writer.put(first + axis, 0, shape[axis]);
}

/// The entry of bytes that are no tensor.
void write_bytes_attachment(flat::Writer& writer, std::uint32_t at, std::size_t bytes, flat::Layout layout) {
  const auto length = static_cast<std::int64_t>(bytes);
  write_attachment(writer, at, DType::kUInt8, MemoryKind::kHost, {&length, 1}, bytes, layout);
}

void write_device(flat::Writer& writer, std::uint32_t at, const DevicePlace& place) {
  writer.put(at, AttachmentLayout::kMemoryKind, MemoryKind::kDevice);
  writer.put(at, AttachmentLayout::kGpu, place.gpu);
  writer.put(at, AttachmentLayout::kTarget, place.target);
  if (place.follows) writer.put(at, AttachmentLayout::kWritten, SharedPool::kProgress);
  if (place.lease == 0) return;
  writer.put(at, AttachmentLayout::kLease, place.lease);
  writer.put(at, AttachmentLayout::kOffset, place.location.offset);
  writer.put(at, AttachmentLayout::kSlab, place.location.slab.id);
  writer.add_bytes(slot_of(at, AttachmentLayout::kDeviceLayout, AttachmentLayout::kHandle),
                   place.location.slab.handle);
}

void write_shared(flat::Writer& writer, std::uint32_t at, const SharedPool::Location& location,
                  std::uint64_t lease) {
  writer.put(at, AttachmentLayout::kFd, location.fd);
  writer.put(at, AttachmentLayout::kLease, lease);
  writer.put(at, AttachmentLayout::kCookie, location.cookie);
  writer.put(at, AttachmentLayout::kOffset, location.offset);
}

}  // namespace

/// Entries for the tensors, the first of which has its place at `at`.
void OutMessage::Impl::write_table(flat::Writer& to, std::uint32_t at) {
  const flat::Layout layout = table_layout();
  if (!locations.empty()) first_lease = *next_lease;
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    const Tensor& tensor = tensors[i];
    std::int64_t shape[Shape::kMaxRank];
    for (std::size_t axis = 0; axis < tensor.rank(); ++axis) shape[axis] = tensor.shape()[axis];
    write_attachment(to, at, tensor.dtype(), tensor.device().kind, {shape, tensor.rank()}, tensor.bytes(),
                     layout);
    if (const DevicePlace* const place = place_of(i)) [[unlikely]]
      write_device(to, at, *place);
    if (is_shared(i)) write_shared(to, at, locations[i], (*next_lease)++);
    at += static_cast<std::uint32_t>(layout.words());
  }
}

void detail::require_sendable(const Tensor& tensor) {
  if (tensor.device().kind == MemoryKind::kDevice && !tensor.is_contiguous())
    throw BadResult({Code::kUnimplemented, "a tensor " + tensor.to_string() +
                                               " lies in device memory and is strided, which calls do not "
                                               "carry: make it dense"});
}

void detail::make_as_sent(Tensor& tensor) {
  require_sendable(tensor);
  if (!tensor.is_contiguous()) tensor = tensor.clone();
}

// ---- OutMessage ---------------------------------------------------------------------------------

OutMessage::OutMessage(MemoryPool& pool, const MessageHeader& header, HeadPool* heads) {
  static_assert(sizeof(Impl) <= kImplBytes);
  auto* impl = new (storage_) Impl(pool, heads);
  flat::Writer& writer = impl->writer;
  const std::uint32_t envelope = impl->envelope = begin_envelope(writer);
  writer.put(envelope, EnvelopeLayout::kKind, static_cast<std::uint16_t>(header.kind));
  writer.put(envelope, EnvelopeLayout::kCallId, header.call_id);
  writer.put(envelope, EnvelopeLayout::kTarget, header.target);
  writer.put(envelope, EnvelopeLayout::kMethod, header.method);
  writer.put(envelope, EnvelopeLayout::kSignature, header.signature);
  writer.put(envelope, EnvelopeLayout::kRemaining, std::int64_t{header.remaining.count()});
  if (header.trace.flags == TraceContext::kNotTraced)
    writer.put(envelope, EnvelopeLayout::kFlags, EnvelopeLayout::kNotTraced);
  if (!header.metadata.empty()) [[unlikely]]
    impl->metadata = header.metadata;
  if (!has_extras(header)) return;
  impl->extras = {header.trace, header.token};
  write_extras(writer, envelope, header.trace, header.token);
}

OutMessage::~OutMessage() {
  impl().~Impl();
}

void OutMessage::values(std::uint32_t count) {
  Impl& message = impl();
  message.attempt([&] {
    flat::Writer& writer = message.writer;
    const std::uint32_t slot = slot_of(message.envelope, EnvelopeLayout::kLayout, EnvelopeLayout::kBody);
    if (message.metadata.empty()) [[likely]] {
      message.body = writer.add_struct(slot, BodyLayout::kLayout);  // of a known length: zeroed in two stores
    } else {
      message.body = writer.add_struct(slot, message.body_layout());
      message.write_metadata();
    }
    message.values = writer.add_structs(slot_of(message.body, BodyLayout::kLayout, BodyLayout::kContent),
                                        count, ValueLayout::kLayout);
  });
}

ValueWriter OutMessage::value(std::uint32_t index) {
  return {*this, impl().values + index * static_cast<std::uint32_t>(ValueLayout::kLayout.words())};
}

void OutMessage::error(const Error& error) {
  Impl& message = impl();
  message.attempt([&] {
    flat::Writer& writer = message.writer;
    message.body = writer.add_struct(
        slot_of(message.envelope, EnvelopeLayout::kLayout, EnvelopeLayout::kBody), BodyLayout::kLayout);
    writer.put(message.body, BodyLayout::kWhich, BodyLayout::kError);
    const std::uint32_t at = writer.add_struct(
        slot_of(message.body, BodyLayout::kLayout, BodyLayout::kContent), ErrorLayout::kLayout);
    writer.put(at, ErrorLayout::kCode, static_cast<std::uint16_t>(error.code));
    writer.put(at, ErrorLayout::kTraceId, error.trace_id);
    writer.add_text(slot_of(at, ErrorLayout::kLayout, ErrorLayout::kMessage), error.message);
    writer.add_text(slot_of(at, ErrorLayout::kLayout, ErrorLayout::kNode), error.node);
    writer.add_text(slot_of(at, ErrorLayout::kLayout, ErrorLayout::kCause), error.cause);
    if (!error.exception.empty())
      writer.add_text(slot_of(at, ErrorLayout::kLayout, ErrorLayout::kException), error.exception);
  });
}

void OutMessage::set_call_id(std::uint64_t call_id) {
  impl().writer.put(impl().envelope, EnvelopeLayout::kCallId, call_id);
}

bool OutMessage::has_tensors() {
  return !impl().tensors.empty();
}

bool OutMessage::overlaps(const Tensor& other) {
  const auto meets = [begin = other.data(), end = other.data() + other.bytes()](const Tensor& tensor) {
    return tensor.data() < end && begin < tensor.data() + tensor.bytes();
  };
  return std::any_of(impl().tensors.begin(), impl().tensors.end(), meets);
}

void OutMessage::lease() {
  impl().leased = true;
}

void OutMessage::share(std::uint64_t& next_lease) {
  impl().next_lease = &next_lease;
}

bool OutMessage::has_device_tensors() {
  return impl().has_devices;
}

void OutMessage::depart(DeviceDeparture& departure, std::size_t max_head_bytes) {
  Impl& message = impl();
  message.attempt([&] {
    // A list that stands in the body names nothing that stays where it is.
    std::size_t words = 1;
    for (const Tensor& tensor : message.tensors)
      words += AttachmentLayout::kDeviceLayout.words() + tensor.rank() + Impl::kHandleWords;
    const bool may_stay = words * flat::kWord + kShortHead <= max_head_bytes;
    message.places = std::make_unique<DevicePlaces>();
    message.places->of.resize(message.tensors.size());
    for (std::size_t i = 0; i < message.tensors.size(); ++i) {
      Tensor& tensor = message.tensors[i];
      if (tensor.device().kind != MemoryKind::kDevice || tensor.bytes() == 0) continue;
      auto place = departure.place(tensor, may_stay);
      if (!place) throw BadResult(place.error());
      message.places->any_stays |= place->lease != 0 || place->follows || place->may_share;
      message.places->of[i] = *std::move(place);
    }
    message.places->waits = std::move(departure.waits());
  });
}

Result<OutFrame> OutMessage::finish(std::size_t max_head_bytes) {
  Impl& message = impl();
  Result<OutFrame> result{OutFrame{}};  // made where it will be: see copy_words() for why
  OutFrame& frame = *result;
  if (message.tensors.empty() && message.writer.flat_bytes() <= max_head_bytes && !message.failure) {
    frame.head = std::move(message.writer).flat();
    return result;
  }
  message.attempt([&] {
    message.find_shared();
    const std::size_t table_words = message.tensors.empty() ? 0 : message.table_words();
    if (message.writer.flat_bytes() + table_words * flat::kWord > max_head_bytes) {
      frame = finish_with_body_apart(max_head_bytes);
      return;
    }
    if (table_words > 0) {
      const std::uint32_t slot =
          slot_of(message.envelope, EnvelopeLayout::kLayout, EnvelopeLayout::kAttachments);
      message.write_table(message.writer,
                          message.writer.add_structs(slot, message.tensors.size(), message.table_layout()));
    }
    frame.head = std::move(message.writer).flat();
    message.add_parts(frame, 0);
  });
  if (message.failure) result = std::move(*message.failure);
  return result;
}

/// Too long for a header: the body becomes the first attachment, and a new short envelope the head.
OutFrame OutMessage::finish_with_body_apart(std::size_t max_head_bytes) {
  Impl& message = impl();
  flat::Writer& old = message.writer;
  OutFrame frame;
  flat::Writer head(message.pool);
  const std::uint32_t envelope = begin_envelope(head);
  // Before the old one's words are overwritten.
  std::memcpy(head.at(envelope), old.at(message.envelope), EnvelopeLayout::kLayout.data * flat::kWord);
  const auto flags = static_cast<std::uint8_t>(head.at(envelope)[EnvelopeLayout::kFlags]);
  head.put(envelope, EnvelopeLayout::kFlags, static_cast<std::uint8_t>(flags | EnvelopeLayout::kBodyApart));
  if (message.extras) write_extras(head, envelope, message.extras->trace, message.extras->token);

  const bool table_in_body = message.table_words() * flat::kWord + kShortHead > max_head_bytes;
  if (table_in_body) {
    message.locations.clear();  // then nothing is shared
    const std::uint32_t slot = slot_of(message.body, BodyLayout::kLayout, BodyLayout::kAttachments);
    message.write_table(old, old.add_structs(slot, message.tensors.size(), message.table_layout()));
  }
  frame.parts.push_back(old.flat_from(message.body, message.body_layout()));

  const std::uint32_t slot = slot_of(envelope, EnvelopeLayout::kLayout, EnvelopeLayout::kAttachments);
  const flat::Layout layout = message.table_layout();
  const std::uint32_t entry =
      head.add_structs(slot, 1 + (table_in_body ? 1 : message.tensors.size()), layout);
  const auto next = entry + static_cast<std::uint32_t>(layout.words());
  write_bytes_attachment(head, entry, frame.parts[0].size(), layout);
  if (table_in_body)
    write_bytes_attachment(head, next, message.tensor_bytes(), layout);
  else
    message.write_table(head, next);
  frame.head = std::move(head).flat();
  message.add_parts(frame, 1);
  return frame;
}

}  // namespace troupe::rpc
