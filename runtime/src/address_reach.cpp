#include <troupe/runtime/address_reach.hpp>

#include <algorithm>
#include <cstdint>

namespace troupe {

AddressReach reach_of(const in_addr& host) {
  const std::uint32_t number = ntohl(host.s_addr);
  if (number == INADDR_ANY) return AddressReach::kNobody;
  return number >> 24U == IN_LOOPBACKNET ? AddressReach::kThisMachine : AddressReach::kEverybody;
}

AddressReach reach_of(const in6_addr& host) {
  if (IN6_IS_ADDR_V4MAPPED(&host)) {
    in_addr four{};
    std::copy_n(host.s6_addr + 12, 4, reinterpret_cast<std::uint8_t*>(&four.s_addr));
    return reach_of(four);
  }
  if (IN6_IS_ADDR_UNSPECIFIED(&host)) return AddressReach::kNobody;
  if (IN6_IS_ADDR_LOOPBACK(&host)) return AddressReach::kThisMachine;
  return IN6_IS_ADDR_LINKLOCAL(&host) ? AddressReach::kThisLink : AddressReach::kEverybody;
}

}  // namespace troupe
