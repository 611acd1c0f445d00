// Several checkpoints at one place, and whose the place is.
#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <string>
#include <utility>

#include <troupe/shards/snapshot.hpp>

#include "checkpoint_place.hpp"

namespace troupe::shards {
namespace {

namespace fs = std::filesystem;

Result<Manifest> look_at(const fs::path& folder, Check check, const OptimizerList& known) {
  Result<Manifest> manifest = read_manifest(folder, known);
  if (!manifest) return manifest;
  const Result<void> good =
      check == Check::kContents ? verify(folder, *manifest) : check_sizes(folder, *manifest);
  if (!good) return good.error();
  return manifest;
}

/// Newest first. The second is there if a commit was interrupted where folders cannot be exchanged.
std::vector<fs::path> folders_at(const fs::path& final, Older older) {
  std::vector<fs::path> folders{final};
  if (older == Older::kRefused) return folders;
  if (const fs::path previous = final.string() + ".previous"; is_checkpoint(previous))
    folders.push_back(previous);
  // A commit that was interrupted may have left a gap of one.
  for (std::uint32_t i = 1; is_checkpoint(older_name(final, i)) || is_checkpoint(older_name(final, i + 1));
       ++i)
    if (is_checkpoint(older_name(final, i))) folders.push_back(older_name(final, i));
  return folders;
}

}  // namespace

bool is_checkpoint(const fs::path& folder) {
  std::error_code code;
  return fs::is_regular_file(folder / kManifestName, code);
}

fs::path older_name(const fs::path& final, std::uint32_t number) {
  return final.string() + "." + std::to_string(number);
}

Result<FoundCheckpoint> find_checkpoint(const fs::path& final_folder, Older older, Check check,
                                        const OptimizerList& known) {
  const fs::path final = final_folder.has_filename() ? final_folder : final_folder.parent_path();
  FoundCheckpoint found;
  for (const fs::path& folder : folders_at(final, older)) {
    Result<Manifest> manifest = look_at(folder, check, known);
    if (manifest) {
      found.folder = folder;
      found.manifest = std::move(*manifest);
      return found;
    }
    found.passed_over.push_back(manifest.error());
  }
  return found.passed_over.front();
}

Result<void> check_fingerprints(const Manifest& manifest, const std::map<std::string, std::string>& expected,
                                const std::set<std::string>& may_differ) {
  std::string different;
  for (const auto& [name, text] : expected) {
    const auto saved = manifest.fingerprints.find(name);
    if (saved == manifest.fingerprints.end() || saved->second == text || may_differ.contains(name)) continue;
    different += (different.empty() ? "" : "; ") + name + " was " + saved->second + " and is " + text;
  }
  if (different.empty()) return {};
  return Error{Code::kFailedPrecondition, "the checkpoint was made with others: " + different};
}

Result<CheckpointLock> CheckpointLock::take(const CheckpointPlace& place) {
  const std::string path = place.final.string() + ".lock";
  std::error_code code;
  fs::create_directories(place.final.parent_path(), code);
  CheckpointLock lock(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644));
  if (lock.file_ < 0) return errno_error(errno, "making " + path);
  if (::flock(lock.file_, LOCK_EX | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK) return errno_error(errno, "locking " + path);
    char owner[32] = {};
    const ssize_t length = ::pread(lock.file_, owner, sizeof owner - 1, 0);
    return Error{Code::kFailedPrecondition,
                 place.final.string() + " belongs to a run that has not ended" +
                     (length > 0 ? ", process " + std::string(owner) : std::string()) +
                     ": wait for it, or give another folder"};
  }
  const std::string self = std::to_string(::getpid());
  if (::ftruncate(lock.file_, 0) != 0 ||
      ::pwrite(lock.file_, self.data(), self.size(), 0) != static_cast<ssize_t>(self.size()))
    return errno_error(errno, "writing " + path);
  return lock;
}

CheckpointLock::CheckpointLock(CheckpointLock&& other) noexcept : file_(std::exchange(other.file_, -1)) {}

CheckpointLock& CheckpointLock::operator=(CheckpointLock&& other) noexcept {
  std::swap(file_, other.file_);
  return *this;
}

CheckpointLock::~CheckpointLock() {
  if (file_ >= 0) ::close(file_);
}

}  // namespace troupe::shards
