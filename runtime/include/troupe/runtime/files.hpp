#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <string_view>

#include <troupe/runtime/result.hpp>

namespace troupe {

/// The whole contents of a file.
Result<std::string> read_file(const std::string& path);

/// Writes a file that is there either wholly or not at all, also after a crash or a power cut: to a
/// temporary file beside it, synced, then renamed over `path`. Readers see the old or the new contents.
Result<void> write_file_atomically(const std::string& path, std::string_view contents);
Result<void> write_file_atomically(const std::string& path, std::span<const std::byte> contents);

/// Makes the names in a directory durable (fsync), after files in it were made, renamed or removed.
Result<void> sync_directory(const std::string& path);

}  // namespace troupe
