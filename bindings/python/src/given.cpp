// What comes, as Python's objects.
#include <cstring>
#include <span>
#include <string>

#include <troupe/rpc/codec.hpp>
#include <troupe/rpc/message.hpp>

#include "tensor.hpp"
#include "value.hpp"

namespace troupe::python {
namespace {

using Kind = Type::Kind;

[[noreturn]] void not_of(const Type& type, const rpc::ValueReader& in) {
  throw nb::type_error((type.text() + " was to come, not " + rpc::describe(in)).c_str());
}

nb::object checked(PyObject* made) {
  if (!made) throw nb::python_error();
  return nb::steal(made);
}

nb::object give_integer_of(const Type& type, const rpc::ValueReader& in) {
  std::int64_t value = 0;
  std::uint64_t large = 0;
  if (in.read_integer(value) ? !fits(type.width, value)
                             : type.width != DType::kUInt64 || !in.read_unsigned(large))
    not_of(type, in);
  return give_integer(in);
}

nb::object give_tensor(const Type& type, const rpc::ValueReader& in) {
  Tensor tensor;
  if (!in.read(tensor)) not_of(type, in);
  if (type.kind == Kind::kTensorOf &&
      (tensor.dtype() != type.width || (type.rank != Type::kAnyRank && tensor.rank() != type.rank)))
    not_of(type, in);
  return array_of(std::move(tensor), type.make ? nb::handle(type.make.get()) : nb::handle());
}

nb::object give_tuple(const Type& type, const rpc::ValueReader& in) {
  rpc::ValueList list;
  if (!in.read(list) || list.size() != type.parts.size()) not_of(type, in);
  nb::object tuple = checked(PyTuple_New(list.size()));
  for (std::uint32_t i = 0; i < list.size(); ++i)
    PyTuple_SetItem(tuple.ptr(), i, give(*type.parts[i], list[i]).release().ptr());
  return tuple;
}

nb::object give_list(const Type& type, const rpc::ValueReader& in) {
  const Type& part = *type.parts[0];
  if (type.is_numbers()) {
    std::span<const std::byte> bytes;
    if (!in.read_numbers(part.width, bytes)) not_of(type, in);
    return list_of_numbers(part.width, bytes);
  }
  rpc::ValueList list;
  if (!in.read(list)) not_of(type, in);
  nb::list made;
  for (std::uint32_t i = 0; i < list.size(); ++i) made.append(give(part, list[i]));
  return made;
}

nb::object give_map(const Type& type, const rpc::ValueReader& in) {
  rpc::ValueList list;
  if (!in.read(list)) not_of(type, in);
  nb::dict made;
  for (std::uint32_t i = 0; i < list.size(); ++i) {
    rpc::ValueList pair;
    if (!list[i].read(pair) || pair.size() != 2) not_of(type, in);
    made[give(*type.parts[0], pair[0])] = give(*type.parts[1], pair[1]);
  }
  return made;
}

nb::object give_struct(const Type& type, const rpc::ValueReader& in) {
  return checked(PyObject_CallObject(type.make.get(), give_tuple(type, in).ptr()));
}

template <class T>
nb::object numbers_as(std::span<const std::byte> bytes) {
  const std::size_t count = bytes.size() / sizeof(T);
  nb::object list = checked(PyList_New(static_cast<Py_ssize_t>(count)));
  for (std::size_t i = 0; i < count; ++i) {
    T value;
    std::memcpy(&value, bytes.data() + i * sizeof(T), sizeof(T));
    PyObject* item = nullptr;
    if constexpr (std::is_floating_point_v<T>)
      item = PyFloat_FromDouble(value);
    else if constexpr (std::is_signed_v<T>)
      item = PyLong_FromLongLong(value);
    else
      item = PyLong_FromUnsignedLongLong(value);
    PyList_SetItem(list.ptr(), static_cast<Py_ssize_t>(i), checked(item).release().ptr());
  }
  return list;
}

}  // namespace

nb::object give_integer(const rpc::ValueReader& in) {
  std::int64_t value = 0;
  if (in.read_integer(value)) return checked(PyLong_FromLongLong(value));
  std::uint64_t large = 0;
  if (in.read_unsigned(large)) return checked(PyLong_FromUnsignedLongLong(large));
  throw nb::type_error("an integer was to come");
}

nb::object list_of_numbers(DType width, std::span<const std::byte> bytes) {
  switch (width) {
    case DType::kFloat32:
      return numbers_as<float>(bytes);
    case DType::kFloat64:
      return numbers_as<double>(bytes);
    case DType::kInt8:
      return numbers_as<std::int8_t>(bytes);
    case DType::kInt16:
      return numbers_as<std::int16_t>(bytes);
    case DType::kInt32:
      return numbers_as<std::int32_t>(bytes);
    case DType::kInt64:
      return numbers_as<std::int64_t>(bytes);
    case DType::kUInt8:
      return numbers_as<std::uint8_t>(bytes);
    case DType::kUInt16:
      return numbers_as<std::uint16_t>(bytes);
    case DType::kUInt32:
      return numbers_as<std::uint32_t>(bytes);
    case DType::kUInt64:
      return numbers_as<std::uint64_t>(bytes);
    default:
      throw nb::type_error("a list of numbers came whose elements are none");
  }
}

nb::object give(const Type& type, const rpc::ValueReader& in) {
  switch (type.kind) {
    case Kind::kVoid:
      return nb::none();
    case Kind::kBool: {
      bool value = false;
      if (!in.read(value)) not_of(type, in);
      return nb::bool_(value);
    }
    case Kind::kInteger:
      return give_integer_of(type, in);
    case Kind::kReal: {
      double value = 0;
      if (!in.read_real(value)) not_of(type, in);
      return checked(PyFloat_FromDouble(value));
    }
    case Kind::kText: {
      std::string_view text;
      if (!in.read(text)) not_of(type, in);
      return checked(
          PyUnicode_DecodeUTF8(text.data(), static_cast<Py_ssize_t>(text.size()), "surrogateescape"));
    }
    case Kind::kBytes: {
      std::span<const std::byte> bytes;
      if (!in.read(bytes)) not_of(type, in);
      return nb::bytes(bytes.data(), bytes.size());
    }
    case Kind::kTensor:
    case Kind::kTensorOf:
      return give_tensor(type, in);
    case Kind::kList:
      return give_list(type, in);
    case Kind::kOptional:
      return in.kind() == rpc::ValueKind::kNone ? nb::none() : give(*type.parts[0], in);
    case Kind::kTuple:
      return give_tuple(type, in);
    case Kind::kMap:
      return give_map(type, in);
    case Kind::kStruct:
      return give_struct(type, in);
    case Kind::kEnum:
      return checked(PyObject_CallFunctionObjArgs(type.make.get(), give_integer_of(type, in).ptr(), nullptr));
    case Kind::kPython:
      return give_python(in);
    case Kind::kNatural:
      break;
  }
  return give_natural(in);
}

nb::object give_answer(const Type& type, const rpc::InMessage& message) {
  if (message.value_count() == 0) {
    if (type.kind == Kind::kVoid || type.kind == Kind::kNatural || type.kind == Kind::kPython)
      return nb::none();
    throw nb::type_error((type.text() + " was to come, not nothing").c_str());
  }
  return give(type, message.value(0));
}

}  // namespace troupe::python
