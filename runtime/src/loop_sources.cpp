// What a loop polls and watches: coming and going.
#include <algorithm>
#include <cerrno>
#include <string>

#include "loop_parts.hpp"

namespace troupe {

void Loop::add_source(Source& source) {
  assert_turn();
  sources_.push_back(&source);
  poller_->held.add(source);
  if (source.event_fd() < 0) return;
  epoll_event event{.events = EPOLLIN, .data = {.u64 = Poller::kSource}};
  epoll_ctl(poller_->epoll_fd, EPOLL_CTL_ADD, source.event_fd(), &event);
}

void Loop::remove_source(Source& source) {
  assert_turn();
  const auto found = std::find(sources_.begin(), sources_.end(), &source);
  if (found == sources_.end()) return;
  poller_->held.remove(source);
  if (source.event_fd() >= 0) epoll_ctl(poller_->epoll_fd, EPOLL_CTL_DEL, source.event_fd(), nullptr);
  if (poll_depth_ > 0) {
    *found = nullptr;
    sources_removed_ = true;
  } else {
    sources_.erase(found);
  }
}

Result<void> Loop::watch(int fd, std::uint32_t events, FdHandler& handler) {
  assert_turn();
  const auto found = poller_->watched.find(fd);
  const bool is_new = found == poller_->watched.end();
  const std::uint32_t generation = is_new ? poller_->next_generation++ : found->second.generation;
  epoll_event event{.events = events,
                    .data = {.u64 = std::uint64_t{generation} << 32 | static_cast<std::uint32_t>(fd)}};
  if (epoll_ctl(poller_->epoll_fd, is_new ? EPOLL_CTL_ADD : EPOLL_CTL_MOD, fd, &event) != 0) {
    return errno_error(errno, "cannot watch descriptor " + std::to_string(fd));
  }
  poller_->watched[fd] = {&handler, events, generation};
  descriptors_polled_at_ = kLongAgo;  // it may be ready already
  return {};
}

void Loop::unwatch(int fd) {
  assert_turn();
  if (poller_->watched.erase(fd) > 0) epoll_ctl(poller_->epoll_fd, EPOLL_CTL_DEL, fd, nullptr);
}

}  // namespace troupe
