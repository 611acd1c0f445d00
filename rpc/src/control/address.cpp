#include "control/address.hpp"

#include <arpa/inet.h>
#include <net/if.h>
#include <netdb.h>
#include <netinet/in.h>

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <memory>
#include <optional>

#include <troupe/runtime/address_reach.hpp>

namespace troupe::rpc {

namespace {

constexpr std::string_view kUnixPrefix = "unix:";

Error not_an_address(std::string_view text, std::string_view why) {
  return {Code::kInvalidArgument, "'" + std::string(text) + "' is not an address: " + std::string(why) +
                                      " (write host:port, [ipv6]:port or unix:/path)"};
}

constexpr std::string_view kLocalHost = "localhost";

Result<SocketAddress> unix_address(std::string_view text) {
  const std::string_view path = text.substr(kUnixPrefix.size());
  sockaddr_un address{};
  if (path.empty()) return not_an_address(text, "no path");
  if (path.size() >= sizeof(address.sun_path)) return not_an_address(text, "the path is too long");
  if (path.find('\0') != std::string_view::npos) return not_an_address(text, "a zero byte");
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, path.data(), path.size());
  return SocketAddress::of(reinterpret_cast<const sockaddr&>(address),
                           static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + path.size() + 1));
}

/// Nothing: `host` is a name. Asks nobody.
std::optional<SocketAddress> from_numbers(const HostPort& parts) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_NUMERICHOST;
  addrinfo* found = nullptr;
  if (getaddrinfo(parts.host.c_str(), nullptr, &hints, &found) != 0 || !found) return std::nullopt;
  const std::unique_ptr<addrinfo, decltype(&freeaddrinfo)> owner(found, &freeaddrinfo);
  return SocketAddress::of(*found->ai_addr, found->ai_addrlen).with_port(parts.port);
}

}  // namespace

Result<SocketAddress> SocketAddress::parse(std::string_view text) {
  auto destination = Destination::parse(text);
  if (!destination) return destination.error();
  if (!destination->addresses.empty()) return destination->addresses.front();
  return not_an_address(text, "a name, where an address in numbers is wanted");
}

SocketAddress SocketAddress::of(const sockaddr& address, socklen_t size) {
  SocketAddress result;
  result.size_ = std::min<socklen_t>(size, sizeof result.storage_);
  std::memcpy(&result.storage_, &address, result.size_);
  return result;
}

Result<Destination> Destination::parse(std::string_view text) {
  Destination result;
  result.text = text;
  if (text.starts_with(kUnixPrefix)) {
    auto address = unix_address(text);
    if (!address) return address.error();
    result.addresses.push_back(*address);
    return result;
  }
  auto parts = parse_host_port(text);
  if (!parts) return parts.error();
  result.name = *std::move(parts);
  if (result.name.host == kLocalHost) {
    for (const char* host : {"127.0.0.1", "::1"})
      result.addresses.push_back(*from_numbers({host, result.name.port}));
    return result;
  }
  if (const auto address = from_numbers(result.name)) {
    result.addresses.push_back(*address);
  } else if (result.name.host.find_first_of(":%/ ") != std::string::npos) {
    return not_an_address(text, "no IPv6 address, or no such interface");
  }
  return result;
}

std::uint16_t SocketAddress::port() const {
  if (family() == AF_INET) return ntohs(reinterpret_cast<const sockaddr_in*>(&storage_)->sin_port);
  if (family() == AF_INET6) return ntohs(reinterpret_cast<const sockaddr_in6*>(&storage_)->sin6_port);
  return 0;
}

SocketAddress SocketAddress::with_port(std::uint16_t port) const {
  SocketAddress result = *this;
  if (family() == AF_INET6) {
    reinterpret_cast<sockaddr_in6*>(&result.storage_)->sin6_port = htons(port);
    return result;
  }
  if (family() == AF_INET) reinterpret_cast<sockaddr_in*>(&result.storage_)->sin_port = htons(port);
  return result;
}

SocketAddress SocketAddress::local_of(int fd) {
  SocketAddress address;
  address.size_ = sizeof(address.storage_);
  if (getsockname(fd, reinterpret_cast<sockaddr*>(&address.storage_), &address.size_) != 0) address.size_ = 0;
  return address;
}

SocketAddress SocketAddress::peer_of(int fd) {
  SocketAddress address;
  address.size_ = sizeof(address.storage_);
  if (getpeername(fd, reinterpret_cast<sockaddr*>(&address.storage_), &address.size_) != 0) address.size_ = 0;
  return address;
}

bool SocketAddress::is_local() const {
  switch (family()) {
    case AF_UNIX:
      return true;
    case AF_INET:
      return reach_of(reinterpret_cast<const sockaddr_in*>(&storage_)->sin_addr) ==
             AddressReach::kThisMachine;
    case AF_INET6:
      return reach_of(reinterpret_cast<const sockaddr_in6*>(&storage_)->sin6_addr) ==
             AddressReach::kThisMachine;
    default:
      return false;
  }
}

std::string SocketAddress::path() const {
  return is_unix() && size_ > offsetof(sockaddr_un, sun_path)
             ? std::string(reinterpret_cast<const sockaddr_un*>(&storage_)->sun_path)
             : std::string();
}

std::string SocketAddress::to_string() const {
  char text[INET6_ADDRSTRLEN] = {};
  if (family() == AF_INET) {
    const auto* ip = reinterpret_cast<const sockaddr_in*>(&storage_);
    inet_ntop(AF_INET, &ip->sin_addr, text, sizeof text);
    return std::string(text) + ":" + std::to_string(ntohs(ip->sin_port));
  }
  if (family() == AF_INET6) {
    const auto* ip = reinterpret_cast<const sockaddr_in6*>(&storage_);
    inet_ntop(AF_INET6, &ip->sin6_addr, text, sizeof text);
    std::string host = text;
    if (char interface[IF_NAMESIZE]; ip->sin6_scope_id != 0)
      host += "%" + (if_indextoname(ip->sin6_scope_id, interface) ? std::string(interface)
                                                                  : std::to_string(ip->sin6_scope_id));
    return "[" + host + "]:" + std::to_string(ntohs(ip->sin6_port));
  }
  return std::string(kUnixPrefix) + path();
}

}  // namespace troupe::rpc
