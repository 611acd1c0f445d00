#pragma once

#include <Python.h>

namespace troupe::python {

/// What Python does for the module, given to it by troupe/_hooks.py: objects that live as long as the
/// interpreter. Null until then.
struct Hooks {
  PyObject* to_array = nullptr;   ///< (Tensor) -> numpy.ndarray
  PyObject* plain = nullptr;      ///< (object) -> what is sent for a number of NumPy's, say; or TypeError
  PyObject* pickle = nullptr;     ///< (object) -> bytes; or TypeError
  PyObject* unpickle = nullptr;   ///< (bytes) -> object; or an Error
  PyObject* extension = nullptr;  ///< (object) -> (name, payload), or None
  PyObject* extended = nullptr;   ///< (name, payload) -> object
  PyObject* error = nullptr;      ///< (code, message, node, cause, trace id, exception) -> an Error
  PyObject* describe = nullptr;   ///< (exception) -> (code, message, exception's type, traceback)
  PyObject* type_of = nullptr;    ///< (annotation) -> Type
};
Hooks& hooks();

}  // namespace troupe::python
