#include "tensor.hpp"

#include <array>
#include <cstring>
#include <memory>
#include <string>

#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <troupe/runtime/dlpack.hpp>

#include "hooks.hpp"
#include "value.hpp"

namespace troupe::python {
namespace {

// ---- From Python ----------------------------------------------------------------------------------

bool dtype_of_format(const char* format, Py_ssize_t size, DType& dtype) {
  if (!format) format = "B";
  if (*format == '@' || *format == '=' || *format == '<') ++format;
  if (!*format || format[1]) return false;
  const auto of_size = [&](DType one, DType two, DType four, DType eight) {
    dtype = size == 1 ? one : size == 2 ? two : size == 4 ? four : eight;
    return size == 1 || size == 2 || size == 4 || size == 8;
  };
  if (std::strchr("bhilqn", *format))
    return of_size(DType::kInt8, DType::kInt16, DType::kInt32, DType::kInt64);
  if (std::strchr("BHILQN", *format))
    return of_size(DType::kUInt8, DType::kUInt16, DType::kUInt32, DType::kUInt64);
  switch (*format) {
    case 'e':
      dtype = DType::kFloat16;
      return size == 2;
    case 'f':
      dtype = DType::kFloat32;
      return size == 4;
    case 'd':
      dtype = DType::kFloat64;
      return size == 8;
    case '?':
      dtype = DType::kBool;
      return size == 1;
    default:
      return false;
  }
}

/// The same values, dense, in memory of NumPy's.
nb::object dense_copy(nb::handle object) {
  return nb::module_::import_("numpy").attr("array")(object, nb::arg("order") = "C");
}

Tensor tensor_of_buffer(nb::handle object, bool may_copy = true) {
  const HeldBuffer held = hold_buffer();
  if (PyObject_GetBuffer(object.ptr(), held.get(), PyBUF_STRIDES | PyBUF_FORMAT) != 0)
    throw nb::python_error();
  const Py_buffer& view = *held;
  const auto rank = static_cast<std::size_t>(view.ndim);
  if (rank > Shape::kMaxRank)
    throw nb::value_error(
        ("an array of more than " + std::to_string(Shape::kMaxRank) + " axes cannot be sent").c_str());
  DType dtype{};
  if (!dtype_of_format(view.format, view.itemsize, dtype))
    throw nb::type_error(
        ("an array of the elements '" + std::string(view.format) + "' cannot be sent").c_str());
  std::array<std::int64_t, Shape::kMaxRank> shape{}, strides{};
  bool plain = true;
  std::int64_t last = 0;
  bool empty = false;
  for (std::size_t axis = 0; axis < rank; ++axis) {
    shape[axis] = view.shape[axis];
    strides[axis] = view.strides[axis] / view.itemsize;
    plain = plain && view.strides[axis] >= 0 && view.strides[axis] % view.itemsize == 0;
    empty = empty || shape[axis] == 0;
    last += strides[axis] * (shape[axis] - 1);
  }
  // Not a Tensor's: backwards, or of a record's fields.
  if (!plain && may_copy) return tensor_of_buffer(dense_copy(object), false);
  if (!plain) throw nb::value_error("an array with such strides cannot be sent");
  const Shape extents(std::span<const std::int64_t>(shape.data(), rank));
  if (empty) return {dtype, extents, Buffer{}};
  const auto bytes = static_cast<std::size_t>((last + 1) * view.itemsize);
  Buffer buffer = Buffer::adopt(static_cast<std::byte*>(view.buf), bytes, Device{}, [held] {});
  const Shape steps(std::span<const std::int64_t>(strides.data(), rank));
  const Tensor lent(dtype, extents, steps, std::move(buffer), 0);
  // An actor of the same node could write into it.
  return view.readonly ? lent.clone() : lent;
}

/// A capsule's tensor, which the capsule keeps: that ends it as Python's objects end, with the GIL.
Tensor tensor_of_capsule(nb::object object) {
  // What needs gradients does not lend its memory by itself.
  if (nb::hasattr(object, "requires_grad") && nb::cast<bool>(object.attr("requires_grad")))
    object = object.attr("detach")();
  const nb::object capsule = object.attr("__dlpack__")();
  auto* const lent = static_cast<dlpack::DLManagedTensor*>(PyCapsule_GetPointer(capsule.ptr(), "dltensor"));
  if (!lent) throw nb::python_error();
  if (lent->dl_tensor.device.device_type != dlpack::kDLCPU)
    throw nb::type_error(
        "a tensor in the memory of a device cannot be sent from Python yet: move it to the CPU");
  struct Borrowed {
    dlpack::DLManagedTensor managed;
    Held capsule;
  };
  auto borrowed = std::make_unique<Borrowed>(Borrowed{*lent, hold(capsule)});
  borrowed->managed.manager_ctx = borrowed.get();
  borrowed->managed.deleter = [](dlpack::DLManagedTensor* self) {
    delete static_cast<Borrowed*>(self->manager_ctx);
  };
  Result<Tensor> tensor = dlpack::import_tensor(&borrowed->managed);
  if (!tensor) throw nb::value_error(tensor.error().message.c_str());
  borrowed.release();  // NOLINT(bugprone-unused-return-value): the tensor has it
  return *std::move(tensor);
}

/// Numbers of NumPy's that are no arrays, though they have buffers.
bool is_scalar(nb::handle object) {
  static PyObject* generic = nullptr;  // kept as long as NumPy
  if (!generic) {
    PyObject* const numpy = PyDict_GetItemString(PyImport_GetModuleDict(), "numpy");
    if (!numpy) return false;
    generic = PyObject_GetAttrString(numpy, "generic");
    if (!generic) PyErr_Clear();
    if (!generic) return false;
  }
  return PyObject_IsInstance(object.ptr(), generic) == 1;
}

// ---- To Python ------------------------------------------------------------------------------------

const char* format_of(DType dtype) {
  switch (dtype) {
    case DType::kFloat32:
      return "f";
    case DType::kFloat64:
      return "d";
    case DType::kFloat16:
      return "e";
    case DType::kInt8:
      return "b";
    case DType::kInt16:
      return "h";
    case DType::kInt32:
      return "i";
    case DType::kInt64:
      return "l";  // as NumPy has it where that has 64 bits
    case DType::kUInt8:
      return "B";
    case DType::kUInt16:
      return "H";
    case DType::kUInt32:
      return "I";
    case DType::kUInt64:
      return "L";
    case DType::kBool:
      return "?";
    case DType::kBFloat16:
      break;
  }
  return nullptr;
}

struct Extents {
  std::array<Py_ssize_t, Shape::kMaxRank> shape, strides;
};

int lend_buffer(PyObject* self, Py_buffer* view, int flags) {
  const auto refuse_buffer = [&](const char* why) {
    view->obj = nullptr;
    PyErr_SetString(PyExc_BufferError, why);
    return -1;
  };
  const Tensor& tensor = *nb::inst_ptr<Tensor>(nb::handle(self));
  const char* const format = format_of(tensor.dtype());
  if (!format) return refuse_buffer("NumPy has no bfloat16: use torch.from_dlpack(tensor)");
  if (tensor.device().kind == MemoryKind::kDevice)
    return refuse_buffer("the tensor is in the memory of a device");
  if ((flags & PyBUF_WRITABLE) && tensor.read_only())
    return refuse_buffer("the tensor lies in another process's memory, which can only be read: copy it");
  if (!(flags & PyBUF_STRIDES) && !tensor.is_contiguous())
    return refuse_buffer("the tensor is not contiguous");
  static std::byte nothing[8];
  const auto size = static_cast<Py_ssize_t>(size_of(tensor.dtype()));
  auto* const extents = new Extents;
  for (std::size_t axis = 0; axis < tensor.rank(); ++axis) {
    extents->shape[axis] = tensor.shape()[axis];
    extents->strides[axis] = tensor.strides()[axis] * size;
  }
  Py_INCREF(self);
  view->obj = self;
  view->buf = tensor.data() ? tensor.data() : nothing;
  view->len = static_cast<Py_ssize_t>(tensor.bytes());
  view->readonly = tensor.read_only() ? 1 : 0;
  view->itemsize = size;
  view->format = (flags & PyBUF_FORMAT) ? const_cast<char*>(format) : nullptr;
  view->ndim = static_cast<int>(tensor.rank());
  view->shape = (flags & PyBUF_ND) ? extents->shape.data() : nullptr;
  view->strides = (flags & PyBUF_STRIDES) == PyBUF_STRIDES ? extents->strides.data() : nullptr;
  view->suboffsets = nullptr;
  view->internal = extents;
  return 0;
}

void take_back_buffer(PyObject*, Py_buffer* view) {
  delete static_cast<Extents*>(view->internal);
}

void end_capsule(PyObject* capsule) {
  if (!PyCapsule_IsValid(capsule, "dltensor")) return;  // somebody has taken what is in it
  auto* const lent = static_cast<dlpack::DLManagedTensor*>(PyCapsule_GetPointer(capsule, "dltensor"));
  lent->deleter(lent);
}

nb::object capsule_of(const Tensor& tensor, const nb::kwargs&) {
  if (tensor.read_only()) {
    PyErr_SetString(PyExc_BufferError,
                    "the tensor lies in another process's memory, which can only be read: clone() it");
    throw nb::python_error();
  }
  dlpack::DLManagedTensor* const lent = dlpack::export_tensor(tensor);
  PyObject* const capsule = PyCapsule_New(lent, "dltensor", end_capsule);
  if (!capsule) {
    lent->deleter(lent);
    throw nb::python_error();
  }
  return nb::steal(capsule);
}

PyType_Slot buffer_slots[] = {{Py_bf_getbuffer, reinterpret_cast<void*>(lend_buffer)},
                              {Py_bf_releasebuffer, reinterpret_cast<void*>(take_back_buffer)},
                              {0, nullptr}};

nb::object shape_of(const Tensor& tensor) {
  nb::list shape;
  for (const std::int64_t extent : tensor.shape().extents()) shape.append(extent);
  return nb::steal(PySequence_Tuple(shape.ptr()));
}

}  // namespace

bool is_tensor(nb::handle object, bool lent) {
  if (nb::isinstance<Tensor>(object)) return true;
  if (PyObject_CheckBuffer(object.ptr()))
    return !PyBytes_Check(object.ptr()) && !PyByteArray_Check(object.ptr()) && !is_scalar(object);
  return lent && !PyType_Check(object.ptr()) && nb::hasattr(object, "__dlpack__");
}

Tensor tensor_of(nb::handle object) {
  if (nb::isinstance<Tensor>(object)) return *nb::inst_ptr<Tensor>(object);
  if (PyObject_CheckBuffer(object.ptr()) && !PyUnicode_Check(object.ptr())) return tensor_of_buffer(object);
  if (nb::hasattr(object, "__dlpack__")) return tensor_of_capsule(nb::borrow(object));
  refuse("a tensor", object);
}

nb::object array_of(Tensor&& tensor, nb::handle make) {
  const bool has_array = format_of(tensor.dtype()) && tensor.device().kind != MemoryKind::kDevice;
  nb::object object = nb::cast(std::move(tensor));
  if (make.is_valid()) return make(object);
  if (!has_array || !hooks().to_array) return object;
  return nb::handle(hooks().to_array)(object);
}

void bind_tensors(nb::module_& module) {
  nb::class_<Tensor>(
      module, "Tensor", nb::type_slots(buffer_slots),
      "Memory with a dtype and a shape. numpy.asarray() and torch.from_dlpack() have a view of it.")
      .def_static(
          "of", [](nb::handle object) { return tensor_of(object); }, nb::arg("array"))
      .def_prop_ro("dtype", [](const Tensor& tensor) { return std::string(to_string(tensor.dtype())); })
      .def_prop_ro("shape", &shape_of)
      .def_prop_ro("nbytes", &Tensor::bytes)
      .def_prop_ro("read_only", &Tensor::read_only)
      .def("clone",
           [](const Tensor& tensor) {
             const NoGil free;
             return tensor.clone();
           })
      .def("numpy", [](const Tensor& tensor) { return array_of(Tensor(tensor)); })
      .def("__dlpack__", &capsule_of)
      .def("__dlpack_device__",
           [](const Tensor&) { return nb::make_tuple(static_cast<int>(dlpack::kDLCPU), 0); })
      .def("__repr__", [](const Tensor& tensor) { return "<troupe tensor " + tensor.to_string() + ">"; });
}

}  // namespace troupe::python
