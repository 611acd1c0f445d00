#pragma once

#include <filesystem>

#include <troupe/runtime/result.hpp>

namespace troupe::shards {

inline constexpr const char* kManifestName = "manifest.json";

/// Only an older checkpoint, or an empty folder, may be replaced: kFailedPrecondition for anything else.
Result<void> check_replaceable(const std::filesystem::path& final);

}  // namespace troupe::shards
