#pragma once

#include <string>
#include <string_view>

#include <troupe/runtime/result.hpp>

namespace troupe {

/// Who can use an address.
enum class AddressReach {
  kEverybody,    ///< a name, or a number that is none of the following
  kThisMachine,  ///< loopback, or a unix socket
  kNobody,       ///< 0.0.0.0, [::]: where one listens, not where one goes
  kThisLink,     ///< [fe80::...%eth0]: the interface's name is of this machine
};
/// Of "host:port" or "unix:/path"; kEverybody of what is neither.
AddressReach reach_of(std::string_view address);

/// What others are told to dial: `wanted` (node.publish: a host, or host:port) with the port of `listening`,
/// if it has none of its own; without it `listening`, where 0.0.0.0 and [::] become a number of this machine:
/// `own_host`, if that can be dialled and listens there, else one of an interface that is up.
/// kInvalidArgument: `wanted` is no such address. kFailedPrecondition: `listening` is of use to nobody else,
/// and there is no `wanted`.
Result<std::string> published_address(const std::string& listening, const std::string& wanted,
                                      const std::string& own_host = {});

/// Whether a node that joins at a registry which it reached from `own_host` may publish `published`: not one
/// of this machine alone if the registry is on another. kFailedPrecondition, with what to set.
Result<void> may_publish(const std::string& published, const std::string& own_host);

}  // namespace troupe
