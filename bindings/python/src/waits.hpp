#pragma once

#include <chrono>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>

#include <troupe/runtime/loop.hpp>
#include <troupe/runtime/process.hpp>
#include <troupe/runtime/result.hpp>

#include "gil.hpp"

/// Waiting without the GIL, such that Ctrl-C ends it. All functions: with the GIL, which they give away
/// meanwhile.
namespace troupe::python {

/// How long one wait is before signals are looked at.
inline constexpr Duration kSlice{std::chrono::milliseconds(50)};

/// Raises the exception of troupe's that stands for `error`.
[[noreturn]] void raise(const Error& error);
template <class T>
T value_or_raise(Result<T> result) {
  if (!result) raise(result.error());
  if constexpr (!std::is_void_v<T>) return *std::move(result);
}

/// None: the default. Seconds, infinity: no deadline.
Duration timeout_of(nb::handle seconds, Duration by_default);

/// Waits for `done`, driving the loop meanwhile if its options say so; false: the time is over.
/// KeyboardInterrupt and whatever else a signal's handler raises. `begin`, if given, is run first, with the
/// turn, once or, if that cannot be had in time, not at all.
bool wait_for(Loop& loop, const std::function<bool()>& done, Duration timeout,
              const std::function<void()>* begin = nullptr);

/// A handler that this thread ran while it waited was interrupted by Ctrl-C, which was meant for the thread:
/// its wait ends.
void interrupt_wait();

namespace detail {
template <class T>
struct Aside {
  std::mutex mutex;
  std::condition_variable wake;
  std::optional<Result<T>> result;
};
}  // namespace detail

/// Runs `work`, which may wait and cannot be interrupted, on a thread of its own, and waits for that. If a
/// signal's handler raises meanwhile the thread is left to itself: `work` owns all that it uses.
template <class T>
Result<T> aside(std::function<Result<T>()> work) {
  auto shared = std::make_shared<detail::Aside<T>>();
  auto thread = start_thread([shared, work = std::move(work)]() mutable {
    Result<T> result = work();
    work = nullptr;
    const std::lock_guard lock(shared->mutex);
    shared->result.emplace(std::move(result));
    shared->wake.notify_all();
  });
  if (!thread) return thread.error();
  thread->detach();
  for (;;) {
    {
      const NoGil free;
      std::unique_lock lock(shared->mutex);
      if (shared->wake.wait_for(lock, kSlice, [&] { return shared->result.has_value(); }))
        return std::move(*shared->result);
    }
    check_signals();
  }
}

/// The same; a handler on the loop, which has the turn, does it itself, and drives meanwhile as in any call.
template <class T>
Result<T> aside_unless_in_turn(const Loop& loop, std::function<Result<T>()> work) {
  if (!loop.in_turn()) return aside<T>(std::move(work));
  const NoGil free;
  return work();
}

}  // namespace troupe::python
