#include "advertised_address.hpp"

#include <arpa/inet.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/in.h>

#include <algorithm>
#include <array>
#include <memory>
#include <optional>
#include <utility>

#include <troupe/runtime/host_port.hpp>

namespace troupe {

namespace {

constexpr std::string_view kUnixPrefix = "unix:";

/// A number of a host, or none if `host` is a name.
struct HostNumber {
  std::optional<in_addr> v4;
  std::optional<in6_addr> v6;

  explicit HostNumber(std::string host) {
    if (host == "localhost") host = "127.0.0.1";
    in_addr four{};
    in6_addr six{};
    if (::inet_pton(AF_INET, host.c_str(), &four) == 1) v4 = four;
    if (::inet_pton(AF_INET6, host.substr(0, host.find('%')).c_str(), &six) == 1) v6 = six;
    if (v6 && IN6_IS_ADDR_V4MAPPED(&*v6)) {
      v4.emplace();
      std::copy_n(v6->s6_addr + 12, 4, reinterpret_cast<std::uint8_t*>(&v4->s_addr));
      v6.reset();
    }
  }
  AddressReach reach() const {
    if (v4) return reach_of(*v4);
    return v6 ? reach_of(*v6) : AddressReach::kEverybody;
  }
  std::string to_string() const {
    std::array<char, INET6_ADDRSTRLEN> text{};
    if (v4) return ::inet_ntop(AF_INET, &*v4, text.data(), text.size());
    if (v6) return ::inet_ntop(AF_INET6, &*v6, text.data(), text.size());
    return {};
  }
};

struct FreeInterfaces {
  void operator()(ifaddrs* list) const { ::freeifaddrs(list); }
};

/// A number of this machine by which others may know it, IPv4 before IPv6; empty: it has none.
std::string interface_number(bool with_v6) {
  ifaddrs* list = nullptr;
  if (::getifaddrs(&list) != 0) return {};
  const std::unique_ptr<ifaddrs, FreeInterfaces> owner(list);
  std::string six;
  for (const ifaddrs* entry = list; entry; entry = entry->ifa_next) {
    if (!entry->ifa_addr || (entry->ifa_flags & IFF_UP) == 0U || (entry->ifa_flags & IFF_LOOPBACK) != 0U)
      continue;
    HostNumber number("");
    if (entry->ifa_addr->sa_family == AF_INET)
      number.v4 = reinterpret_cast<const sockaddr_in*>(entry->ifa_addr)->sin_addr;
    if (entry->ifa_addr->sa_family == AF_INET6)
      number.v6 = reinterpret_cast<const sockaddr_in6*>(entry->ifa_addr)->sin6_addr;
    if (number.reach() != AddressReach::kEverybody) continue;
    if (number.v4) return number.to_string();
    if (number.v6 && six.empty()) six = number.to_string();
  }
  return with_v6 ? six : std::string();
}

Error bad_wish(const std::string& wanted, const std::string& why) {
  return {Code::kInvalidArgument, "node.advertise: '" + wanted + "' is no address that others can use: " +
                                      why + " (write the host, or host:port, that others are to dial)"};
}

/// "host", "[v6]", "v6" or any of the first two with ":port".
Result<HostPort> read_wish(const std::string& wanted, std::uint16_t port) {
  const bool has_port =
      wanted.starts_with('[') ? !wanted.ends_with(']') : std::ranges::count(wanted, ':') == 1;
  std::string text = wanted;
  if (!has_port && !wanted.starts_with('[') && wanted.find(':') != std::string::npos) text = "[" + text + "]";
  auto read = parse_host_port(has_port ? text : text + ":" + std::to_string(port));
  if (!read) return bad_wish(wanted, "it is not of this form");
  if (read->port == 0) return bad_wish(wanted, "it has port 0");
  const HostNumber number(read->host);
  if (read->host.find(':') != std::string::npos && !number.v4 && !number.v6)
    return bad_wish(wanted, "it is no address of IPv6");
  return read;
}

}  // namespace

AddressReach reach_of(std::string_view address) {
  if (address.starts_with(kUnixPrefix)) return AddressReach::kThisMachine;
  const auto parts = parse_host_port(address);
  return parts ? HostNumber(parts->host).reach() : AddressReach::kEverybody;
}

Result<std::string> advertised_address(const std::string& listening, const std::string& wanted,
                                       const std::string& own_host) {
  const auto bound = parse_host_port(listening);
  if (!wanted.empty()) {
    if (wanted.starts_with(kUnixPrefix)) return wanted;
    const auto read = read_wish(wanted, bound ? bound->port : 0);
    if (!read) return read.error();
    if (reach_of(read->to_string()) == AddressReach::kNobody)
      return bad_wish(wanted, "it stands for all addresses of a machine");
    return read->to_string();
  }
  switch (reach_of(listening)) {
    case AddressReach::kEverybody:
    case AddressReach::kThisMachine:
      return listening;
    case AddressReach::kThisLink:
      return Error{Code::kFailedPrecondition,
                   listening +
                       " is an address of one interface, which other machines know by another name: set "
                       "node.advertise to the address that others are to use, or listen at another one"};
    case AddressReach::kNobody:
      break;
  }
  const bool listens_at_v6 = HostNumber(bound->host).v6.has_value();
  const HostNumber own(own_host);
  const bool own_is_heard = own.v4 || (own.v6 && listens_at_v6);
  std::string host;
  if (own_is_heard && own.reach() == AddressReach::kEverybody) host = own.to_string();
  if (host.empty()) host = interface_number(listens_at_v6);
  if (host.empty()) host = "127.0.0.1";  // this machine has no network
  return HostPort{host, bound->port}.to_string();
}

Result<void> may_advertise(const std::string& address, const std::string& own_host) {
  const bool is_near = own_host.empty() || HostNumber(own_host).reach() == AddressReach::kThisMachine;
  if (is_near || reach_of(address) != AddressReach::kThisMachine) return {};
  return Error{Code::kFailedPrecondition,
               "it listens at " + address +
                   ", where other machines do not reach it, and the first node is reached over the network: "
                   "set node.listen to an address of this machine's (0.0.0.0:0 is any of them), or "
                   "node.advertise to the one that others are to use"};
}

}  // namespace troupe
