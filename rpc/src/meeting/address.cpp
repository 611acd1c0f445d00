#include "meeting/address.hpp"

#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/in.h>

#include <charconv>
#include <cstring>
#include <memory>

namespace troupe::rpc {

namespace {

constexpr std::string_view kUnixPrefix = "unix:";

Error not_an_address(std::string_view text, std::string_view why) {
  return {Code::kInvalidArgument, "'" + std::string(text) + "' is not an address: " + std::string(why) +
                                      " (write host:port, [ipv6]:port or unix:/path)"};
}

struct HostPort {
  std::string host;
  std::uint16_t port = 0;
};

Result<HostPort> split(std::string_view text) {
  std::string_view host;
  std::string_view port;
  if (text.starts_with('[')) {
    const auto end = text.find("]:");
    if (end == std::string_view::npos) return not_an_address(text, "no ']:' after '['");
    host = text.substr(1, end - 1);
    port = text.substr(end + 2);
  } else {
    const auto colon = text.rfind(':');
    if (colon == std::string_view::npos) return not_an_address(text, "no port");
    host = text.substr(0, colon);
    port = text.substr(colon + 1);
    if (host.find(':') != std::string_view::npos) return not_an_address(text, "IPv6 without brackets");
  }
  if (host.empty()) return not_an_address(text, "no host");
  HostPort result{std::string(host == "localhost" ? "127.0.0.1" : host)};
  const auto [end, error] = std::from_chars(port.data(), port.data() + port.size(), result.port);
  if (error != std::errc() || end != port.data() + port.size()) {
    return not_an_address(text, "the port is not a number from 0 to 65535");
  }
  return result;
}

}  // namespace

Result<SocketAddress> SocketAddress::parse(std::string_view text) {
  SocketAddress address;
  if (text.starts_with(kUnixPrefix)) {
    const std::string_view path = text.substr(kUnixPrefix.size());
    auto* as_unix = reinterpret_cast<sockaddr_un*>(&address.storage_);
    if (path.empty()) return not_an_address(text, "no path");
    if (path.size() >= sizeof(as_unix->sun_path)) return not_an_address(text, "the path is too long");
    as_unix->sun_family = AF_UNIX;
    std::memcpy(as_unix->sun_path, path.data(), path.size());
    address.size_ = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + path.size() + 1);
    return address;
  }
  auto parts = split(text);
  if (!parts) return parts.error();

  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  const int failure = getaddrinfo(parts->host.c_str(), nullptr, &hints, &found);
  if (failure != 0 || !found) return not_an_address(text, gai_strerror(failure));
  const std::unique_ptr<addrinfo, decltype(&freeaddrinfo)> owner(found, &freeaddrinfo);
  std::memcpy(&address.storage_, found->ai_addr, found->ai_addrlen);
  address.size_ = found->ai_addrlen;
  return address.with_port(parts->port);
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
  auto* const as_ip = reinterpret_cast<sockaddr_in*>(&result.storage_);
  if (family() != AF_INET) {
    *as_ip = {};
    as_ip->sin_family = AF_INET;
    as_ip->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    result.size_ = sizeof *as_ip;
  }
  as_ip->sin_port = htons(port);
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
      return ntohl(reinterpret_cast<const sockaddr_in*>(&storage_)->sin_addr.s_addr) >> 24 == 127;
    case AF_INET6: {
      const in6_addr& ip = reinterpret_cast<const sockaddr_in6*>(&storage_)->sin6_addr;
      return IN6_IS_ADDR_LOOPBACK(&ip) || (IN6_IS_ADDR_V4MAPPED(&ip) && ip.s6_addr[12] == 127);
    }
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
    return "[" + std::string(text) + "]:" + std::to_string(ntohs(ip->sin6_port));
  }
  return std::string(kUnixPrefix) + path();
}

}  // namespace troupe::rpc
