#include "tcp/retired_pages.hpp"

#include <poll.h>
#include <sys/socket.h>

#include <array>
#include <utility>

namespace troupe::rpc::tcp {

RetiredPages& RetiredPages::all() {
  static auto* const pages = new RetiredPages;  // never destroyed: what is in use still stays so
  return *pages;
}

void RetiredPages::keep(UniqueFd stream, PagePipe pipe, std::vector<std::vector<Buffer>> parts) {
  if (pipe.filled() == 0) pipe = {};  // its descriptors
  Retired retired{std::move(stream), std::move(pipe), std::move(parts)};
  if (is_gone(retired)) return;
  const std::lock_guard lock(mutex_);
  kept_.push_back(std::move(retired));
  count_.store(kept_.size(), std::memory_order_relaxed);
}

std::size_t RetiredPages::look() {
  std::list<Retired> gone;  // dropped last, without the lock, because the buffers' owners may do anything
  const std::lock_guard lock(mutex_);
  for (auto next = kept_.begin(); next != kept_.end();) {
    const auto here = next++;
    if (is_gone(*here)) gone.splice(gone.end(), kept_, here);
  }
  count_.store(kept_.size(), std::memory_order_relaxed);
  return kept_.size();
}

/// Whether the peer's socket, and so its queue, is no more. That it sends nothing more does not say so: it
/// may have closed one direction only. Then it is sent something, which a socket that is closed answers with
/// a reset.
bool RetiredPages::is_gone(const Retired& retired) {
  const int fd = retired.stream.get();
  std::array<std::byte, 4096> ignored;
  for (int i = 0; i < 16; ++i)
    if (::recv(fd, ignored.data(), ignored.size(), MSG_DONTWAIT) <= 0) break;
  pollfd state{fd, POLLRDHUP, 0};
  if (::poll(&state, 1, 0) != 1) return false;
  if ((state.revents & (POLLHUP | POLLERR | POLLNVAL)) != 0) return true;
  if ((state.revents & POLLRDHUP) == 0) return false;
  const std::byte question{};
  if (::send(fd, &question, 1, MSG_DONTWAIT | MSG_NOSIGNAL) != 1) return false;
  return ::poll(&state, 1, 0) == 1 && (state.revents & (POLLHUP | POLLERR)) != 0;
}

}  // namespace troupe::rpc::tcp
