#include "checkpoint_place.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <string>

#include <troupe/shards/snapshot.hpp>

namespace troupe::shards {
namespace {

namespace fs = std::filesystem;

Error refused(const fs::path& path, const std::string& why) {
  return {Code::kFailedPrecondition, path.string() + " " + why};
}

/// Where the links at the end of `path` lead, there or not.
Result<fs::path> follow(const fs::path& path) {
  constexpr int kMostLinks = 32;
  std::error_code code;
  fs::path at = fs::absolute(path, code);
  if (code) return refused(path, "cannot be made absolute: " + code.message());
  if (!at.has_filename()) at = at.parent_path();
  for (int links = 0; fs::is_symlink(fs::symlink_status(at, code)); ++links) {
    if (links == kMostLinks) return refused(path, "is a link that leads in a circle");
    const fs::path to = fs::read_symlink(at, code);
    if (code) return refused(at, "cannot be read: " + code.message());
    at = to.is_absolute() ? to : at.parent_path() / to;
    if (!at.has_filename()) at = at.parent_path();
  }
  fs::path folder = fs::weakly_canonical(at.parent_path(), code);
  return code ? at : folder / at.filename();
}

bool is_mount_point(const fs::path& path) {
  struct statx status {};
  if (::statx(AT_FDCWD, path.c_str(), AT_NO_AUTOMOUNT, STATX_BASIC_STATS, &status) != 0) return false;
  return (status.stx_attributes & STATX_ATTR_MOUNT_ROOT) != 0;
}

}  // namespace

Result<void> check_replaceable(const fs::path& final) {
  std::error_code code;
  if (!fs::exists(fs::symlink_status(final, code))) return {};
  const bool checkpoint = fs::is_regular_file(final / kManifestName, code);
  if (checkpoint || (fs::is_directory(final, code) && fs::is_empty(final, code))) return {};
  return refused(final, "exists and is not a checkpoint: it will not be replaced");
}

Result<CheckpointPlace> checkpoint_place(const fs::path& wanted) {
  Result<fs::path> final = follow(wanted);
  if (!final) return final.error();
  if (is_mount_point(*final)) {
    return refused(
        *final,
        "is a mount point, in whose place no folder can be put: give a folder below it, or one that "
        "a link leads to");
  }
  if (Result<void> free = check_replaceable(*final); !free) return free.error();
  std::error_code code;
  const fs::path folder = final->parent_path();
  fs::create_directories(folder, code);
  if (code) return refused(folder, "cannot be made: " + code.message());
  if (::access(folder.c_str(), W_OK | X_OK) != 0)
    return refused(folder, "cannot be written to: " + std::generic_category().message(errno));
  return CheckpointPlace{*final, fs::path(final->string() + ".tmp")};
}

}  // namespace troupe::shards
