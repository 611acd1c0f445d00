#pragma once

#include <cstdint>
#include <string>

#include <troupe/runtime/result.hpp>

namespace troupe {

/// Who makes a call.
struct Caller {
  std::uint64_t node_id = 0;
  std::string name;            ///< of its node
  std::string role;            ///< empty: no member of that id is known here
  std::string address;         ///< as seen when it came, or as dialled; empty: this node itself
  bool authenticated = false;  ///< it is this node itself, or has proved that it knows the shared secret
  /// As whom it has been authenticated: "user:1000" by the secret of that user of this machine, "secret" by
  /// one that the nodes were given. Empty: not at all.
  std::string identity;
};

/// One of the answers to a broadcast.
template <class R>
struct ActorAnswer {
  std::string actor;
  Result<R> result;
};

}  // namespace troupe
