#pragma once

#include <sys/types.h>

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include <troupe/runtime/result.hpp>

namespace troupe {

/// Whose secret, and where it may lie.
struct UserSecretPlace {
  uid_t user = 0;
  /// Folders in the order in which they are tried: the first that can be used has the secret.
  std::vector<std::string> folders;
};

/// Of the user whom this process runs as: $XDG_STATE_HOME/troupe; else .local/state/troupe in the user's home
/// ($HOME if that is the user's own folder, else what the system's list of users says); and where none of
/// these can be written, $XDG_RUNTIME_DIR/troupe or /tmp/troupe-UID. Reads files: not on a loop.
UserSecretPlace user_secret_place();

/// The secret that all processes of one user on this machine share unless they are told another: made on
/// first use, 32 random bytes in hexadecimal, in a file `secret` that its owner alone can read. Who finds one
/// takes it; of several that make one at once all take the same. kPermissionDenied: it, or its folder, is
/// another user's, or others can read it. kUnavailable: no place can be written; says what to do.
Result<std::string> user_secret(const UserSecretPlace& place = user_secret_place());

}  // namespace troupe
