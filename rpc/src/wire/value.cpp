#include <troupe/rpc/value.hpp>

#include <algorithm>
#include <cstring>
#include <utility>

#include "schema/wire.capnp.h"
#include "wire/message_impl.hpp"

namespace troupe::rpc {

namespace {
/// Lists in lists in lists ... end here.
constexpr std::uint8_t kMaxDepth = 64;
}  // namespace

// ValueReader::kind() takes the union's discriminants as they are.
static_assert(static_cast<int>(ValueKind::kNone) == wire::Value::NONE &&
              static_cast<int>(ValueKind::kBool) == wire::Value::BOOL &&
              static_cast<int>(ValueKind::kInt) == wire::Value::INT &&
              static_cast<int>(ValueKind::kUInt) == wire::Value::UINT &&
              static_cast<int>(ValueKind::kReal) == wire::Value::REAL &&
              static_cast<int>(ValueKind::kText) == wire::Value::TEXT &&
              static_cast<int>(ValueKind::kData) == wire::Value::DATA &&
              static_cast<int>(ValueKind::kTensor) == wire::Value::TENSOR &&
              static_cast<int>(ValueKind::kNumbers) == wire::Value::NUMBERS &&
              static_cast<int>(ValueKind::kList) == wire::Value::LIST);

std::string_view to_string(ValueKind kind) {
  switch (kind) {
    case ValueKind::kNone:
      return "none";
    case ValueKind::kBool:
      return "bool";
    case ValueKind::kInt:
    case ValueKind::kUInt:
      return "integer";
    case ValueKind::kReal:
      return "float";
    case ValueKind::kText:
      return "string";
    case ValueKind::kData:
      return "bytes";
    case ValueKind::kTensor:
      return "tensor";
    case ValueKind::kNumbers:
      return "vector of numbers";
    case ValueKind::kList:
      return "list";
  }
  return "unknown";
}

std::string describe(const ValueReader& value) {
  Tensor tensor;
  if (value.read(tensor)) return tensor.to_string();
  return std::string(to_string(value.kind()));
}

// ---- ValueWriter --------------------------------------------------------------------------------

namespace {
template <class T>
void put_number(flat::Writer& writer, std::uint32_t word, ValueKind kind, DType width, T number) {
  writer.put(word, ValueLayout::kWidth, width);
  writer.put(word, ValueLayout::kWhich, static_cast<std::uint16_t>(kind));
  writer.put(word, ValueLayout::kNumber, number);
}
constexpr std::uint32_t content_slot(std::uint32_t word) {
  return word + ValueLayout::kLayout.data + ValueLayout::kContent;
}
}  // namespace

void ValueWriter::none() {}
void ValueWriter::boolean(bool value) {
  auto& message = message_->impl();
  if (message.failure) return;
  message.writer.put(word_, ValueLayout::kBool, std::uint8_t{value});
  message.writer.put(word_, ValueLayout::kWhich, static_cast<std::uint16_t>(ValueKind::kBool));
}
void ValueWriter::integer(std::int64_t value, DType width) {
  auto& message = message_->impl();
  if (!message.failure) put_number(message.writer, word_, ValueKind::kInt, width, value);
}
void ValueWriter::unsigned_integer(std::uint64_t value, DType width) {
  auto& message = message_->impl();
  if (!message.failure) put_number(message.writer, word_, ValueKind::kUInt, width, value);
}
void ValueWriter::real(double value, DType width) {
  auto& message = message_->impl();
  if (!message.failure) put_number(message.writer, word_, ValueKind::kReal, width, value);
}
void ValueWriter::blob(ValueKind kind, DType width, std::span<const std::byte> bytes, std::size_t zeros) {
  auto& message = message_->impl();
  message.attempt([&] {
    put_number(message.writer, word_, kind, width, std::uint64_t{0});
    message.writer.add_bytes(content_slot(word_), bytes, zeros);
  });
}
void ValueWriter::text(std::string_view value) {
  blob(ValueKind::kText, DType{}, std::as_bytes(std::span(value)), 1);
}
void ValueWriter::data(std::span<const std::byte> value) {
  blob(ValueKind::kData, DType{}, value, 0);
}
void ValueWriter::numbers(DType width, std::span<const std::byte> bytes) {
  blob(ValueKind::kNumbers, width, bytes, 0);
}
void ValueWriter::tensor(const Tensor& value) {
  auto& message = message_->impl();
  message.attempt([&] {
    put_number(message.writer, word_, ValueKind::kTensor, DType{}, std::uint64_t{message.attach(value)});
  });
}
void ValueWriter::list(std::size_t count) {
  auto& message = message_->impl();
  message.attempt([&] {
    put_number(message.writer, word_, ValueKind::kList, DType{}, std::uint64_t{0});
    items_ = message.writer.add_structs(content_slot(word_), count, ValueLayout::kLayout);
  });
}
ValueWriter ValueWriter::item(std::uint32_t index) const {
  return {*message_, items_ + index * static_cast<std::uint32_t>(ValueLayout::kLayout.words())};
}

// ---- ValueReader --------------------------------------------------------------------------------

inline flat::StructView ValueReader::view() const {
  return {words_, {data_words_, pointers_}};
}

ValueKind ValueReader::kind() const {
  const auto which = view().get<std::uint16_t>(ValueLayout::kWhich);
  return which > static_cast<std::uint16_t>(ValueKind::kList) ? ValueKind::kNone
                                                              : static_cast<ValueKind>(which);
}

DType ValueReader::width() const {
  const auto width = view().get<std::uint8_t>(ValueLayout::kWidth);
  return width > static_cast<std::uint8_t>(DType::kBool) ? DType::kUInt8 : static_cast<DType>(width);
}

bool ValueReader::read(bool& value) const {
  if (kind() != ValueKind::kBool) return false;
  value = (view().get<std::uint8_t>(ValueLayout::kBool) & 1) != 0;
  return true;
}

bool ValueReader::read_integer(std::int64_t& value) const {
  const auto number = view().get<std::uint64_t>(ValueLayout::kNumber);
  const ValueKind is = kind();
  if (is != ValueKind::kInt && (is != ValueKind::kUInt || !std::in_range<std::int64_t>(number))) return false;
  value = static_cast<std::int64_t>(number);
  return true;
}

bool ValueReader::read_unsigned(std::uint64_t& value) const {
  const auto number = view().get<std::uint64_t>(ValueLayout::kNumber);
  const ValueKind is = kind();
  if (is != ValueKind::kUInt && (is != ValueKind::kInt || static_cast<std::int64_t>(number) < 0))
    return false;
  value = number;
  return true;
}

bool ValueReader::read_real(double& value) const {
  switch (kind()) {
    case ValueKind::kReal:
      value = view().get<double>(ValueLayout::kNumber);
      return true;
    case ValueKind::kInt:
      value = static_cast<double>(view().get<std::int64_t>(ValueLayout::kNumber));
      return true;
    case ValueKind::kUInt:
      value = static_cast<double>(view().get<std::uint64_t>(ValueLayout::kNumber));
      return true;
    default:
      return false;
  }
}

bool ValueReader::read_blob(ValueKind of, std::span<const std::byte>& bytes) const {
  return kind() == of && message_->impl().body_reader().read(view(), ValueLayout::kContent, bytes);
}

bool ValueReader::read(std::string_view& text) const {
  return kind() == ValueKind::kText &&
         message_->impl().body_reader().read(view(), ValueLayout::kContent, text);
}

bool ValueReader::read(std::span<const std::byte>& data) const {
  return read_blob(ValueKind::kData, data);
}

bool ValueReader::read_numbers(DType width, std::span<const std::byte>& bytes) const {
  return view().get<std::uint8_t>(ValueLayout::kWidth) == static_cast<std::uint8_t>(width) &&
         read_blob(ValueKind::kNumbers, bytes);
}

bool ValueReader::read(Tensor& tensor) const {
  return kind() == ValueKind::kTensor &&
         message_->read_tensor(view().get<std::uint32_t>(ValueLayout::kNumber), tensor);
}

bool InMessage::read_description(std::size_t number, DType& dtype, Shape& shape, std::size_t& size) const {
  auto& message = impl();
  const std::size_t index = number + message.first_tensor;
  if (index >= message.locations.size()) return false;
  const flat::StructView attachment = message.tensors[static_cast<std::uint32_t>(index)];
  // A table in the envelope is read there, even if the body is apart.
  const bool in_body = message.body_apart && message.first_tensor == 0;
  std::span<const std::byte> numbers;
  if (!(in_body ? message.apart : message.head).read_numbers(attachment, AttachmentLayout::kShape, numbers))
    return false;
  const std::size_t rank = numbers.size() / sizeof(std::int64_t);
  const auto dtype_number = attachment.get<std::uint8_t>(AttachmentLayout::kDtype);
  if (rank > Shape::kMaxRank || dtype_number > static_cast<std::uint8_t>(DType::kBool)) return false;
  dtype = static_cast<DType>(dtype_number);
  std::int64_t extents[Shape::kMaxRank];
  if (rank > 0) std::memcpy(extents, numbers.data(), numbers.size());
  // The product must be exactly the bytes that came, and must not overflow on the way there.
  auto bytes = static_cast<std::int64_t>(size_of(dtype));
  bool zero = false;
  for (std::size_t axis = 0; axis < rank; ++axis) {
    if (extents[axis] < 0) return false;
    zero |= extents[axis] == 0;
    // Strides are products too, so those of an empty tensor must not overflow either.
    if (__builtin_mul_overflow(bytes, std::max<std::int64_t>(extents[axis], 1), &bytes)) return false;
  }
  if (zero) bytes = 0;
  if (static_cast<std::uint64_t>(bytes) != attachment.get<std::uint64_t>(AttachmentLayout::kBytes))
    return false;
  shape = Shape(std::span<const std::int64_t>(extents, rank));
  size = static_cast<std::size_t>(bytes);
  return true;
}

bool InMessage::read_tensor(std::size_t number, Tensor& tensor) const {
  DType dtype{};
  Shape shape;
  std::size_t bytes = 0;
  if (!read_description(number, dtype, shape, bytes)) return false;
  const auto [part, offset] = impl().locations[number + impl().first_tensor];
  Buffer data;
  if (part != SIZE_MAX) data = parts_[part].slice(offset, bytes);
  if (reinterpret_cast<std::uintptr_t>(data.data()) % size_of(dtype) != 0 &&
      data.device().kind != MemoryKind::kDevice)
    data = Buffer::copy_of(data.bytes());  // behind a tensor of smaller elements, in one part with it
  tensor = Tensor(dtype, shape, std::move(data));
  return true;
}

bool ValueReader::read(ValueList& list) const {
  flat::StructsView items;
  if (kind() != ValueKind::kList || depth_ >= kMaxDepth ||
      !message_->impl().body_reader().read(view(), ValueLayout::kContent, items))
    return false;
  list.message_ = message_;
  list.words_ = items.words;
  list.size_ = items.count;
  list.data_words_ = items.layout.data;
  list.pointers_ = items.layout.pointers;
  list.depth_ = static_cast<std::uint8_t>(depth_ + 1);
  return true;
}

ValueReader ValueList::operator[](std::uint32_t index) const {
  const flat::StructsView items{words_, size_, {data_words_, pointers_}};
  return {*message_, items[index].words, data_words_, pointers_, depth_};
}

}  // namespace troupe::rpc
