#include "values.hpp"

#include <cstdint>
#include <limits>
#include <span>
#include <string_view>

#include "boundary.hpp"

namespace troupe::c {

namespace {

using rpc::AnyType;
using Kind = AnyType::Kind;

constexpr int kMaxDepth = 32;

bool is_dtype(std::int32_t type) {
  return type >= TROUPE_FLOAT32 && type <= TROUPE_BOOL8;
}

std::span<const std::byte> bytes_of(const troupe_value& value) {
  return {static_cast<const std::byte*>(value.as.bytes.data), value.as.bytes.size};
}

std::span<const troupe_value> items_of(const troupe_value& value) {
  return {value.as.list.items, value.as.list.count};
}

Error wrong(const std::string& what) {
  return {Code::kInvalidArgument, what};
}

Result<void> check_at(const troupe_value& value, int depth) {
  switch (value.kind) {
    case TROUPE_NONE:
    case TROUPE_BOOL:
    case TROUPE_INT:
    case TROUPE_UINT:
    case TROUPE_REAL:
      return {};
    case TROUPE_NUMBERS:
      if (!is_dtype(value.type) || value.type == TROUPE_FLOAT16 || value.type == TROUPE_BFLOAT16 ||
          value.type == TROUPE_BOOL8)
        return wrong("numbers of type " + std::to_string(value.type) + ", which is none of numbers");
      if (value.as.bytes.size % size_of(static_cast<DType>(value.type)) != 0)
        return wrong(std::to_string(value.as.bytes.size) + " bytes of numbers are no whole number of them");
      [[fallthrough]];
    case TROUPE_STRING:
    case TROUPE_BYTES:
      if (!value.as.bytes.data && value.as.bytes.size > 0) return wrong("its data is NULL");
      return {};
    case TROUPE_TENSOR:
      if (!value.as.tensor) return wrong("its tensor is NULL");
      return {};
    case TROUPE_LIST:
      if (!value.as.list.items && value.as.list.count > 0) return wrong("its items are NULL");
      if (value.as.list.count > std::numeric_limits<std::uint32_t>::max()) return wrong("a list is too long");
      if (depth == kMaxDepth) return wrong("lists are nested too deep");
      for (const troupe_value& item : items_of(value))
        if (auto good = check_at(item, depth + 1); !good) return good;
      return {};
    default:
      return wrong("kind " + std::to_string(value.kind) + " is none of values");
  }
}

bool fits_integer(DType dtype, const troupe_value& value) {
  const bool is_signed = dtype <= DType::kInt64;
  const unsigned bits = 8 * static_cast<unsigned>(size_of(dtype)) - (is_signed ? 1 : 0);
  const std::uint64_t largest = ~std::uint64_t{0} >> (64 - bits);
  if (value.kind == TROUPE_UINT) return value.as.natural <= largest;
  if (value.kind != TROUPE_INT) return false;
  if (value.as.integer >= 0) return static_cast<std::uint64_t>(value.as.integer) <= largest;
  return is_signed && value.as.integer >= -static_cast<std::int64_t>(largest) - 1;
}

bool fits_tensor(const AnyType& type, const troupe_value& value) {
  if (value.kind != TROUPE_TENSOR) return false;
  const Tensor& tensor = value.as.tensor->tensor;
  if (type.rank && tensor.rank() != *type.rank) return false;
  // A strided one is packed on its way.
  return !type.dtype || (tensor.dtype() == *type.dtype && tensor.device().kind != MemoryKind::kDevice);
}

bool fits_each(const std::vector<AnyType>& types, const troupe_value& value) {
  if (value.kind != TROUPE_LIST || value.as.list.count != types.size()) return false;
  for (std::size_t i = 0; i < types.size(); ++i)
    if (!fits(types[i], items_of(value)[i])) return false;
  return true;
}

void write_integer(rpc::ValueWriter out, DType width, const troupe_value& value) {
  if (width <= DType::kInt64)
    out.integer(value.kind == TROUPE_INT ? value.as.integer : static_cast<std::int64_t>(value.as.natural),
                width);
  else
    out.unsigned_integer(
        value.kind == TROUPE_UINT ? value.as.natural : static_cast<std::uint64_t>(value.as.integer), width);
}

void write_list(rpc::ValueWriter out, const AnyType* type, const troupe_value& value) {
  out.list(value.as.list.count);
  for (std::uint32_t i = 0; i < value.as.list.count; ++i) {
    const troupe_value& item = value.as.list.items[i];
    const AnyType* item_type = nullptr;
    if (type) item_type = type->kind == Kind::kVector ? type->items.data() : type->items.data() + i;
    write(out.item(i), item_type, item);
  }
}

void write_map(rpc::ValueWriter out, const AnyType& type, const troupe_value& value) {
  out.list(value.as.list.count);
  for (std::uint32_t i = 0; i < value.as.list.count; ++i) {
    rpc::ValueWriter pair = out.item(i);
    pair.list(2);
    for (std::uint32_t part = 0; part < 2; ++part)
      write(pair.item(part), &type.items[part], value.as.list.items[i].as.list.items[part]);
  }
}

troupe_value of_bytes(std::int32_t kind, std::int32_t type, std::span<const std::byte> bytes) {
  troupe_value value{};
  value.kind = kind;
  value.type = type;
  value.as.bytes.data = bytes.data();
  value.as.bytes.size = bytes.size();
  return value;
}

}  // namespace

Result<void> check_value(const troupe_value& value) {
  return check_at(value, 0);
}

bool fits(const AnyType& type, const troupe_value& value) {
  switch (type.kind) {
    case Kind::kVoid:
      return false;
    case Kind::kBool:
      return value.kind == TROUPE_BOOL;
    case Kind::kInteger:
      return fits_integer(*type.dtype, value);
    case Kind::kEnum:
      return value.kind == TROUPE_INT || value.kind == TROUPE_UINT;
    case Kind::kFloat:
      return value.kind == TROUPE_REAL || value.kind == TROUPE_INT || value.kind == TROUPE_UINT;
    case Kind::kString:
      return value.kind == TROUPE_STRING;
    case Kind::kBytes:
      return value.kind == TROUPE_BYTES;
    case Kind::kTensor:
      return fits_tensor(type, value);
    case Kind::kNumbers:
      return value.kind == TROUPE_NUMBERS && value.type == static_cast<std::int32_t>(*type.dtype);
    case Kind::kOptional:
      return value.kind == TROUPE_NONE || fits(type.items[0], value);
    case Kind::kTuple:
    case Kind::kStruct:
      return fits_each(type.items, value);
    case Kind::kVector:
      if (value.kind != TROUPE_LIST) return false;
      for (const troupe_value& item : items_of(value))
        if (!fits(type.items[0], item)) return false;
      return true;
    case Kind::kMap:
      if (value.kind != TROUPE_LIST) return false;
      for (const troupe_value& item : items_of(value))
        if (!fits_each(type.items, item)) return false;
      return true;
  }
  return false;
}

std::string describe(const troupe_value& value) {
  switch (value.kind) {
    case TROUPE_NONE:
      return "none";
    case TROUPE_BOOL:
      return "bool";
    case TROUPE_INT:
      return "the integer " + std::to_string(value.as.integer);
    case TROUPE_UINT:
      return "the integer " + std::to_string(value.as.natural);
    case TROUPE_REAL:
      return "float";
    case TROUPE_STRING:
      return "string";
    case TROUPE_BYTES:
      return "bytes";
    case TROUPE_TENSOR:
      return value.as.tensor->tensor.to_string();
    case TROUPE_NUMBERS:
      return "vector<" + std::string(to_string(static_cast<DType>(value.type))) + ">";
    case TROUPE_LIST:
      return "a list of " + std::to_string(value.as.list.count);
    default:
      return "of an unknown kind";
  }
}

Result<void> check_arguments(const rpc::AnySignature* signature, const troupe_value* values,
                             std::size_t count) {
  if (!values && count > 0) return null_argument("arguments");
  if (signature && signature->parameters.size() != count)
    return wrong("takes " + std::to_string(signature->parameters.size()) + " arguments, not " +
                 std::to_string(count));
  for (std::size_t i = 0; i < count; ++i) {
    const auto at = [&] { return "argument " + std::to_string(i + 1); };
    if (auto good = check_value(values[i]); !good) return with_context(good.error(), at());
    if (signature && !fits(signature->parameters[i], values[i]))
      return wrong(at() + " is to be " + signature->parameters[i].to_string() + ", not " +
                   describe(values[i]));
  }
  return {};
}

void write(rpc::ValueWriter out, const AnyType* type, const troupe_value& value) {
  if (type && type->kind == Kind::kOptional && value.kind != TROUPE_NONE)
    return write(out, type->items.data(), value);
  switch (value.kind) {
    case TROUPE_NONE:
      return out.none();
    case TROUPE_BOOL:
      return out.boolean(value.as.boolean != 0);
    case TROUPE_INT:
    case TROUPE_UINT:
      if (type && type->kind == Kind::kFloat)
        return out.real(value.kind == TROUPE_INT ? static_cast<double>(value.as.integer)
                                                 : static_cast<double>(value.as.natural),
                        *type->dtype);
      return write_integer(
          out,
          type && type->dtype ? *type->dtype : (value.kind == TROUPE_INT ? DType::kInt64 : DType::kUInt64),
          value);
    case TROUPE_REAL:
      return out.real(value.as.real, type ? *type->dtype : DType::kFloat64);
    case TROUPE_STRING:
      return out.text({static_cast<const char*>(value.as.bytes.data), value.as.bytes.size});
    case TROUPE_BYTES:
      return out.data(bytes_of(value));
    case TROUPE_TENSOR:
      return out.tensor(value.as.tensor->tensor);
    case TROUPE_NUMBERS:
      return out.numbers(static_cast<DType>(value.type), bytes_of(value));
    default:
      if (type && type->kind == Kind::kMap) return write_map(out, *type, value);
      return write_list(out, type, value);
  }
}

void write_arguments(rpc::OutMessage& out, const rpc::AnySignature* signature, const troupe_value* values,
                     std::size_t count) {
  out.values(static_cast<std::uint32_t>(count));
  for (std::size_t i = 0; i < count; ++i)
    write(out.value(static_cast<std::uint32_t>(i)), signature ? &signature->parameters[i] : nullptr,
          values[i]);
}

// ---- What came ----------------------------------------------------------------------------------

troupe_value ValueTree::read(const rpc::ValueReader& reader) {
  troupe_value value{};
  value.type = static_cast<std::int32_t>(reader.width());
  bool yes = false;
  std::string_view text;
  std::span<const std::byte> bytes;
  rpc::ValueList list;
  switch (reader.kind()) {
    case rpc::ValueKind::kNone:
      return value;
    case rpc::ValueKind::kBool:
      if (!reader.read(yes)) break;
      value.kind = TROUPE_BOOL;
      value.as.boolean = yes ? 1 : 0;
      return value;
    case rpc::ValueKind::kInt:
      if (!reader.read_integer(value.as.integer)) break;
      value.kind = TROUPE_INT;
      return value;
    case rpc::ValueKind::kUInt:
      if (!reader.read_unsigned(value.as.natural)) break;
      value.kind = TROUPE_UINT;
      return value;
    case rpc::ValueKind::kReal:
      if (!reader.read_real(value.as.real)) break;
      value.kind = TROUPE_REAL;
      return value;
    case rpc::ValueKind::kText:
      if (!reader.read(text)) break;
      return of_bytes(TROUPE_STRING, 0, std::as_bytes(std::span(text)));
    case rpc::ValueKind::kData:
      if (!reader.read(bytes)) break;
      return of_bytes(TROUPE_BYTES, 0, bytes);
    case rpc::ValueKind::kNumbers:
      if (!is_dtype(value.type) || !reader.read_numbers(reader.width(), bytes)) break;
      return of_bytes(TROUPE_NUMBERS, value.type, bytes);
    case rpc::ValueKind::kTensor: {
      Tensor tensor;
      if (!reader.read(tensor)) break;
      tensors_.push_front({std::move(tensor)});
      value.kind = TROUPE_TENSOR;
      value.as.tensor = &tensors_.front();
      return value;
    }
    case rpc::ValueKind::kList: {
      if (!reader.read(list)) break;
      std::vector<troupe_value> items;
      for (std::uint32_t i = 0; i < list.size(); ++i) items.push_back(read(list[i]));
      lists_.push_front(std::move(items));
      value.kind = TROUPE_LIST;
      value.as.list.items = lists_.front().data();
      value.as.list.count = lists_.front().size();
      return value;
    }
  }
  throw BadResult(Error{Code::kDataLoss, "a value that came is malformed"});
}

troupe_value ValueTree::copy(const troupe_value& value) {
  troupe_value same = value;
  switch (value.kind) {
    case TROUPE_STRING:
    case TROUPE_BYTES:
    case TROUPE_NUMBERS:
      bytes_.emplace_front(static_cast<const char*>(value.as.bytes.data),
                           value.as.bytes.data ? value.as.bytes.size : 0);
      same.as.bytes.data = bytes_.front().data();
      return same;
    case TROUPE_TENSOR:
      tensors_.push_front({value.as.tensor->tensor});
      same.as.tensor = &tensors_.front();
      return same;
    case TROUPE_LIST: {
      std::vector<troupe_value> items;
      items.reserve(value.as.list.count);
      for (const troupe_value& item : items_of(value)) items.push_back(copy(item));
      lists_.push_front(std::move(items));
      same.as.list.items = lists_.front().data();
      return same;
    }
    default:
      return same;
  }
}

OwnedValues::OwnedValues(const troupe_value* values, std::size_t count) {
  values_.reserve(count);
  for (std::size_t i = 0; i < count; ++i) {
    values_.push_back(tree_.copy(values[i]));
    lease(values_.back());
  }
}

void OwnedValues::lease(const troupe_value& value) {
  if (value.kind == TROUPE_TENSOR) {
    const Buffer& buffer = value.as.tensor->tensor.buffer();
    if (SharedPool::locate(buffer)) leases_.emplace_back(buffer);
  } else if (value.kind == TROUPE_LIST) {
    for (const troupe_value& item : items_of(value)) lease(item);
  }
}

}  // namespace troupe::c

// ---- Making them ----------------------------------------------------------------------------------

troupe_value troupe_none(void) {
  return troupe_value{};
}

troupe_value troupe_bool(int boolean) {
  troupe_value value{};
  value.kind = TROUPE_BOOL;
  value.as.boolean = boolean != 0 ? 1 : 0;
  return value;
}

troupe_value troupe_int(int64_t integer) {
  troupe_value value{};
  value.kind = TROUPE_INT;
  value.as.integer = integer;
  return value;
}

troupe_value troupe_uint(uint64_t natural) {
  troupe_value value{};
  value.kind = TROUPE_UINT;
  value.as.natural = natural;
  return value;
}

troupe_value troupe_real(double real) {
  troupe_value value{};
  value.kind = TROUPE_REAL;
  value.as.real = real;
  return value;
}

troupe_value troupe_string(const char* text) {
  troupe_value value{};
  value.kind = TROUPE_STRING;
  value.as.bytes.data = text;
  value.as.bytes.size = text ? std::strlen(text) : 1;  // NULL is refused where it is used
  return value;
}

troupe_value troupe_bytes(const void* data, size_t size) {
  troupe_value value{};
  value.kind = TROUPE_BYTES;
  value.as.bytes.data = data;
  value.as.bytes.size = size;
  return value;
}

troupe_value troupe_numbers(troupe_dtype type, const void* data, size_t count) {
  troupe_value value{};
  value.kind = TROUPE_NUMBERS;
  value.type = type;
  value.as.bytes.data = data;
  const std::size_t element =
      troupe::c::is_dtype(type) ? troupe::size_of(static_cast<troupe::DType>(type)) : 0;
  if (__builtin_mul_overflow(count, element, &value.as.bytes.size)) {
    value.as.bytes.data = nullptr;  // is refused where it is used
    value.as.bytes.size = element;
  }
  return value;
}

troupe_value troupe_list(const troupe_value* items, size_t count) {
  troupe_value value{};
  value.kind = TROUPE_LIST;
  value.as.list.items = items;
  value.as.list.count = count;
  return value;
}

troupe_value troupe_of_tensor(troupe_tensor* tensor) {
  troupe_value value{};
  value.kind = TROUPE_TENSOR;
  value.as.tensor = tensor;
  return value;
}
