#pragma once

#include <sys/socket.h>
#include <sys/un.h>

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include <troupe/runtime/host_port.hpp>
#include <troupe/runtime/result.hpp>

namespace troupe::rpc {

/// Where a control socket listens or is dialled: "127.0.0.1:4000", "[::1]:4000", "[fe80::1%eth0]:4000" or
/// "unix:/run/troupe.sock". Names of hosts stand for such addresses: see Destination.
class SocketAddress {
 public:
  /// kInvalidArgument: not an address in numbers. "localhost" is 127.0.0.1. Nothing is looked up.
  static Result<SocketAddress> parse(std::string_view text);
  /// Precondition: of a family that this class knows.
  static SocketAddress of(const sockaddr& address, socklen_t size);
  /// The local or the remote address of a socket.
  static SocketAddress local_of(int fd);
  static SocketAddress peer_of(int fd);

  const sockaddr* get() const { return reinterpret_cast<const sockaddr*>(&storage_); }
  socklen_t size() const { return size_; }
  int family() const { return storage_.ss_family; }
  std::uint16_t port() const;
  /// The same host with another port; a unix socket is the same whatever the port.
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

/// Somewhere to go, as somebody has written it: an address, or a name that must be looked up first.
struct Destination {
  std::string text;
  std::vector<SocketAddress> addresses;  ///< none: `name` must be looked up
  HostPort name;

  /// kInvalidArgument: neither. "localhost" is known: 127.0.0.1, then [::1].
  static Result<Destination> parse(std::string_view text);
};

}  // namespace troupe::rpc
