#pragma once

#include <cstdint>
#include <filesystem>

#include <troupe/runtime/result.hpp>
#include <troupe/shards/snapshot.hpp>

namespace troupe::shards {

/// Only an older checkpoint, or an empty folder, may be replaced: kFailedPrecondition for anything else.
Result<void> check_replaceable(const std::filesystem::path& final);

/// Whether there is a manifest.
bool is_checkpoint(const std::filesystem::path& folder);
/// How the older checkpoints at a place are called; 1 is the newest of them.
std::filesystem::path older_name(const std::filesystem::path& final, std::uint32_t number);
/// Whether the manifest's files are there with their sizes: kNotFound or kDataLoss naming the file.
Result<void> check_sizes(const std::filesystem::path& folder, const Manifest& manifest);

}  // namespace troupe::shards
