#include "loop_parts.hpp"

#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <limits>
#include <system_error>

namespace troupe {

namespace {
/// Of a handler that throws each time it is called the first few are told of, then one in each interval.
constexpr std::uint64_t kToldOfEach = 16;
constexpr Duration kToldOfOneIn = std::chrono::seconds(1);

/// Of the exception that is being handled.
std::string text_of_exception() {
  try {
    throw;
  } catch (const std::exception& exception) {
    return exception.what();
  } catch (...) {
    return "something that is no std::exception";
  }
}
}  // namespace

void Loop::report_exception(std::string_view who) noexcept {
  if (++stats_.exceptions > kToldOfEach && now_ - exception_told_at_ < kToldOfOneIn) return;
  exception_told_at_ = now_;
  try {
    std::string what = std::string(who) + " threw: " + text_of_exception();
    if (stats_.exceptions > kToldOfEach)
      what += " (of " + std::to_string(stats_.exceptions) + " exceptions on this loop, not all are told of)";
    if (options_.on_exception)
      options_.on_exception(what);
    else
      std::fprintf(stderr, "troupe: %s\n", what.c_str());
  } catch (...) {  // no memory for it, or whoever is told throws: it is counted
  }
}

Loop::Inbox::~Inbox() {
  for (Node* node = head.load(); node;) delete std::exchange(node, node->next);
}

void Loop::Inbox::push(Task task) {
  auto* node = new Node{std::move(task), head.load(std::memory_order_relaxed)};
  while (!head.compare_exchange_weak(node->next, node)) {
  }
}

void Loop::Inbox::take_all(std::deque<Task>& ready) {
  if (!head.load(std::memory_order_relaxed)) return;
  Node* oldest = nullptr;
  for (Node* node = head.exchange(nullptr); node;) {
    Node* const next = node->next;
    node->next = oldest;
    oldest = node;
    node = next;
  }
  while (oldest) {
    ready.push_back(std::move(oldest->task));
    delete std::exchange(oldest, oldest->next);
  }
}

Loop::Poller::Poller()
    : epoll_fd(epoll_create1(EPOLL_CLOEXEC)), kick_fd(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
  epoll_event event{.events = EPOLLIN, .data = {.u64 = kKick}};
  if (epoll_fd < 0 || kick_fd < 0 || epoll_ctl(epoll_fd, EPOLL_CTL_ADD, kick_fd, &event) != 0) {
    const int error = errno;
    if (kick_fd >= 0) close(kick_fd);
    if (epoll_fd >= 0) close(epoll_fd);
    throw std::system_error(error, std::generic_category(), "cannot make a loop's epoll set");
  }
}

Loop::Poller::~Poller() {
  close(kick_fd);
  close(epoll_fd);
}

void Loop::Poller::kick() {
  if (kicked.exchange(true)) return;
  const std::uint64_t one = 1;
  [[maybe_unused]] const auto written = write(kick_fd, &one, sizeof one);
}

int Loop::Poller::wait(std::span<epoll_event> events, Duration timeout) {
  const auto ns = timeout.count();
  const timespec bound{.tv_sec = ns / 1'000'000'000, .tv_nsec = ns % 1'000'000'000};
  int count = epoll_pwait2(epoll_fd, events.data(), static_cast<int>(events.size()),
                           ns < 0 ? nullptr : &bound, nullptr);
  if (count < 0 && errno == ENOSYS) {  // Linux before 5.11: milliseconds, rounded up
    const auto ms = std::min<std::int64_t>((ns + 999'999) / 1'000'000, std::numeric_limits<int>::max());
    count = epoll_wait(epoll_fd, events.data(), static_cast<int>(events.size()),
                       ns < 0 ? -1 : static_cast<int>(ms));
  }
  int kept = 0;
  for (int i = 0; i < count; ++i) {
    if (events[i].data.u64 == kKick) {
      std::uint64_t value = 0;
      [[maybe_unused]] const auto got = read(kick_fd, &value, sizeof value);
      kicked.store(false);
    } else if (events[i].data.u64 != kSource) {
      events[kept++] = events[i];
    }
  }
  return kept;
}

int Loop::Poller::dispatch(std::span<const epoll_event> events, Loop& loop) {
  int handled = 0;
  for (const epoll_event& event : events) {
    const auto found = watched.find(static_cast<int>(event.data.u64 & UINT32_MAX));
    // An earlier handler of this batch may have unwatched it, or closed it and watched a new one.
    if (found == watched.end() || found->second.generation != event.data.u64 >> 32) continue;
    ++handled;
    try {
      found->second.handler->on_ready(event.events);
    } catch (...) {
      loop.report_exception("a descriptor's handler");
    }
  }
  return handled;
}

}  // namespace troupe
