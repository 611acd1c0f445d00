#include "control/listener.hpp"

#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <string>
#include <utility>

namespace troupe::rpc {
namespace {

/// How long it rests when no connection can be accepted.
constexpr Duration kRest = std::chrono::milliseconds(20);
/// How long one more than there is room for is kept waiting.
constexpr Duration kRestWithoutRoom = std::chrono::milliseconds(5);
constexpr int kAcceptBatch = 64;

/// Other errors are those of one connection, which has gone with them: accept(2).
bool cannot_accept_any(int error) {
  switch (error) {
    case EMFILE:
    case ENFILE:
    case ENOBUFS:
    case ENOMEM:
    case EBADF:
    case EINVAL:
    case ENOTSOCK:
      return true;
    default:
      return false;
  }
}

}  // namespace

Listener::Listener(Loop& loop, UniqueFd fd, OnConnected on_connected, HasRoom has_room)
    : loop_(loop),
      fd_(std::move(fd)),
      address_(SocketAddress::local_of(fd_.get())),
      on_connected_(std::move(on_connected)),
      has_room_(std::move(has_room)) {}

Listener::~Listener() {
  loop_.unwatch(fd_.get());
  if (const std::string path = address_.path(); !path.empty()) ::unlink(path.c_str());
}

void Listener::on_ready(std::uint32_t) {
  for (int i = 0; i < kAcceptBatch; ++i) {
    if (has_room_ && !has_room_()) return rest(kRestWithoutRoom);
    const int fd = accept();
    if (fd >= 0) {
      on_connected_(UniqueFd(fd), address_);
      continue;
    }
    if (errno == EAGAIN || errno == EWOULDBLOCK) return;
    if (cannot_accept_any(errno)) return rest(kRest);
  }
}

int Listener::accept() {
  constexpr int kFlags = SOCK_NONBLOCK | SOCK_CLOEXEC;
  if (!reserve_) reserve_ = UniqueFd(::eventfd(0, EFD_CLOEXEC));
  const int fd = ::accept4(fd_.get(), nullptr, nullptr, kFlags);
  if (fd >= 0 || (errno != EMFILE && errno != ENFILE) || !reserve_) return fd;
  reserve_ = UniqueFd();
  return ::accept4(fd_.get(), nullptr, nullptr, kFlags);
}

void Listener::rest(Duration time) {
  loop_.unwatch(fd_.get());
  loop_.schedule_after(*this, time);
}

Result<void> Listener::start() {
  reserve_ = UniqueFd(::eventfd(0, EFD_CLOEXEC));
  if (!reserve_) return errno_error(errno, "keeping a descriptor in reserve");
  return loop_.watch(fd_.get(), EPOLLIN, *this);
}

void Listener::on_timer() {
  if (!loop_.watch(fd_.get(), EPOLLIN, *this)) loop_.schedule_after(*this, kRest);
}

}  // namespace troupe::rpc
