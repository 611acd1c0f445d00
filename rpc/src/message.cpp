#include <troupe/rpc/message.hpp>

#include <cassert>

#include "capnp_support.hpp"
#include "message_impl.hpp"

namespace troupe::rpc {

void write_error(wire::ErrorInfo::Builder out, const Error& error) {
  out.setCode(static_cast<std::uint16_t>(error.code));
  copy_text(out.initMessage(static_cast<unsigned>(error.message.size())), error.message);
  copy_text(out.initNode(static_cast<unsigned>(error.node.size())), error.node);
  copy_text(out.initCause(static_cast<unsigned>(error.cause.size())), error.cause);
  out.setTraceId(error.trace_id);
}

Error read_error(wire::ErrorInfo::Reader in) {
  const bool known = in.getCode() > 0 && in.getCode() <= static_cast<std::uint16_t>(Code::kUnauthenticated);
  return Error{known ? static_cast<Code>(in.getCode()) : Code::kUnknown,
               std::string(to_view(in.getMessage())), std::string(to_view(in.getNode())),
               std::string(to_view(in.getCause())), in.getTraceId()};
}

namespace {
/// A tensor's place in the attachment table: two words, a pointer, and the shape.
constexpr std::size_t kMostBytesListed = (3 + Shape::kMaxRank) * sizeof(capnp::word);
/// More than all of an envelope without body and attachments.
constexpr std::size_t kShortHead = 512;
}  // namespace

// ---- OutMessage ---------------------------------------------------------------------------------

OutMessage::OutMessage(MemoryPool& pool, const MessageHeader& header, HeadPool* heads) {
  static_assert(sizeof(Impl) <= kImplBytes);
  auto* impl = new (storage_) Impl(pool, heads);
  auto envelope = impl->envelope;
  envelope.setKind(static_cast<wire::Envelope::Kind>(header.kind));
  envelope.setCallId(header.call_id);
  envelope.setTarget(header.target);
  envelope.setMethod(header.method);
  envelope.setSignature(header.signature);
  envelope.setRemainingNs(header.remaining.count());
  if (header.trace || header.token != 0) {
    auto extras = envelope.initExtras();
    extras.setTraceHigh(header.trace.trace_high);
    extras.setTraceLow(header.trace.trace_low);
    extras.setSpanId(header.trace.span_id);
    extras.setFlags(header.trace.flags);
    extras.setToken(header.token);
  }
}

OutMessage::~OutMessage() {
  impl().~Impl();
}

void OutMessage::values(std::uint32_t count) {
  Impl& message = impl();
  message.failure =
      attempt_to_write([&] { message.values = message.envelope.initBody().initValues(list_size(count)); });
}

ValueWriter OutMessage::value(std::uint32_t index) {
  ValueWriter writer(*this);
  if (!impl().failure) new (writer.builder_) wire::Value::Builder(impl().values[index]);
  return writer;
}

void OutMessage::error(const Error& error) {
  impl().failure = attempt_to_write([&] { write_error(impl().envelope.initBody().initError(), error); });
}

void OutMessage::set_call_id(std::uint64_t call_id) {
  impl().envelope.setCallId(call_id);
}

Result<OutFrame> OutMessage::finish(std::size_t max_head_bytes) {
  Impl& message = impl();
  OutFrame frame;
  if (!message.failure)
    message.failure = attempt_to_write([&] {
      if (!message.tensors.empty())
        message.list_tensors(message.envelope.initAttachments(list_size(message.tensors.size())), 0);
      if (message.builder.flat_bytes() <= max_head_bytes) {
        frame.head = message.builder.flat();
        message.add_parts(frame);
      } else {
        frame = finish_with_body_apart(max_head_bytes);
      }
    });
  if (message.failure) return std::move(*message.failure);
  return frame;
}

/// Too long for a header: the body becomes the first attachment, and a new short envelope the head.
OutFrame OutMessage::finish_with_body_apart(std::size_t max_head_bytes) {
  Impl& message = impl();
  OutFrame frame;
  const bool table_in_body = message.tensors.size() * kMostBytesListed + kShortHead > max_head_bytes;
  // In one segment, which needs no further copy.
  PooledBuilder body(message.pool, nullptr, message.builder.flat_bytes() / sizeof(capnp::word) + 1);
  body.setRoot(message.envelope.getBody().asReader());
  if (table_in_body)
    message.list_tensors(body.getRoot<wire::Body>().initAttachments(list_size(message.tensors.size())), 0);
  frame.parts.push_back(body.flat());
  PooledBuilder head(message.pool);
  auto envelope = head.initRoot<wire::Envelope>();
  auto old = message.envelope.asReader();
  envelope.setKind(old.getKind());
  envelope.setCallId(old.getCallId());
  envelope.setTarget(old.getTarget());
  envelope.setMethod(old.getMethod());
  envelope.setSignature(old.getSignature());
  envelope.setRemainingNs(old.getRemainingNs());
  if (old.hasExtras()) envelope.setExtras(old.getExtras());
  envelope.setBodyApart(true);
  if (table_in_body) {
    auto list = envelope.initAttachments(2);
    write_bytes_attachment(list[0], frame.parts[0].size());
    write_bytes_attachment(list[1], message.tensor_bytes());
  } else {
    auto list = envelope.initAttachments(list_size(message.tensors.size() + 1));
    write_bytes_attachment(list[0], frame.parts[0].size());
    message.list_tensors(list, 1);
  }
  frame.head = head.flat();
  message.add_parts(frame);
  return frame;
}

// ---- InMessage ----------------------------------------------------------------------------------

namespace {
kj::ArrayPtr<const capnp::word> words_of(std::span<const std::byte> bytes) {
  return kj::arrayPtr(reinterpret_cast<const capnp::word*>(bytes.data()), bytes.size() / sizeof(capnp::word));
}
Error corrupt(std::string what) {
  return Error{Code::kDataLoss, "a peer's message is not valid: " + std::move(what)};
}
}  // namespace

InMessage::InMessage(Buffer head, std::vector<Buffer> parts)
    : head_(std::move(head)), parts_(std::move(parts)) {
  static_assert(sizeof(Impl) <= kImplBytes);
  new (storage_) Impl;
}

InMessage::~InMessage() {
  impl().~Impl();
}

Result<std::unique_ptr<InMessage>> InMessage::parse(Buffer head, std::vector<Buffer> parts) {
  std::unique_ptr<InMessage> message(new InMessage(std::move(head), std::move(parts)));
  try {
    if (auto opened = message->open(); !opened) return opened.error();
  } catch (const kj::Exception& exception) {
    return corrupt(describe(exception));
  }
  return message;
}

Result<void> InMessage::open() {
  Impl& message = impl();
  auto envelope = message.open_head(head_.bytes());
  if (static_cast<std::uint16_t>(envelope.getKind()) > static_cast<std::uint16_t>(MessageKind::kCredit))
    return corrupt("unknown kind");
  header_.kind = static_cast<MessageKind>(envelope.getKind());
  header_.call_id = envelope.getCallId();
  header_.target = envelope.getTarget();
  header_.method = envelope.getMethod();
  header_.signature = envelope.getSignature();
  header_.remaining = Duration(envelope.getRemainingNs());
  if (envelope.hasExtras()) {
    auto extras = envelope.getExtras();
    header_.trace = {extras.getTraceHigh(), extras.getTraceLow(), extras.getSpanId(), extras.getFlags()};
    header_.token = extras.getToken();
  }
  if (auto checked = check_attachments(); !checked) return checked;
  message.tensors = message.attachments;
  wire::Body::Reader body;
  if (envelope.getBodyApart()) {
    if (message.places.empty() || message.places[0].part != 0) return corrupt("its body is missing");
    message.first_tensor = 1;
    body = message.open_body(parts_[0].bytes());
    if (body.hasAttachments())
      if (auto found = find_tensors(body.getAttachments().size()); !found) return found;
  } else {
    body = envelope.getBody();
  }
  is_error_ = body.isError();
  if (is_error_) {
    message.error = body.getError();
  } else if (body.isValues()) {
    message.values = body.getValues();
    value_count_ = message.values.size();
  } else {
    return corrupt("unknown body");
  }
  return {};
}

Result<void> InMessage::check_attachments() {
  Impl& message = impl();
  if (!message.envelope.hasAttachments()) return {};
  message.attachments = message.envelope.getAttachments();
  message.places.reserve(message.attachments.size());
  std::size_t next = 0;
  for (auto attachment : message.attachments) {
    if (attachment.getBytes() == 0) {
      message.places.push_back({});
      continue;
    }
    if (next == parts_.size() || parts_[next].size() != attachment.getBytes())
      return corrupt("its attachments are not those that it lists");
    message.places.push_back({next++, 0});
  }
  if (next != parts_.size()) return corrupt("it has more attachments than it lists");
  return {};
}

/// The tensors that a body apart lists lie in the one part after it, without padding.
Result<void> InMessage::find_tensors(std::size_t count) {
  Impl& message = impl();
  if (message.places.size() != 2) return corrupt("two lists of its attachments");
  message.tensors = message.body_root.getAttachments();
  message.first_tensor = 0;
  message.places.clear();
  message.places.reserve(count);
  const std::size_t total = parts_.size() > 1 ? parts_[1].size() : 0;
  std::size_t offset = 0;
  for (auto tensor : message.tensors) {
    const std::size_t bytes = tensor.getBytes();
    if (bytes > total - offset) return corrupt("its tensors are longer than what came");
    message.places.push_back(bytes == 0 ? Impl::Place{} : Impl::Place{1, offset});
    offset += bytes;
  }
  if (offset != total) return corrupt("its tensors are shorter than what came");
  return {};
}

Result<void> InMessage::allocate_parts(std::span<const std::byte> head, std::size_t total_bytes,
                                       MemoryPool& pool, std::vector<Buffer>& parts) {
  try {
    capnp::FlatArrayMessageReader reader(words_of(head), reader_options(head.size()));
    std::size_t left = total_bytes;
    for (auto attachment : reader.getRoot<wire::Envelope>().getAttachments()) {
      const std::size_t bytes = attachment.getBytes();
      if (bytes > left) return corrupt("its attachments are longer than what came");
      if (bytes == 0) continue;
      parts.push_back(pool.allocate(bytes));
      left -= bytes;
    }
    if (left != 0) return corrupt("its attachments are shorter than what came");
    return {};
  } catch (const kj::Exception& exception) {
    return corrupt(describe(exception));
  } catch (const std::bad_alloc&) {
    return Error{Code::kResourceExhausted,
                 "no memory for a message of " + std::to_string(total_bytes) + " bytes; send it in pieces"};
  }
}

std::size_t InMessage::bytes() const {
  std::size_t sum = head_.size();
  for (const Buffer& part : parts_) sum += part.size();
  return sum;
}

ValueReader InMessage::value(std::uint32_t index) const {
  assert(index < value_count_);
  ValueReader reader(*this);
  new (reader.reader_) wire::Value::Reader(read_item(impl().values, index));
  return reader;
}

Error InMessage::error() const {
  assert(is_error_);
  try {
    return read_error(impl().error);
  } catch (const kj::Exception& exception) {
    return corrupt(describe(exception));
  }
}

}  // namespace troupe::rpc
