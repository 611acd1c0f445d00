#pragma once

#include <string>
#include <string_view>

#include <troupe/runtime/address_reach.hpp>
#include <troupe/runtime/result.hpp>

namespace troupe {

/// Of "host:port" or "unix:/path"; kEverybody of what is neither.
AddressReach reach_of(std::string_view address);

/// What others are told to dial: `wanted` (node.advertise: a host, or host:port) with the port of
/// `listening`, if it has none of its own; without it `listening`, where 0.0.0.0 and [::] become a number of
/// this machine: `own_host`, if that can be dialled and listens there, else one of an interface that is up.
/// kInvalidArgument: `wanted` is no such address. kFailedPrecondition: `listening` is of use to nobody else,
/// and there is no `wanted`.
Result<std::string> advertised_address(const std::string& listening, const std::string& wanted,
                                       const std::string& own_host = {});

/// Whether a node that joins at a registry which it reached from `own_host` may advertise `address`: not one
/// of this machine alone if the registry is on another. kFailedPrecondition, with what to set.
Result<void> may_advertise(const std::string& address, const std::string& own_host);

}  // namespace troupe
