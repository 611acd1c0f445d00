#include <troupe/runtime/process.hpp>

#include <fcntl.h>
#include <pthread.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <latch>
#include <string_view>
#include <vector>

namespace troupe {
namespace {

std::string_view variable(const char* name) {
  const char* const value = std::getenv(name);
  return value ? value : "";
}

}  // namespace

namespace detail {

std::atomic<std::uint32_t> process_generation{0};

Error no_thread(const std::system_error& error) {
  return {Code::kResourceExhausted, std::string("cannot start a thread: ") + error.code().message() +
                                        "; raise the limit of processes (ulimit -u, or pids.max of the "
                                        "container), or run fewer on this machine"};
}

}  // namespace detail

bool open_standard_descriptors() {
  for (int fd = 0; fd <= 2; ++fd) {
    if (fcntl(fd, F_GETFD) >= 0 || errno != EBADF) continue;
    // The lowest number that is free, which is this one. Kept over exec(), as the real ones are.
    if (open("/dev/null", O_RDWR) != fd) return false;
  }
  return true;
}

bool terminal_draws(int fd) {
  const std::string_view term = variable("TERM");
  return isatty(fd) == 1 && !term.empty() && term != "dumb";
}

bool terminal_colors(int fd) {
  return terminal_draws(fd) && variable("NO_COLOR").empty();
}

Result<void> room_for_threads(unsigned count) {
  std::latch all_tried(1);
  std::vector<std::thread> threads;
  Result<void> outcome;
  threads.reserve(count);
  for (unsigned i = 0; i < count && outcome; ++i) {
    auto thread = start_thread([&] { all_tried.wait(); });
    if (thread)
      threads.push_back(std::move(*thread));
    else
      outcome = thread.error();
  }
  all_tried.count_down();
  for (std::thread& thread : threads) thread.join();
  return outcome;
}

std::uint32_t process_generation() {
  // Once for the process, by the first who asks, and inherited by its children.
  static const int registered = pthread_atfork(
      nullptr, nullptr, [] { detail::process_generation.fetch_add(1, std::memory_order_relaxed); });
  (void)registered;
  return detail::process_generation.load(std::memory_order_relaxed);
}

Error HomeProcess::error() {
  return {
      Code::kFailedPrecondition,
      "this process is a fork of the one in which the node was made: make a node of its own after fork()"};
}

}  // namespace troupe
