#include <troupe/rpc/value.hpp>

#include <algorithm>
#include <limits>

#include "capnp_support.hpp"
#include "message_impl.hpp"

namespace troupe::rpc {

namespace {
using Values = capnp::List<wire::Value>;

template <class T>
T& stored(std::byte* storage) {
  return *std::launder(reinterpret_cast<T*>(storage));
}
template <class T>
const T& stored(const std::byte* storage) {
  return *std::launder(reinterpret_cast<const T*>(storage));
}

/// Runs `read`, which may meet a malformed message; false then.
template <class F>
bool guarded(F&& read) {
  try {
    return read();
  } catch (const kj::Exception&) {
    return false;
  }
}
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

// ---- ValueWriter --------------------------------------------------------------------------------

template <class F>
void ValueWriter::attempt(F&& write) {
  auto& failure = message_->impl().failure;
  if (failure) return;
  failure = attempt_to_write([&] { write(stored<wire::Value::Builder>(builder_)); });
}

void ValueWriter::none() {
  attempt([](auto& out) { out.setNone(); });
}
void ValueWriter::boolean(bool value) {
  attempt([&](auto& out) { out.setBool(value); });
}
void ValueWriter::integer(std::int64_t value, DType width) {
  attempt([&](auto& out) {
    out.setWidth(static_cast<std::uint8_t>(width));
    out.setInt(value);
  });
}
void ValueWriter::unsigned_integer(std::uint64_t value, DType width) {
  attempt([&](auto& out) {
    out.setWidth(static_cast<std::uint8_t>(width));
    out.setUint(value);
  });
}
void ValueWriter::real(double value, DType width) {
  attempt([&](auto& out) {
    out.setWidth(static_cast<std::uint8_t>(width));
    out.setReal(value);
  });
}
void ValueWriter::text(std::string_view value) {
  attempt([&](auto& out) { copy_text(out.initText(blob_size(value.size())), value); });
}
void ValueWriter::data(std::span<const std::byte> value) {
  attempt([&](auto& out) { copy_data(out.initData(blob_size(value.size())), value); });
}
void ValueWriter::tensor(const Tensor& value) {
  attempt([&](auto& out) { out.setTensor(message_->impl().attach(value)); });
}
void ValueWriter::numbers(DType width, std::span<const std::byte> bytes) {
  attempt([&](auto& out) {
    out.setWidth(static_cast<std::uint8_t>(width));
    copy_data(out.initNumbers(blob_size(bytes.size())), bytes);
  });
}
void ValueWriter::list(std::size_t count) {
  static_assert(sizeof(wire::Value::Builder) <= kBytes && sizeof(Values::Builder) <= kBytes);
  attempt([&](auto& out) {
    auto items = out.initList(list_size(count));
    new (builder_) Values::Builder(items);
  });
}
ValueWriter ValueWriter::item(std::uint32_t index) const {
  ValueWriter writer(*message_);
  if (message_->impl().failure) return writer;  // does nothing
  auto items = stored<Values::Builder>(builder_);
  new (writer.builder_) wire::Value::Builder(items[index]);
  return writer;
}

// ---- ValueReader --------------------------------------------------------------------------------

ValueKind ValueReader::kind() const {
  const auto which = static_cast<std::uint16_t>(stored<wire::Value::Reader>(reader_).which());
  return which > static_cast<std::uint16_t>(ValueKind::kList) ? ValueKind::kNone
                                                              : static_cast<ValueKind>(which);
}

DType ValueReader::width() const {
  const auto width = stored<wire::Value::Reader>(reader_).getWidth();
  return width > static_cast<std::uint8_t>(DType::kBool) ? DType::kUInt8 : static_cast<DType>(width);
}

bool ValueReader::read(bool& value) const {
  auto in = stored<wire::Value::Reader>(reader_);
  if (!in.isBool()) return false;
  value = in.getBool();
  return true;
}

bool ValueReader::read_integer(std::int64_t& value) const {
  auto in = stored<wire::Value::Reader>(reader_);
  if (in.isInt()) {
    value = in.getInt();
    return true;
  }
  if (!in.isUint() || !std::in_range<std::int64_t>(in.getUint())) return false;
  value = static_cast<std::int64_t>(in.getUint());
  return true;
}

bool ValueReader::read_unsigned(std::uint64_t& value) const {
  auto in = stored<wire::Value::Reader>(reader_);
  if (in.isUint()) {
    value = in.getUint();
    return true;
  }
  if (!in.isInt() || in.getInt() < 0) return false;
  value = static_cast<std::uint64_t>(in.getInt());
  return true;
}

bool ValueReader::read_real(double& value) const {
  auto in = stored<wire::Value::Reader>(reader_);
  if (in.isReal())
    value = in.getReal();
  else if (in.isInt())
    value = static_cast<double>(in.getInt());
  else if (in.isUint())
    value = static_cast<double>(in.getUint());
  else
    return false;
  return true;
}

bool ValueReader::read(std::string_view& text) const {
  auto in = stored<wire::Value::Reader>(reader_);
  return in.isText() && guarded([&] {
           text = to_view(in.getText());
           return true;
         });
}

bool ValueReader::read(std::span<const std::byte>& data) const {
  auto in = stored<wire::Value::Reader>(reader_);
  return in.isData() && guarded([&] {
           auto bytes = in.getData();
           data = {reinterpret_cast<const std::byte*>(bytes.begin()), bytes.size()};
           return true;
         });
}

bool ValueReader::read_numbers(DType width, std::span<const std::byte>& bytes) const {
  auto in = stored<wire::Value::Reader>(reader_);
  if (!in.isNumbers() || in.getWidth() != static_cast<std::uint8_t>(width)) return false;
  return guarded([&] {
    auto data = in.getNumbers();
    bytes = {reinterpret_cast<const std::byte*>(data.begin()), data.size()};
    return true;
  });
}

bool ValueReader::read(Tensor& tensor) const {
  auto in = stored<wire::Value::Reader>(reader_);
  if (!in.isTensor()) return false;
  const auto& message = message_->impl();
  const std::size_t index = std::size_t{in.getTensor()} + message.first_tensor;
  if (index >= message.places.size()) return false;
  return guarded([&] {
    auto attachment = message.tensors[static_cast<std::uint32_t>(index)];
    auto extents = attachment.getShape();
    if (extents.size() > Shape::kMaxRank || attachment.getDtype() > static_cast<std::uint8_t>(DType::kBool))
      return false;
    const auto dtype = static_cast<DType>(attachment.getDtype());
    std::int64_t shape[Shape::kMaxRank];
    // The product must be exactly the bytes that came, and must not overflow on the way there.
    auto bytes = static_cast<std::int64_t>(size_of(dtype));
    bool zero = false;
    for (unsigned axis = 0; axis < extents.size(); ++axis) {
      shape[axis] = extents[axis];
      if (shape[axis] < 0) return false;
      zero |= shape[axis] == 0;
      // Strides are products too, so those of an empty tensor must not overflow either.
      if (__builtin_mul_overflow(bytes, std::max<std::int64_t>(shape[axis], 1), &bytes)) return false;
    }
    if (zero) bytes = 0;
    if (static_cast<std::uint64_t>(bytes) != attachment.getBytes()) return false;
    const auto [part, offset] = message.places[index];
    Buffer data;
    if (part != SIZE_MAX) data = message_->parts_[part].slice(offset, static_cast<std::size_t>(bytes));
    if (reinterpret_cast<std::uintptr_t>(data.data()) % size_of(dtype) != 0)
      data = Buffer::copy_of(data.bytes());  // behind a tensor of smaller elements, in one part with it
    tensor = Tensor(dtype, Shape(std::span<const std::int64_t>(shape, extents.size())), std::move(data));
    return true;
  });
}

bool ValueReader::read(ValueList& list) const {
  static_assert(sizeof(wire::Value::Reader) <= kBytes && sizeof(Values::Reader) <= ValueList::kBytes);
  auto in = stored<wire::Value::Reader>(reader_);
  return in.isList() && guarded([&] {
           auto items = in.getList();
           list.message_ = message_;
           list.size_ = items.size();
           new (list.reader_) Values::Reader(items);
           return true;
         });
}

ValueReader ValueList::operator[](std::uint32_t index) const {
  ValueReader reader(*message_);
  new (reader.reader_) wire::Value::Reader(read_item(stored<Values::Reader>(reader_), index));
  return reader;
}

}  // namespace troupe::rpc
