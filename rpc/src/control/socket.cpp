#include "control/socket.hpp"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <string_view>

namespace troupe::rpc {

namespace {

void set_option(int fd, int level, int name, int value) {
  setsockopt(fd, level, name, &value, sizeof value);
}

/// Over the loopback device there is nothing that could be congested, but a machine's default may be an
/// algorithm that looks for it by holding packets back with timers (BBR). Reno does nothing but count, and is
/// in each kernel and allowed to everyone. Without it, where it cannot be had, all works but slower.
void do_not_pace(int fd) {
  constexpr std::string_view kReno = "reno";
  setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, kReno.data(), static_cast<socklen_t>(kReno.size()));
}

/// For `address`, to listen at or to connect to: the way of pacing must be set before, for accepted sockets
/// have it from the listening one, and the kernel does not end a socket's pacing once it has begun.
Result<UniqueFd> stream_socket(const SocketAddress& address) {
  UniqueFd fd(::socket(address.family(), SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!fd) return errno_error(errno, "making a socket");
  if (!address.is_unix() && address.is_local()) do_not_pace(fd.get());
  return fd;
}

Error listen_error(int error, const SocketAddress& address) {
  const std::string at = address.to_string();
  switch (error) {
    case EADDRINUSE:
      return {Code::kAlreadyExists,
              "cannot listen at " + at +
                  ": another process listens there; stop it or choose another port (port 0 "
                  "takes a free one)"};
    case EACCES:
    case EPERM:
      return {Code::kPermissionDenied, "cannot listen at " + at + ": " + std::strerror(error)};
    case EADDRNOTAVAIL:
    case ENOENT:
    case ENOTDIR:
    case EINVAL:
    case EAFNOSUPPORT:
      return {Code::kInvalidArgument,
              "cannot listen at " + at + ": " + std::strerror(error) + " (not an address of this machine)"};
    default:
      return errno_error(error, "listening at " + at);
  }
}

/// Whether `address` is a unix socket that nobody listens at any more: its process died and left the
/// file. Someone else's file that is no socket is never touched.
bool is_stale(const SocketAddress& address) {
  struct stat status {};
  if (::lstat(address.path().c_str(), &status) != 0 || !S_ISSOCK(status.st_mode)) return false;
  auto probe = stream_socket(address);
  return probe && ::connect(probe->get(), address.get(), address.size()) != 0 && errno == ECONNREFUSED;
}

/// What an answer of the network's means, to who has dialled.
std::string hint_for(int failure, const SocketAddress& address) {
  const std::string port = std::to_string(address.port());
  switch (failure) {
    case ECONNREFUSED:
    case ENOENT:
      return " (nobody listens there: is it started, and is the address right?)";
    case ENETUNREACH:
    case ENETDOWN:
      return " (this machine has no way there: is its network up?)";
    case EHOSTUNREACH:
    case EHOSTDOWN:
    case EACCES:
    case EPERM:
    case ENOPROTOOPT:
      if (address.is_unix()) return "";
      return " (the machine is down, or a firewall rejects port " + port + ": open it there)";
    case ETIMEDOUT:
      return " (is the machine up, and does a firewall let port " + port + " through?)";
    default:
      return "";
  }
}

Error cannot_reach(const SocketAddress& address, int failure) {
  if (failure == EMFILE || failure == ENFILE) return errno_error(failure, "making a socket");
  // Not a matter of waiting, as another network's coming up would be.
  if (failure == ENETUNREACH && address.family() == AF_INET && address.is_local())
    return {Code::kFailedPrecondition, "cannot reach " + address.to_string() +
                                           ": the loopback device of this machine, or container, is down "
                                           "(ip link set lo up)"};
  return {Code::kUnavailable,
          "cannot reach " + address.to_string() + ": " + std::strerror(failure) + hint_for(failure, address)};
}

}  // namespace

Result<UniqueFd> listen_socket(const SocketAddress& address) {
  auto fd = stream_socket(address);
  if (!fd) return fd.error();
  if (!address.is_unix()) set_option(fd->get(), SOL_SOCKET, SO_REUSEADDR, 1);
  int failure = ::bind(fd->get(), address.get(), address.size()) == 0 ? 0 : errno;
  if (failure == EADDRINUSE && address.is_unix() && is_stale(address)) {
    ::unlink(address.path().c_str());
    failure = ::bind(fd->get(), address.get(), address.size()) == 0 ? 0 : errno;
  }
  if (failure == 0 && ::listen(fd->get(), SOMAXCONN) != 0) failure = errno;
  if (failure != 0) return listen_error(failure, address);
  return fd;
}

Result<UniqueFd> connecting_socket(const SocketAddress& address) {
  auto fd = stream_socket(address);
  if (!fd) return fd.error();
  if (::connect(fd->get(), address.get(), address.size()) != 0 && errno != EINPROGRESS) {
    return cannot_reach(address, errno);
  }
  return fd;
}

Result<void> connect_result(int fd, const SocketAddress& address) {
  int failure = 0;
  socklen_t size = sizeof failure;
  if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &failure, &size) != 0) failure = errno;
  const SocketAddress local = SocketAddress::local_of(fd);
  // TCP connects a socket to itself if the port it was given as its own is the one it dials.
  if (failure == 0 && !local.is_unix() && local.to_string() == SocketAddress::peer_of(fd).to_string()) {
    failure = ECONNREFUSED;
  }
  if (failure == 0) return {};
  return cannot_reach(address, failure);
}

Error no_answer(const SocketAddress& address, const std::string& time) {
  return {Code::kUnavailable, "cannot reach " + address.to_string() + ": no answer within " + time +
                                  hint_for(ETIMEDOUT, address)};
}

ssize_t send_some(int fd, std::span<const std::byte> bytes) {
  std::size_t sent = 0;
  while (sent < bytes.size()) {
    const ssize_t n = ::send(fd, bytes.data() + sent, bytes.size() - sent, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n < 0 && errno == EINTR) continue;
    const bool is_busy = errno == EAGAIN || errno == EWOULDBLOCK || errno == ENOBUFS || errno == ENOMEM;
    if (n < 0 && !is_busy) return -1;
    if (n < 0) break;
    sent += static_cast<std::size_t>(n);
  }
  return static_cast<ssize_t>(sent);
}

void tune_stream(int fd) {
  set_option(fd, IPPROTO_TCP, TCP_NODELAY, 1);
  // On one machine the end of a process is the end of its sockets, and a thousand links would be probed in
  // vain.
  if (SocketAddress::peer_of(fd).is_local()) return;
  set_option(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
  set_option(fd, IPPROTO_TCP, TCP_KEEPIDLE, 60);
  set_option(fd, IPPROTO_TCP, TCP_KEEPINTVL, 5);
  set_option(fd, IPPROTO_TCP, TCP_KEEPCNT, 3);
}

}  // namespace troupe::rpc
