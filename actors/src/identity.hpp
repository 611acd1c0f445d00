#pragma once

#include <cstdint>
#include <string>

#include <troupe/actors/membership.hpp>
#include <troupe/runtime/result.hpp>

namespace troupe {

/// Of one life of a node, or of an observer; never 0.
std::uint64_t random_node_id();

/// What a node proves that it knows.
struct SharedSecret {
  std::string text;           ///< empty: nothing is proved
  bool of_this_user = false;  ///< it is that of user_secret(), which other machines do not have
  /// As whom those have shown themselves who have proved it: see Caller::identity.
  std::string identity() const;
};

/// The shared secret: `secret`, or the contents of `file`; if both are empty that of this user on this
/// machine, and if `secret` is "none" there is none. Spaces and line ends around it do not belong to it.
/// kPermissionDenied: everybody can read the file. Else as user_secret(). Reads files: not on a loop.
Result<SharedSecret> shared_secret(const std::string& secret, const std::string& file);

/// Whether a node may be a member so: checked where it starts, and by the registry. kInvalidArgument: it has
/// no name or id, or a text of it is too long.
Result<void> check_member(const Member& member);

}  // namespace troupe
