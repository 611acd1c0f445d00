// Messages that have come: nothing in them is believed that has not been checked.
#include <cassert>
#include <cstring>
#include <utility>

#include <troupe/rpc/message.hpp>

#include "calls/recycled.hpp"
#include "device/part_memory.hpp"
#include "wire/capnp_support.hpp"
#include "wire/message_impl.hpp"

namespace troupe::rpc {

namespace {

/// The bytes of a contiguous tensor.
Buffer memory_of(const Tensor& tensor) {
  return tensor.buffer().slice(static_cast<std::size_t>(tensor.data() - tensor.buffer().data()),
                               tensor.bytes());
}

bool is_body_apart(const flat::StructView& envelope) {
  return (envelope.get<std::uint8_t>(EnvelopeLayout::kFlags) & EnvelopeLayout::kBodyApart) != 0;
}

/// Whether its sender held it in device memory.
bool is_of_device(const flat::StructView& attachment) {
  return attachment.get<std::uint8_t>(AttachmentLayout::kMemoryKind) ==
         static_cast<std::uint8_t>(MemoryKind::kDevice);
}

}  // namespace

void* InMessage::operator new(std::size_t) {
  return Recycled<InMessage>::take();
}
void InMessage::operator delete(void* memory, std::size_t) {
  Recycled<InMessage>::give(memory);
}

InMessage::InMessage(Buffer&& head, std::vector<Buffer>&& parts)
    : head_(std::move(head)), parts_(std::move(parts)) {
  count_bytes();
  static_assert(sizeof(Impl) <= kImplBytes);
  new (storage_) Impl;
}

InMessage::~InMessage() {
  impl().~Impl();
}

void InMessage::count_bytes() {
  bytes_ = head_.size();
  for (const Buffer& part : parts_) bytes_ += part.size();
}

Result<std::unique_ptr<InMessage>> InMessage::parse(Buffer&& head, std::vector<Buffer>&& parts,
                                                    SharedTensors* shared) {
  std::unique_ptr<InMessage> message(new InMessage(std::move(head), std::move(parts)));
  if (auto opened = message->open_head(message->head_.bytes()); !opened) return std::move(opened).error();
  if (auto opened = message->open_rest(shared); !opened) return std::move(opened).error();
  return message;
}

Result<std::unique_ptr<InMessage>> InMessage::begin(std::span<const std::byte> head) {
  std::unique_ptr<InMessage> message(new InMessage(Buffer(), {}));
  if (auto opened = message->open_head(head); !opened) return std::move(opened).error();
  if (auto read = message->read_attachments(); !read) return std::move(read).error();
  return message;
}

Result<std::unique_ptr<InMessage>> InMessage::finish(std::unique_ptr<InMessage> begun, Buffer&& head,
                                                     std::vector<Buffer>&& parts, SharedTensors* shared) {
  begun->head_ = std::move(head);
  begun->parts_ = std::move(parts);
  begun->count_bytes();
  if (auto opened = begun->open_rest(shared); !opened) return std::move(opened).error();
  return begun;
}

Result<void> InMessage::open_head(std::span<const std::byte> head) {
  Impl& message = impl();
  if (!message.head.open(head)) return corrupt("not one segment");
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
  if (kind > static_cast<std::uint16_t>(MessageKind::kStaged)) return corrupt("unknown kind");
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
  return {};
}

Result<void> InMessage::open_rest(SharedTensors* shared) {
  const flat::StructView& envelope = impl().envelope;
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

/// Once: begin() may have done it.
Result<void> InMessage::read_attachments() {
  Impl& message = impl();
  if (std::exchange(message.attachments_read, true)) return {};
  if (!message.head.read(message.envelope, EnvelopeLayout::kAttachments, message.attachments))
    return malformed();
  return {};
}

Result<void> InMessage::check_attachments(SharedTensors* shared) {
  Impl& message = impl();
  if (auto read = read_attachments(); !read) return read;
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
    from_device_ |= is_of_device(entry);
    if (is_of_device(entry) && entry.get<std::uint64_t>(AttachmentLayout::kSlab) != 0) [[unlikely]] {
      if (!shared || !shared->takes_device_slabs()) return corrupt("device memory was not agreed upon");
      if (entry.get<std::uint64_t>(AttachmentLayout::kLease) == 0)
        return corrupt("device memory without a lease");
      message.left.push_back(i);
      bytes_ += bytes;
      message.locations.push_back({parts_.size(), 0});
      parts_.emplace_back();  // what it will be copied to: see DeviceArrival
      continue;
    }
    if (const auto lease = entry.get<std::uint64_t>(AttachmentLayout::kLease); lease != 0) [[unlikely]] {
      if (!shared) return corrupt("shared tensors were not agreed upon");
      if (entry.get<std::uint32_t>(AttachmentLayout::kWritten) != 0 &&
          !(is_of_device(entry) && shared->follows_devices()))
        return corrupt("it comes before its bytes");
      auto buffer = shared->open({entry.get<std::uint32_t>(AttachmentLayout::kFd),
                                  entry.get<std::uint64_t>(AttachmentLayout::kCookie),
                                  entry.get<std::uint64_t>(AttachmentLayout::kOffset)},
                                 lease, bytes);
      if (!buffer) return buffer.error();
      if (is_of_device(entry)) bytes_ += bytes;
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
    from_device_ |= bytes > 0 && is_of_device(message.tensors[i]);
    message.locations.push_back(bytes == 0 ? Impl::Location{} : Impl::Location{1, offset});
    offset += bytes;
  }
  if (offset != total) return corrupt("its tensors are shorter than what came");
  return {};
}

Result<void> InMessage::allocate_parts(std::size_t total_bytes, MemoryPool& pool, std::vector<Buffer>& parts,
                                       const Tensor* into, PartMemory* staging) const {
  const flat::StructView& envelope = impl().envelope;
  const bool into_device = into && into->device().kind == MemoryKind::kDevice;
  const flat::StructsView& attachments = impl().attachments;
  try {
    std::size_t left = total_bytes;
    for (std::uint32_t i = 0; i < attachments.count; ++i) {
      const auto bytes = attachments[i].get<std::uint64_t>(AttachmentLayout::kBytes);
      if (attachments[i].get<std::uint64_t>(AttachmentLayout::kLease) != 0) continue;
      if (bytes > left) return corrupt("its attachments are longer than what came");
      if (bytes == 0) continue;
      const bool is_first = i == (is_body_apart(envelope) ? 1U : 0U);
      left -= bytes;
      if (into && !into_device && is_first && into->bytes() == bytes) {
        parts.push_back(memory_of(*into));
        continue;
      }
      Buffer part;
      if (staging && (is_of_device(attachments[i]) || (into_device && is_first))) [[unlikely]]
        part = staging->part(bytes);
      parts.push_back(part.empty() ? pool.allocate(bytes) : std::move(part));
    }
    if (left != 0) return corrupt("its attachments are shorter than what came");
    return {};
  } catch (const std::bad_alloc&) {
    return Error{Code::kResourceExhausted,
                 "no memory for a message of " + std::to_string(total_bytes) + " bytes; send it in pieces"};
  }
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
  if (into.device().kind == MemoryKind::kDevice || came.device().kind == MemoryKind::kDevice)
    return Error{Code::kFailedPrecondition, "the answer " + came.to_string() +
                                                " was to be received into another device's memory, and the "
                                                "node has not been given the GPU (NodeOptions::gpus)"};
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
