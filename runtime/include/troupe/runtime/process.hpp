#pragma once

#include <atomic>
#include <cstdint>
#include <system_error>
#include <thread>
#include <utility>

#include <troupe/runtime/result.hpp>

namespace troupe {

// What a process is given from outside: descriptors, a terminal, threads, and that it may be forked.

/// Opens /dev/null in place of standard input, output and error where they are closed: else the next socket
/// becomes descriptor 2, and a line for standard error goes into it. To be called before anything is opened.
/// False if /dev/null is not to be had.
bool open_standard_descriptors();

/// Whether escape sequences may be written to `fd`: a terminal, of which TERM does not say that it is dumb.
bool terminal_draws(int fd);
/// Whether colours may be: as terminal_draws(), and NO_COLOR is not set (https://no-color.org).
bool terminal_colors(int fd);

/// A thread that runs `body`. kResourceExhausted, and what to look at, where the system gives no more.
template <class Body>
Result<std::thread> start_thread(Body&& body);

/// Whether so many more threads can be had: they are made and ended. For libraries that make threads
/// themselves and do not withstand that they get none. kResourceExhausted.
Result<void> room_for_threads(unsigned count);

/// How many times the calling process has been forked off since the program began, roughly: what counts is
/// that it differs between a process and its children.
std::uint32_t process_generation();

/// The process in which something was made. In a child of fork() there are no threads but one, locks may be
/// held for ever, and descriptors and shared memory are the parent's: what was made before may not be used
/// there, nor ended in order. Costs one load to ask.
class HomeProcess {
 public:
  HomeProcess() : generation_(process_generation()) {}
  /// Whether this is a child of the process in which it was made.
  bool left() const;
  /// kFailedPrecondition: what a call in a child ends with.
  static Error error();

 private:
  std::uint32_t generation_;
};

// ---- Details ------------------------------------------------------------------------------------

namespace detail {
/// Written by a child of fork() alone, while it has one thread.
extern std::atomic<std::uint32_t> process_generation;
Error no_thread(const std::system_error& error);
}  // namespace detail

inline bool HomeProcess::left() const {
  return generation_ != detail::process_generation.load(std::memory_order_relaxed);
}

template <class Body>
Result<std::thread> start_thread(Body&& body) {
  try {
    return std::thread(std::forward<Body>(body));
  } catch (const std::system_error& error) {
    return detail::no_thread(error);
  }
}

}  // namespace troupe
