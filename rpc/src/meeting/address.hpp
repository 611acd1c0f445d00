#pragma once

#include <sys/socket.h>
#include <sys/un.h>

#include <cstdint>
#include <string>
#include <string_view>

#include <troupe/runtime/result.hpp>

namespace troupe::rpc {

/// Where a meeting socket listens or is dialled: "127.0.0.1:4000", "[::1]:4000", "localhost:4000",
/// "node7:4000" or "unix:/run/troupe.sock".
class SocketAddress {
 public:
  /// kInvalidArgument: not an address, or the name is unknown. Names other than "localhost" are looked
  /// up at once, which may block in the system's resolver: give numbers where that matters.
  static Result<SocketAddress> parse(std::string_view text);
  /// The local or the remote address of a socket.
  static SocketAddress local_of(int fd);
  static SocketAddress peer_of(int fd);

  const sockaddr* get() const { return reinterpret_cast<const sockaddr*>(&storage_); }
  socklen_t size() const { return size_; }
  int family() const { return storage_.ss_family; }
  std::uint16_t port() const;
  /// The same host with another port; of a unix socket: the loopback device.
  SocketAddress with_port(std::uint16_t port) const;
  bool is_unix() const { return family() == AF_UNIX; }
  /// Whether nothing off this machine can be meant or let in: loopback or a unix socket.
  bool is_local() const;
  /// In the form that parse() reads.
  std::string to_string() const;
  /// The path of a unix socket.
  std::string path() const;

 private:
  sockaddr_storage storage_{};
  socklen_t size_ = 0;
};

}  // namespace troupe::rpc
