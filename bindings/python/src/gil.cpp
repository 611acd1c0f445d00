#include "gil.hpp"

#include <unistd.h>

#include <atomic>
#include <thread>

namespace troupe::python {
namespace {

/// Something that was dropped, in a list of such: made when it is held, so that dropping it cannot fail.
struct Grave {
  PyObject* object = nullptr;
  Py_buffer buffer{};
  Grave* next = nullptr;
};

std::atomic<Grave*> dropped{nullptr};
std::atomic<bool> ended{false};
std::thread::id ended_by;  // the one thread that goes on then

int give_back_soon(void*) {
  give_back_dropped();
  return 0;
}

/// Any thread. No lock, which a fork could leave locked for ever.
void drop(Grave* grave) {
  if (ended.load(std::memory_order_relaxed)) return;  // the memory is the interpreter's, which goes
  Grave* first = dropped.load(std::memory_order_relaxed);
  do {
    grave->next = first;
  } while (
      !dropped.compare_exchange_weak(first, grave, std::memory_order_release, std::memory_order_relaxed));
  // The main thread sees to it when it runs Python next, if nobody does before.
  if (!first) Py_AddPendingCall(give_back_soon, nullptr);
}

/// Ends the state that a thread of C++ was given, with the thread.
struct KeptState {
  bool kept = false;
  ~KeptState() {
    if (!kept || ended.load()) return;
    const PyGILState_STATE inner = PyGILState_Ensure();
    PyGILState_Release(inner);
    (void)PyGILState_Ensure();
    PyGILState_Release(PyGILState_LOCKED);
    PyGILState_Release(PyGILState_UNLOCKED);
  }
};
thread_local KeptState kept_state;

}  // namespace

Gil::Gil() {
  // Who waits for an interpreter that has gone would be ended by it, in the middle of C++.
  while (ended.load(std::memory_order_relaxed)) ::pause();
  const bool has_state = PyGILState_GetThisThreadState() != nullptr;
  state_ = PyGILState_Ensure();
  if (has_state) return;
  (void)PyGILState_Ensure();  // not released: the state stays
  kept_state.kept = true;
}

void NoGil::take_back(PyThreadState* saved) {
  while (ended.load() && ended_by != std::this_thread::get_id()) ::pause();  // likewise
  PyEval_RestoreThread(saved);
}

Held hold(nb::handle object) {
  auto* grave = new Grave{object.ptr()};
  Py_XINCREF(object.ptr());
  return {object.ptr(), [grave](PyObject*) { drop(grave); }};
}

HeldBuffer hold_buffer() {
  auto* grave = new Grave;
  return {&grave->buffer, [grave](Py_buffer*) { drop(grave); }};
}

void give_back_dropped() {
  if (!dropped.load(std::memory_order_relaxed)) return;
  Grave* each = dropped.exchange(nullptr, std::memory_order_acquire);
  while (each) {
    Grave* const next = each->next;
    Py_XDECREF(each->object);
    if (each->buffer.obj) PyBuffer_Release(&each->buffer);
    delete each;
    each = next;
  }
}

void interpreter_ends() {
  give_back_dropped();
  ended_by = std::this_thread::get_id();
  ended.store(true);
}

bool interpreter_ended() {
  return ended.load();
}

void check_signals() {
  if (PyErr_CheckSignals() != 0) throw nb::python_error();
}

}  // namespace troupe::python
