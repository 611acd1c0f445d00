#include "wire/envelope_patch.hpp"

#include <cassert>
#include <cstring>

#include <capnp/any.h>
#include <capnp/schema.h>

#include "wire/capnp_support.hpp"
#include "wire/envelope_layout.hpp"
#include "wire/flat_reader.hpp"

namespace troupe::rpc {

namespace {

/// Where a 64-bit field lies in the envelope's data section: its offset in the schema counts words.
std::size_t offset_of(const char* field) {
  const auto proto = capnp::Schema::from<wire::Envelope>().getFieldByName(field).getProto();
  return proto.getSlot().getOffset() * sizeof(std::uint64_t);
}

capnp::FlatArrayMessageReader reader_of(const Buffer& head) {
  return capnp::FlatArrayMessageReader(
      kj::arrayPtr(reinterpret_cast<const capnp::word*>(head.data()), head.size() / sizeof(capnp::word)));
}

void patch(const Buffer& head, std::size_t offset, std::uint64_t value) {
  auto reader = reader_of(head);
  const auto data = reader.getRoot<capnp::AnyStruct>().getDataSection();
  assert(offset + sizeof value <= data.size() && "an envelope is written whole");
  // The reader looks at our own bytes: data lies inside of head.
  std::byte* field = head.data() + (data.begin() - reinterpret_cast<const kj::byte*>(head.data())) + offset;
  std::memcpy(field, &value, sizeof value);  // Cap'n Proto is little-endian, as are all machines we run on
}

}  // namespace

void patch_call_id(const Buffer& head, std::uint64_t call_id) {
  static const std::size_t offset = offset_of("callId");
  patch(head, offset, call_id);
}

void patch_target(const Buffer& head, std::uint64_t target) {
  static const std::size_t offset = offset_of("target");
  patch(head, offset, target);
}

void patch_remaining(const Buffer& head, Duration remaining) {
  static const std::size_t offset = offset_of("remainingNs");
  patch(head, offset, static_cast<std::uint64_t>(remaining.count()));
}

void patch_trace(const Buffer& head, const TraceContext& trace) {
  auto reader = reader_of(head);
  const auto envelope = reader.getRoot<wire::Envelope>();
  assert(envelope.hasExtras());
  const auto data = capnp::toAny(envelope.getExtras()).getDataSection();
  std::byte* extras = head.data() + (data.begin() - reinterpret_cast<const kj::byte*>(head.data()));
  std::memcpy(extras + ExtrasLayout::kTraceHigh, &trace.trace_high, sizeof trace.trace_high);
  std::memcpy(extras + ExtrasLayout::kTraceLow, &trace.trace_low, sizeof trace.trace_low);
  std::memcpy(extras + ExtrasLayout::kSpan, &trace.span_id, sizeof trace.span_id);
  std::memcpy(extras + ExtrasLayout::kFlags, &trace.flags, sizeof trace.flags);
}

void patch_shared(const Buffer& head, std::uint32_t index, const SharedPool::Location& location,
                  std::uint64_t lease, bool follows) {
  flat::Reader reader;
  flat::StructView envelope;
  flat::StructsView attachments;
  [[maybe_unused]] const bool read = reader.open(head.bytes()) && reader.root(envelope) &&
                                     reader.read(envelope, EnvelopeLayout::kAttachments, attachments);
  assert(read && index < attachments.count &&
         attachments.layout.data >= AttachmentLayout::kDeviceLayout.data);
  // The reader looks at our own bytes.
  std::byte* const entry =
      head.data() + (reinterpret_cast<const std::byte*>(attachments[index].words) - head.data());
  const auto put = [entry](std::size_t at, auto value) { std::memcpy(entry + at, &value, sizeof value); };
  put(AttachmentLayout::kFd, location.fd);
  put(AttachmentLayout::kCookie, location.cookie);
  put(AttachmentLayout::kOffset, location.offset);
  put(AttachmentLayout::kLease, lease);
  if (follows) put(AttachmentLayout::kWritten, SharedPool::kProgress);
}

}  // namespace troupe::rpc
