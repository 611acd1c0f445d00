#pragma once

#include <cstdint>
#include <string>

#include <troupe/runtime/result.hpp>

namespace troupe {

/// Of one life of a node, or of an observer; never 0.
std::uint64_t random_node_id();

/// The shared secret: `secret`, or the contents of `file`; if both are empty there is none. Spaces and line
/// ends around what a file holds do not belong to it. kPermissionDenied: everybody can read the file.
Result<std::string> shared_secret(const std::string& secret, const std::string& file);

}  // namespace troupe
