#pragma once

#include <memory>

#include <nanobind/nanobind.h>

/// Who has the interpreter's lock (the GIL), and references to Python's objects that may end without it.
///
/// One rule keeps the GIL and the turn of a node's loop from waiting for each other: whoever has the GIL
/// never waits for the turn. So every function that may wait gives the GIL away first (NoGil), and the loop,
/// which has the turn, may wait for the GIL (Gil) whenever a handler in Python is to run.
namespace troupe::python {

namespace nb = nanobind;

/// Takes the GIL while it lives, on any thread. Nests. A thread of C++ keeps its thread state until it ends,
/// for making one takes longer than a call.
class Gil {
 public:
  Gil();
  ~Gil() { PyGILState_Release(state_); }
  Gil(const Gil&) = delete;
  Gil& operator=(const Gil&) = delete;

 private:
  PyGILState_STATE state_;
};

/// Gives the GIL, which this thread has, away while it lives.
class NoGil {
 public:
  NoGil() : saved_(PyEval_SaveThread()) {}
  ~NoGil() { take_back(saved_); }
  NoGil(const NoGil&) = delete;
  NoGil& operator=(const NoGil&) = delete;

 private:
  static void take_back(PyThreadState* saved);
  PyThreadState* saved_;
};

/// A reference that may be copied and dropped on any thread, with the GIL or without: what is dropped is
/// given back by whoever has the GIL next.
using Held = std::shared_ptr<PyObject>;
/// With the GIL.
Held hold(nb::handle object);
/// Memory that an object lends, for as long as the answer lives. Of the same kind as Held.
using HeldBuffer = std::shared_ptr<Py_buffer>;
/// Precondition: it is empty, that is, its `obj` is null, and to be filled by the caller.
HeldBuffer hold_buffer();

/// Gives back what has been dropped. With the GIL.
void give_back_dropped();
/// The interpreter ends: nothing of Python is touched from now on, and who still wants the GIL never gets it.
void interpreter_ends();
bool interpreter_ended();
/// Raises what a signal's handler raised meanwhile: KeyboardInterrupt. With the GIL.
void check_signals();

}  // namespace troupe::python
