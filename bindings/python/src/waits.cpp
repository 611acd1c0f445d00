#include "waits.hpp"

#include <algorithm>
#include <atomic>
#include <cmath>

#include <nanobind/stl/string.h>

#include <troupe/rpc/call.hpp>

#include "hooks.hpp"

namespace troupe::python {
namespace {
thread_local std::atomic<bool> interrupted{false};
}

void interrupt_wait() {
  interrupted.store(true);
}

void raise(const Error& error) {
  if (!hooks().error) throw nb::value_error(error.to_string().c_str());
  const nb::object made = nb::handle(hooks().error)(static_cast<int>(error.code), error.message, error.node,
                                                    error.cause, error.trace_id, error.exception);
  PyErr_SetObject(reinterpret_cast<PyObject*>(Py_TYPE(made.ptr())), made.ptr());
  throw nb::python_error();
}

Duration timeout_of(nb::handle seconds, Duration by_default) {
  if (!seconds.is_valid() || seconds.is_none()) return by_default;
  const double value = PyFloat_AsDouble(seconds.ptr());
  if (value == -1 && PyErr_Occurred()) throw nb::python_error();
  if (std::isnan(value)) throw nb::value_error("a timeout must be a number of seconds");
  constexpr double kLongest = 9e9;  // of what fits: 285 years
  if (value > kLongest) return rpc::kNoDeadline;
  return std::chrono::duration_cast<Duration>(std::chrono::duration<double>(std::max(value, 0.0)));
}

bool wait_for(Loop& loop, const std::function<bool()>& done, Duration timeout,
              const std::function<void()>* begin) {
  bool begun = !begin;
  const auto begin_once = [&] {
    begun = true;
    (*begin)();
  };
  const std::atomic<bool>& mine = interrupted;
  const auto over = [&] { return done() || mine.load(std::memory_order_relaxed); };
  const TimePoint deadline = timeout == rpc::kNoDeadline ? TimePoint::never() : loop.clock().now() + timeout;
  for (;;) {
    {
      const NoGil free;
      const TimePoint now = loop.clock().now();
      const Duration slice = std::min(kSlice, deadline - now);
      const bool ended = begun ? loop.wait_until(std::ref(over), now + slice)
                               : loop.begin_and_wait(std::ref(begin_once), std::ref(over), slice);
      if (ended && !mine.load(std::memory_order_relaxed)) return true;
      if (loop.is_forked()) return false;
    }
    if (interrupted.exchange(false)) {
      PyErr_SetNone(PyExc_KeyboardInterrupt);
      throw nb::python_error();
    }
    check_signals();
    if (loop.clock().now() >= deadline) return false;
  }
}

}  // namespace troupe::python
