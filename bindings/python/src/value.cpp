#include "value.hpp"

#include <cstring>
#include <limits>
#include <span>
#include <utility>

#include <nanobind/stl/string.h>

#include <troupe/rpc/message.hpp>

#include "tensor.hpp"

namespace troupe::python {

// ---- Into the message -----------------------------------------------------------------------------

void Value::write(rpc::ValueWriter out) const {
  const auto bytes_of = [](const std::string& bytes) { return std::as_bytes(std::span(bytes)); };
  struct Visitor {
    rpc::ValueWriter& out;
    decltype(bytes_of)& bytes;
    void operator()(std::monostate) const { out.none(); }
    void operator()(bool value) const { out.boolean(value); }
    void operator()(const Integer& value) const { out.integer(value.value, value.width); }
    void operator()(const Unsigned& value) const { out.unsigned_integer(value.value, value.width); }
    void operator()(const Real& value) const { out.real(value.value, value.width); }
    void operator()(const Text& value) const { out.text(value.text); }
    void operator()(const Data& value) const { out.data(bytes(value.bytes)); }
    void operator()(const Numbers& value) const { out.numbers(value.width, bytes(value.bytes)); }
    void operator()(const List& list) const {
      out.list(list.size());
      for (std::uint32_t i = 0; i < list.size(); ++i) list[i].write(out.item(i));
    }
    void operator()(const Held& tensor) const { out.tensor(*tensor); }
  };
  std::visit(Visitor{out, bytes_of}, value_);
}

void write_values(rpc::OutMessage& out, const std::vector<Value>& values) {
  out.values(static_cast<std::uint32_t>(values.size()));
  for (std::uint32_t i = 0; i < values.size(); ++i) values[i].write(out.value(i));
}

// ---- From Python ----------------------------------------------------------------------------------

namespace {

using Kind = Type::Kind;

template <class T>
void pack_integers(nb::handle fast, std::size_t count, std::string& bytes) {
  auto* out = reinterpret_cast<T*>(bytes.data());
  for (std::size_t i = 0; i < count; ++i) {
    const nb::object item = nb::steal(PySequence_GetItem(fast.ptr(), static_cast<Py_ssize_t>(i)));
    if (!item.is_valid()) throw nb::python_error();
    bool fits = true;
    if constexpr (std::is_same_v<T, std::uint64_t>) {
      const unsigned long long value = PyLong_AsUnsignedLongLong(item.ptr());
      if (value == static_cast<unsigned long long>(-1) && PyErr_Occurred()) throw nb::python_error();
      out[i] = value;
    } else {
      const long long value = PyLong_AsLongLong(item.ptr());
      if (value == -1 && PyErr_Occurred()) throw nb::python_error();
      fits = value >= static_cast<long long>(std::numeric_limits<T>::min()) &&
             value <= static_cast<long long>(std::numeric_limits<T>::max());
      out[i] = static_cast<T>(value);
    }
    if (!fits) refuse("a list of " + std::string(to_string(dtype_of<T>())), item);
  }
}

template <class T>
void pack_reals(nb::handle fast, std::size_t count, std::string& bytes) {
  auto* out = reinterpret_cast<T*>(bytes.data());
  for (std::size_t i = 0; i < count; ++i) {
    const nb::object item = nb::steal(PySequence_GetItem(fast.ptr(), static_cast<Py_ssize_t>(i)));
    if (!item.is_valid()) throw nb::python_error();
    const double value = PyFloat_AsDouble(item.ptr());
    if (value == -1 && PyErr_Occurred()) throw nb::python_error();
    out[i] = static_cast<T>(value);
  }
}

bool is_unsigned(DType width) {
  return width == DType::kUInt8 || width == DType::kUInt16 || width == DType::kUInt32 ||
         width == DType::kUInt64;
}

Value take_integer(DType width, nb::handle object) {
  if (width == DType::kUInt64) {
    const unsigned long long value = PyLong_AsUnsignedLongLong(object.ptr());
    if (value == static_cast<unsigned long long>(-1) && PyErr_Occurred()) throw nb::python_error();
    return Value(Value::Unsigned{value, width});
  }
  const long long value = PyLong_AsLongLong(object.ptr());
  if (value == -1 && PyErr_Occurred()) throw nb::python_error();
  if (!fits(width, value)) refuse("an " + std::string(to_string(width)), object);
  if (is_unsigned(width)) return Value(Value::Unsigned{static_cast<std::uint64_t>(value), width});
  return Value(Value::Integer{value, width});
}

Value take_text(nb::handle object) {
  if (!PyUnicode_Check(object.ptr())) refuse("a str", object);
  Py_ssize_t size = 0;
  const char* const text = PyUnicode_AsUTF8AndSize(object.ptr(), &size);
  if (!text) throw nb::python_error();
  return Value(Value::Text{std::string(text, static_cast<std::size_t>(size))});
}

Value take_bytes(nb::handle object) {
  if (PyBytes_Check(object.ptr()))
    return Value(Value::Data{
        std::string(PyBytes_AsString(object.ptr()), static_cast<std::size_t>(PyBytes_Size(object.ptr())))});
  const nb::object copy = nb::steal(PyBytes_FromObject(object.ptr()));
  if (PyLong_Check(object.ptr()) || PyUnicode_Check(object.ptr()) || !copy.is_valid()) {
    PyErr_Clear();
    refuse("bytes", object);
  }
  return take_bytes(copy);
}

Value take_tensor(const Type& type, nb::handle object) {
  auto tensor = std::make_unique<const Tensor>(tensor_of(object));
  if (type.kind == Kind::kTensorOf &&
      (tensor->dtype() != type.width || (type.rank != Type::kAnyRank && tensor->rank() != type.rank)))
    throw nb::type_error((type.text() + " was to be here, not " + tensor->to_string()).c_str());
  return Value(Value::Held(std::move(tensor)));
}

Value take_list(const Type& type, nb::handle object) {
  if (PyUnicode_Check(object.ptr()) || PyDict_Check(object.ptr()) || !PySequence_Check(object.ptr()))
    refuse("a list", object);
  const Type& part = *type.parts[0];
  if (type.is_numbers()) return Value(pack_numbers(part.width, object));
  const Py_ssize_t size = PySequence_Size(object.ptr());
  if (size < 0) throw nb::python_error();
  Value::List list;
  list.reserve(static_cast<std::size_t>(size));
  for (Py_ssize_t i = 0; i < size; ++i) {
    const nb::object item = nb::steal(PySequence_GetItem(object.ptr(), i));
    if (!item.is_valid()) throw nb::python_error();
    list.push_back(take(part, item));
  }
  return Value(std::move(list));
}

Value take_tuple(const Type& type, nb::handle object) {
  if ((!PyTuple_Check(object.ptr()) && !PyList_Check(object.ptr())) ||
      PySequence_Size(object.ptr()) != static_cast<Py_ssize_t>(type.parts.size()))
    refuse("a tuple of " + std::to_string(type.parts.size()), object);
  return Value(take_all(type.parts, object));
}

Value take_map(const Type& type, nb::handle object) {
  if (!PyDict_Check(object.ptr())) refuse("a dict", object);
  Value::List list;
  for (nb::handle pair : items_of(object)) {
    Value::List both;
    both.push_back(take(*type.parts[0], nb::object(pair[0])));
    both.push_back(take(*type.parts[1], nb::object(pair[1])));
    list.emplace_back(std::move(both));
  }
  return Value(std::move(list));
}

Value take_struct(const Type& type, nb::handle object) {
  Value::List list;
  for (std::size_t i = 0; i < type.fields.size(); ++i)
    list.push_back(take(*type.parts[i], nb::object(object.attr(type.fields[i].c_str()))));
  return Value(std::move(list));
}

}  // namespace

nb::list items_of(nb::handle dict) {
  PyObject* const items = PyDict_Items(dict.ptr());
  if (!items) throw nb::python_error();
  return nb::steal<nb::list>(items);
}

bool fits(DType width, std::int64_t value) {
  const auto bits = 8 * size_of(width);
  if (is_unsigned(width)) return value >= 0 && (bits == 64 || value < std::int64_t{1} << bits);
  const std::int64_t most = bits == 64 ? INT64_MAX : (std::int64_t{1} << (bits - 1)) - 1;
  return value >= -most - 1 && value <= most;
}

void refuse(const std::string& wanted, nb::handle object) {
  const std::string is =
      nb::cast<std::string>(nb::handle(reinterpret_cast<PyObject*>(Py_TYPE(object.ptr()))).attr("__name__"));
  throw nb::type_error(
      (wanted + " was to be here, not " + (is == "int" ? nb::cast<std::string>(nb::repr(object)) : "a " + is))
          .c_str());
}

Value::Numbers pack_numbers(DType width, nb::handle sequence) {
  const Py_ssize_t size = PySequence_Size(sequence.ptr());
  if (size < 0) throw nb::python_error();
  const auto count = static_cast<std::size_t>(size);
  Value::Numbers numbers{std::string(count * size_of(width), '\0'), width};
  const auto pack = [&]<class T>(T) {
    if constexpr (std::is_floating_point_v<T>)
      pack_reals<T>(sequence, count, numbers.bytes);
    else
      pack_integers<T>(sequence, count, numbers.bytes);
  };
  switch (width) {
    case DType::kFloat32:
      pack(float{});
      break;
    case DType::kFloat64:
      pack(double{});
      break;
    case DType::kInt8:
      pack(std::int8_t{});
      break;
    case DType::kInt16:
      pack(std::int16_t{});
      break;
    case DType::kInt32:
      pack(std::int32_t{});
      break;
    case DType::kInt64:
      pack(std::int64_t{});
      break;
    case DType::kUInt8:
      pack(std::uint8_t{});
      break;
    case DType::kUInt16:
      pack(std::uint16_t{});
      break;
    case DType::kUInt32:
      pack(std::uint32_t{});
      break;
    case DType::kUInt64:
      pack(std::uint64_t{});
      break;
    default:
      throw nb::type_error("a list of numbers has no elements of this type");
  }
  return numbers;
}

Value take(const Type& type, nb::handle object) {
  switch (type.kind) {
    case Kind::kVoid:
      if (!object.is_none()) refuse("None", object);
      return {};
    case Kind::kBool:
      if (!PyBool_Check(object.ptr())) refuse("a bool", object);
      return Value(object.ptr() == Py_True);
    case Kind::kInteger:
      return take_integer(type.width, object);
    case Kind::kReal: {
      const double value = PyFloat_AsDouble(object.ptr());
      if (value == -1 && PyErr_Occurred()) throw nb::python_error();
      return Value(Value::Real{value, type.width});
    }
    case Kind::kText:
      return take_text(object);
    case Kind::kBytes:
      return take_bytes(object);
    case Kind::kTensor:
    case Kind::kTensorOf:
      return take_tensor(type, object);
    case Kind::kList:
      return take_list(type, object);
    case Kind::kOptional:
      return object.is_none() ? Value() : take(*type.parts[0], object);
    case Kind::kTuple:
      return take_tuple(type, object);
    case Kind::kMap:
      return take_map(type, object);
    case Kind::kStruct:
      return take_struct(type, object);
    case Kind::kEnum:
      return take_integer(type.width, nb::object(object.attr("value")));
    case Kind::kPython:
      return take_python(object);
    case Kind::kNatural:
      break;
  }
  return take_natural(object);
}

std::vector<Value> take_all(const std::vector<TypePtr>& types, nb::handle tuple) {
  const Py_ssize_t size = PySequence_Size(tuple.ptr());
  if (size < 0) throw nb::python_error();
  std::vector<Value> values;
  values.reserve(static_cast<std::size_t>(size));
  for (Py_ssize_t i = 0; i < size; ++i) {
    const nb::object item = nb::steal(PySequence_GetItem(tuple.ptr(), i));
    if (!item.is_valid()) throw nb::python_error();
    values.push_back(take(types.empty() ? *natural_type() : *types[static_cast<std::size_t>(i)], item));
  }
  return values;
}

}  // namespace troupe::python
