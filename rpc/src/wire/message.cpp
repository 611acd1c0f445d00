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

constexpr std::uint32_t slot_of(std::uint32_t structure, flat::Layout layout, unsigned pointer) {
  return structure + layout.data + pointer;
}

Error corrupt(std::string what) {
  return Error{Code::kDataLoss, "a peer's message is not valid: " + std::move(what)};
}
Error malformed() {
  return corrupt("a pointer in it leads nowhere");
}

/// The root and the envelope of a message that has nothing yet; returns the envelope's first word.
std::uint32_t begin_envelope(flat::Writer& writer) {
  const std::uint32_t root = writer.allocate(1);
  return writer.add_struct(root, EnvelopeLayout::kLayout);
}

bool has_extras(const MessageHeader& header) {
  return header.trace || header.token != 0;
}

/// The bytes of a contiguous tensor.
Buffer memory_of(const Tensor& tensor) {
  return tensor.buffer().slice(static_cast<std::size_t>(tensor.data() - tensor.buffer().data()),
                               tensor.bytes());
}

bool is_body_apart(const flat::StructView& envelope) {
  return (envelope.get<std::uint8_t>(EnvelopeLayout::kFlags) & EnvelopeLayout::kBodyApart) != 0;
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
    if (is_shared(i)) write_shared(to, at, locations[i], (*next_lease)++);
    at += static_cast<std::uint32_t>(layout.words());
  }
}

void detail::require_sendable(const Tensor& tensor) {
  if (tensor.device().kind == MemoryKind::kDevice)
    throw BadResult(
        {Code::kUnimplemented, "a tensor " + tensor.to_string() +
                                   " lies in device memory, which calls do not carry yet: bring it "
                                   "to host memory"});
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
    message.add_parts(frame);
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
  message.add_parts(frame);
  return frame;
}

// ---- InMessage ----------------------------------------------------------------------------------

void* InMessage::operator new(std::size_t) {
  return Recycled<InMessage>::take();
}
void InMessage::operator delete(void* memory, std::size_t) {
  Recycled<InMessage>::give(memory);
}

InMessage::InMessage(Buffer&& head, std::vector<Buffer>&& parts)
    : head_(std::move(head)), parts_(std::move(parts)), bytes_(head_.size()) {
  for (const Buffer& part : parts_) bytes_ += part.size();
  static_assert(sizeof(Impl) <= kImplBytes);
  new (storage_) Impl;
}

InMessage::~InMessage() {
  impl().~Impl();
}

Result<std::unique_ptr<InMessage>> InMessage::parse(Buffer&& head, std::vector<Buffer>&& parts,
                                                    SharedTensors* shared) {
  std::unique_ptr<InMessage> message(new InMessage(std::move(head), std::move(parts)));
  if (auto opened = message->open(shared); !opened) return std::move(opened).error();
  return message;
}

Result<void> InMessage::open(SharedTensors* shared) {
  Impl& message = impl();
  if (!message.head.open(head_.bytes())) return corrupt("not one segment");
  flat::StructView& envelope = message.envelope;
  if (!message.head.root(envelope)) return malformed();
  const auto read_numbers = [&](const auto& from) {
    header_.call_id = from.template get<std::uint64_t>(EnvelopeLayout::kCallId);
    header_.target = from.template get<std::uint64_t>(EnvelopeLayout::kTarget);
    header_.method = from.template get<std::uint64_t>(EnvelopeLayout::kMethod);
    header_.signature = from.template get<std::uint64_t>(EnvelopeLayout::kSignature);
    header_.remaining = Duration(from.template get<std::int64_t>(EnvelopeLayout::kRemaining));
    return std::pair(from.template get<std::uint16_t>(EnvelopeLayout::kKind),
                     from.template get<std::uint8_t>(EnvelopeLayout::kFlags));
  };
  const auto [kind, flags] = envelope.layout.data >= EnvelopeLayout::kLayout.data
                                 ? read_numbers(flat::WholeStruct{envelope.words})
                                 : read_numbers(envelope);
  if (kind > static_cast<std::uint16_t>(MessageKind::kRelease)) return corrupt("unknown kind");
  header_.kind = static_cast<MessageKind>(kind);
  if (!flat::Reader::is_null(envelope, EnvelopeLayout::kExtras)) {
    flat::StructView extras;
    if (!message.head.read(envelope, EnvelopeLayout::kExtras, extras)) return malformed();
    header_.trace = {extras.get<std::uint64_t>(ExtrasLayout::kTraceHigh),
                     extras.get<std::uint64_t>(ExtrasLayout::kTraceLow),
                     extras.get<std::uint64_t>(ExtrasLayout::kSpan),
                     extras.get<std::uint8_t>(ExtrasLayout::kFlags)};
    header_.token = extras.get<std::uint64_t>(ExtrasLayout::kToken);
  }
  if ((flags & EnvelopeLayout::kNotTraced) != 0 && !header_.trace) header_.trace = TraceContext::not_traced();
  if (!flat::Reader::is_null(envelope, EnvelopeLayout::kAttachments) || !parts_.empty())
    if (auto checked = check_attachments(shared); !checked) return checked;
  return open_body();
}

Result<void> InMessage::open_body() {
  Impl& message = impl();
  flat::StructView& body = message.body;
  if (is_body_apart(message.envelope)) {
    // Never in the sender's memory, where it could change while it is read.
    if (message.locations.empty() || message.locations[0].part != 0 || message.own_parts == 0)
      return corrupt("its body is missing");
    message.body_apart = true;
    message.first_tensor = 1;
    if (!message.apart.open(parts_[0].bytes())) return corrupt("its body is not one segment");
    if (!message.apart.root(body)) return malformed();
    if (!flat::Reader::is_null(body, BodyLayout::kAttachments))
      if (auto found = find_tensors(); !found) return found;
  } else if (!message.head.read(message.envelope, EnvelopeLayout::kBody, body)) {
    return malformed();
  }
  const auto which = body.get<std::uint16_t>(BodyLayout::kWhich);
  is_error_ = which == BodyLayout::kError;
  if (is_error_) return {};
  if (which != BodyLayout::kValues) return corrupt("unknown body");
  if (!message.body_reader().read(body, BodyLayout::kContent, message.values)) return malformed();
  value_count_ = message.values.count;
  if (!flat::Reader::is_null(body, BodyLayout::kMetadata)) [[unlikely]]
    return read_metadata();
  return {};
}

Result<void> InMessage::check_attachments(SharedTensors* shared) {
  Impl& message = impl();
  if (!message.head.read(message.envelope, EnvelopeLayout::kAttachments, message.attachments))
    return malformed();
  message.locations.reserve(message.attachments.count);
  std::size_t next = 0;
  message.own_parts = parts_.size();
  for (std::uint32_t i = 0; i < message.attachments.count; ++i) {
    const flat::StructView entry = message.attachments[i];
    const auto bytes = entry.get<std::uint64_t>(AttachmentLayout::kBytes);
    if (bytes == 0) {
      message.locations.push_back({});
      continue;
    }
    if (const auto lease = entry.get<std::uint64_t>(AttachmentLayout::kLease); lease != 0) [[unlikely]] {
      if (!shared) return corrupt("shared tensors were not agreed upon");
      auto buffer = shared->open({entry.get<std::uint32_t>(AttachmentLayout::kFd),
                                  entry.get<std::uint64_t>(AttachmentLayout::kCookie),
                                  entry.get<std::uint64_t>(AttachmentLayout::kOffset)},
                                 lease, bytes);
      if (!buffer) return buffer.error();
      message.locations.push_back({parts_.size(), 0});
      parts_.push_back(std::move(*buffer));
      continue;
    }
    if (next == message.own_parts || parts_[next].size() != bytes)
      return corrupt("its attachments are not those that it lists");
    message.locations.push_back({next++, 0});
  }
  if (next != message.own_parts) return corrupt("it has more attachments than it lists");
  message.tensors = message.attachments;
  return {};
}

/// The tensors that a body apart lists lie in the one part after it, without padding.
Result<void> InMessage::find_tensors() {
  Impl& message = impl();
  if (message.locations.size() != 2 || message.own_parts != parts_.size())
    return corrupt("two lists of its attachments");
  if (!message.apart.read(message.body, BodyLayout::kAttachments, message.tensors)) return malformed();
  message.first_tensor = 0;
  message.locations.clear();
  message.locations.reserve(message.tensors.count);
  const std::size_t total = parts_.size() > 1 ? parts_[1].size() : 0;
  std::size_t offset = 0;
  for (std::uint32_t i = 0; i < message.tensors.count; ++i) {
    const auto bytes = message.tensors[i].get<std::uint64_t>(AttachmentLayout::kBytes);
    if (bytes > total - offset) return corrupt("its tensors are longer than what came");
    message.locations.push_back(bytes == 0 ? Impl::Location{} : Impl::Location{1, offset});
    offset += bytes;
  }
  if (offset != total) return corrupt("its tensors are shorter than what came");
  return {};
}

Result<void> InMessage::allocate_parts(std::span<const std::byte> head, std::size_t total_bytes,
                                       MemoryPool& pool, std::vector<Buffer>& parts, const Tensor* into) {
  flat::Reader reader;
  flat::StructView envelope;
  flat::StructsView attachments;
  if (!reader.open(head)) return corrupt("not one segment");
  if (!reader.root(envelope) || !reader.read(envelope, EnvelopeLayout::kAttachments, attachments))
    return malformed();
  try {
    std::size_t left = total_bytes;
    for (std::uint32_t i = 0; i < attachments.count; ++i) {
      const auto bytes = attachments[i].get<std::uint64_t>(AttachmentLayout::kBytes);
      if (attachments[i].get<std::uint64_t>(AttachmentLayout::kLease) != 0) continue;
      if (bytes > left) return corrupt("its attachments are longer than what came");
      if (bytes == 0) continue;
      const bool is_first = i == (is_body_apart(envelope) ? 1U : 0U);
      parts.push_back(into && is_first && into->bytes() == bytes ? memory_of(*into) : pool.allocate(bytes));
      left -= bytes;
    }
    if (left != 0) return corrupt("its attachments are shorter than what came");
    return {};
  } catch (const std::bad_alloc&) {
    return Error{Code::kResourceExhausted,
                 "no memory for a message of " + std::to_string(total_bytes) + " bytes; send it in pieces"};
  }
}

std::uint64_t InMessage::call_answered_by(std::span<const std::byte> head) {
  flat::Reader reader;
  flat::StructView envelope;
  if (!reader.open(head) || !reader.root(envelope)) return 0;
  if (envelope.get<std::uint16_t>(EnvelopeLayout::kKind) != static_cast<std::uint16_t>(MessageKind::kReply))
    return 0;
  return envelope.get<std::uint64_t>(EnvelopeLayout::kCallId);
}

Result<void> InMessage::receive_into(const Tensor& into) {
  if (is_error_) return {};
  Tensor came;
  if (!read_tensor(0, came))
    return Error{Code::kInvalidArgument,
                 "there is no tensor in the answer to receive into " + into.to_string()};
  if (came.dtype() != into.dtype() || came.shape() != into.shape())
    return Error{Code::kInvalidArgument,
                 "the answer is " + came.to_string() + ", and was to be received into " + into.to_string()};
  if (came.bytes() == 0 || came.data() == into.data()) return {};
  std::memcpy(into.data(), came.data(), came.bytes());
  Impl& message = impl();
  message.locations[message.first_tensor] = {parts_.size(), 0};
  parts_.push_back(memory_of(into));
  return {};
}

ValueReader InMessage::value(std::uint32_t index) const {
  assert(index < value_count_);
  const flat::StructView value = impl().values[index];
  return {*this, value.words, value.layout.data, value.layout.pointers, 0};
}

Error InMessage::error() const {
  assert(is_error_);
  Impl& message = impl();
  flat::Reader& reader = message.body_reader();
  flat::StructView error;
  std::string_view text, node, cause, exception;
  if (!reader.read(message.body, BodyLayout::kContent, error) ||
      !reader.read(error, ErrorLayout::kMessage, text) || !reader.read(error, ErrorLayout::kNode, node) ||
      !reader.read(error, ErrorLayout::kCause, cause) ||
      !reader.read(error, ErrorLayout::kException, exception))
    return malformed();
  return {code_from_wire(error.get<std::uint16_t>(ErrorLayout::kCode)),
          std::string(text),
          std::string(node),
          std::string(cause),
          error.get<std::uint64_t>(ErrorLayout::kTraceId),
          std::string(exception)};
}

}  // namespace troupe::rpc
