// Values of no annotated type. A natural one travels as a C++ callee of that type wants it, and so a tuple
// comes as a list; one of Python's says what it was.
#include <span>
#include <string>

#include <troupe/rpc/message.hpp>

#include "hooks.hpp"
#include "tensor.hpp"
#include "value.hpp"

namespace troupe::python {
namespace {

/// Lists in lists, without end perhaps: RecursionError. Python's own bound is of another stack than this one,
/// and who receives them reads no deeper than that.
class Deeper {
 public:
  Deeper() {
    if (depth_ >= kMost) {
      PyErr_SetString(PyExc_RecursionError, "lists within lists: what is to be sent is too deep");
      throw nb::python_error();
    }
    ++depth_;
  }
  ~Deeper() { --depth_; }
  Deeper(const Deeper&) = delete;
  Deeper& operator=(const Deeper&) = delete;

 private:
  static constexpr int kMost = 60;
  static inline thread_local int depth_ = 0;
};

/// Before the items of a list: what the list stands for. A number of a width that natural lists do not begin
/// with.
enum class Tag : std::uint8_t {
  kList,
  kNumbers,  // a list of int or float alone, packed
  kTuple,
  kDict,
  kSet,
  kFrozenSet,
  kBigInteger,
  kExtension,  // of troupe's own classes: a name and what it is made from
  kPickle,
};

Value tag_value(Tag tag) {
  return Value(Value::Unsigned{static_cast<std::uint64_t>(tag), DType::kUInt8});
}

nb::object called(PyObject* function, nb::handle argument) {
  if (!function) throw nb::type_error("troupe was not imported as a whole");
  PyObject* const result = PyObject_CallFunctionObjArgs(function, argument.ptr(), nullptr);
  if (!result) throw nb::python_error();
  return nb::steal(result);
}

/// What both kinds send alike; false: it is none of it. `lent`: also tensors that are no arrays but speak
/// DLPack, which then come as arrays.
bool take_plain(nb::handle object, Value& value, bool lent) {
  PyObject* const it = object.ptr();
  if (it == Py_None) return true;
  if (PyBool_Check(it)) {
    value = Value(it == Py_True);
  } else if (PyLong_CheckExact(it)) {
    int overflow = 0;
    const long long number = PyLong_AsLongLongAndOverflow(it, &overflow);
    if (overflow != 0) return false;
    value = Value(Value::Integer{number, DType::kInt64});
  } else if (PyFloat_CheckExact(it)) {
    value = Value(Value::Real{PyFloat_AsDouble(it), DType::kFloat64});
  } else if (PyUnicode_Check(it)) {
    Py_ssize_t size = 0;
    const char* const text = PyUnicode_AsUTF8AndSize(it, &size);
    if (!text) throw nb::python_error();
    value = Value(Value::Text{std::string(text, static_cast<std::size_t>(size))});
  } else if (PyBytes_Check(it)) {
    value = Value(Value::Data{std::string(PyBytes_AsString(it), static_cast<std::size_t>(PyBytes_Size(it)))});
  } else if (is_tensor(object, lent)) {
    value = Value(Value::Held(std::make_unique<const Tensor>(tensor_of(object))));
  } else {
    return false;
  }
  return true;
}

/// The width of all items, if they are numbers of one kind and there is one: of which a list is packed.
bool all_numbers(nb::handle list, Py_ssize_t size, DType& width) {
  if (size == 0) return false;
  bool integers = true, reals = true;
  for (Py_ssize_t i = 0; i < size && (integers || reals); ++i) {
    PyObject* const item =
        PyList_Check(list.ptr()) ? PyList_GetItem(list.ptr(), i) : PyTuple_GetItem(list.ptr(), i);
    integers = integers && PyLong_CheckExact(item);
    reals = reals && PyFloat_CheckExact(item);
  }
  width = integers ? DType::kInt64 : DType::kFloat64;
  return integers || reals;
}

template <class Take>
void take_items(nb::handle iterable, Value::List& list, Take take_one) {
  for (nb::handle item : nb::borrow<nb::object>(iterable)) list.push_back(take_one(item));
}

Value take_dict(nb::handle object, Value (*take_one)(nb::handle), bool tagged) {
  Value::List list;
  if (tagged) list.push_back(tag_value(Tag::kDict));
  for (nb::handle pair : items_of(object)) {
    Value::List both;
    both.push_back(take_one(nb::object(pair[0])));
    both.push_back(take_one(nb::object(pair[1])));
    list.emplace_back(std::move(both));
  }
  return Value(std::move(list));
}

nb::object give_tagged(Tag tag, const rpc::ValueList& list);

}  // namespace

Value take_natural(nb::handle object) {
  Value value;
  if (take_plain(object, value, true)) return value;
  const Deeper deeper;
  PyObject* const it = object.ptr();
  if (PyLong_CheckExact(it)) {  // it is too large for 64 bits with a sign
    const unsigned long long number = PyLong_AsUnsignedLongLong(it);
    if (number == static_cast<unsigned long long>(-1) && PyErr_Occurred()) throw nb::python_error();
    return Value(Value::Unsigned{number, DType::kUInt64});
  }
  if (PyList_Check(it) || PyTuple_Check(it)) {
    DType width{};
    const Py_ssize_t size = PySequence_Size(it);
    if (PyList_Check(it) && all_numbers(object, size, width)) {
      try {
        return Value(pack_numbers(width, object));
      } catch (nb::python_error&) {  // one does not fit in 64 bits: the error is of what follows
      }
    }
    Value::List list;
    take_items(object, list, take_natural);
    return Value(std::move(list));
  }
  if (PyDict_Check(it)) return take_dict(object, take_natural, false);
  return take_natural(called(hooks().plain, object));
}

Value take_python(nb::handle object) {
  Value value;
  if (take_plain(object, value, false)) return value;
  const Deeper deeper;
  PyObject* const it = object.ptr();
  Value::List list;
  if (PyList_CheckExact(it)) {
    DType width{};
    if (PyList_Size(it) >= 4 && all_numbers(object, PyList_Size(it), width)) {
      try {
        list.push_back(tag_value(Tag::kNumbers));
        list.emplace_back(pack_numbers(width, object));
        return Value(std::move(list));
      } catch (nb::python_error&) {  // one does not fit in 64 bits
        list.clear();
      }
    }
    list.push_back(tag_value(Tag::kList));
    take_items(object, list, take_python);
  } else if (PyTuple_CheckExact(it)) {
    list.push_back(tag_value(Tag::kTuple));
    take_items(object, list, take_python);
  } else if (PyDict_CheckExact(it)) {
    return take_dict(object, take_python, true);
  } else if (PyLong_CheckExact(it)) {
    list.push_back(tag_value(Tag::kBigInteger));
    const nb::object text = nb::steal(PyObject_CallMethod(it, "__format__", "s", "x"));
    if (!text.is_valid()) throw nb::python_error();
    list.push_back(take_python(text));
  } else if (Py_IS_TYPE(it, &PySet_Type) || Py_IS_TYPE(it, &PyFrozenSet_Type)) {
    list.push_back(tag_value(Py_IS_TYPE(it, &PySet_Type) ? Tag::kSet : Tag::kFrozenSet));
    take_items(object, list, take_python);
  } else if (const nb::object own = called(hooks().extension, object); !own.is_none()) {
    list.push_back(tag_value(Tag::kExtension));
    take_items(own, list, take_python);
  } else if (is_tensor(object)) {
    return take_natural(object);
  } else {
    list.push_back(tag_value(Tag::kPickle));
    list.push_back(take_python(called(hooks().pickle, object)));
  }
  return Value(std::move(list));
}

namespace {

template <class Give>
nb::object give_plain(const rpc::ValueReader& in, Give give_list) {
  using rpc::ValueKind;
  static const auto type_of = [](Type::Kind kind) {
    Type type;
    type.kind = kind;
    return type;
  };
  static const Type boolean = type_of(Type::Kind::kBool), real = type_of(Type::Kind::kReal),
                    text = type_of(Type::Kind::kText), bytes = type_of(Type::Kind::kBytes),
                    tensor = type_of(Type::Kind::kTensor);
  switch (in.kind()) {
    case ValueKind::kNone:
      return nb::none();
    case ValueKind::kBool:
      return give(boolean, in);
    case ValueKind::kInt:
    case ValueKind::kUInt:
      return give_integer(in);
    case ValueKind::kReal:
      return give(real, in);
    case ValueKind::kText:
      return give(text, in);
    case ValueKind::kData:
      return give(bytes, in);
    case ValueKind::kTensor:
      return give(tensor, in);
    case ValueKind::kNumbers: {
      std::span<const std::byte> numbers;
      if (in.read_numbers(in.width(), numbers)) return list_of_numbers(in.width(), numbers);
      break;
    }
    case ValueKind::kList: {
      rpc::ValueList list;
      if (in.read(list)) return give_list(list);
      break;
    }
  }
  throw nb::value_error("a malformed value came");
}

nb::object list_of(const rpc::ValueList& list, std::uint32_t first,
                   nb::object (*give_one)(const rpc::ValueReader&)) {
  nb::list made;
  for (std::uint32_t i = first; i < list.size(); ++i) made.append(give_one(list[i]));
  return made;
}

nb::object give_tagged(Tag tag, const rpc::ValueList& list) {
  const auto made = [](PyObject* object) {
    if (!object) throw nb::python_error();
    return nb::steal(object);
  };
  switch (tag) {
    case Tag::kList:
      return list_of(list, 1, give_python);
    case Tag::kNumbers:
      if (list.size() == 2) return give_natural(list[1]);
      break;
    case Tag::kTuple:
      return made(PySequence_Tuple(list_of(list, 1, give_python).ptr()));
    case Tag::kSet:
      return made(PySet_New(list_of(list, 1, give_python).ptr()));
    case Tag::kFrozenSet:
      return made(PyFrozenSet_New(list_of(list, 1, give_python).ptr()));
    case Tag::kDict: {
      nb::dict dict;
      for (std::uint32_t i = 1; i < list.size(); ++i) {
        rpc::ValueList pair;
        if (!list[i].read(pair) || pair.size() != 2) throw nb::value_error("a malformed dict came");
        dict[give_python(pair[0])] = give_python(pair[1]);
      }
      return dict;
    }
    case Tag::kBigInteger: {
      std::string_view text;
      if (list.size() == 2 && list[1].read(text))
        return made(PyLong_FromString(std::string(text).c_str(), nullptr, 16));
      break;
    }
    case Tag::kExtension:
      if (list.size() == 3)
        return made(PyObject_CallFunctionObjArgs(hooks().extended, give_python(list[1]).ptr(),
                                                 give_python(list[2]).ptr(), nullptr));
      break;
    case Tag::kPickle:
      if (list.size() == 2) return called(hooks().unpickle, give_python(list[1]));
      break;
  }
  throw nb::value_error("a malformed value came");
}

}  // namespace

nb::object give_natural(const rpc::ValueReader& in) {
  return give_plain(in, [](const rpc::ValueList& list) { return list_of(list, 0, give_natural); });
}

nb::object give_python(const rpc::ValueReader& in) {
  return give_plain(in, [](const rpc::ValueList& list) {
    std::uint64_t tag = 0;
    if (list.size() > 0 && list[0].kind() == rpc::ValueKind::kUInt && list[0].width() == DType::kUInt8 &&
        list[0].read_unsigned(tag))
      return give_tagged(static_cast<Tag>(tag), list);
    return list_of(list, 0, give_python);
  });
}

}  // namespace troupe::python
