#pragma once

#include <netinet/in.h>

namespace troupe {

/// Who can use an address.
enum class AddressReach {
  kEverybody,    ///< a name, or a number that is none of the following
  kThisMachine,  ///< loopback, or a unix socket
  kNobody,       ///< 0.0.0.0, [::]: where one listens, not where one goes
  kThisLink,     ///< [fe80::...%eth0]: the interface's name is of this machine
};

AddressReach reach_of(const in_addr& host);
/// Of an IPv4 number in the form of IPv6, as of that number.
AddressReach reach_of(const in6_addr& host);

}  // namespace troupe
