#include "user_secret.hpp"

#include <fcntl.h>
#include <pwd.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <span>
#include <utility>

#include <troupe/runtime/text.hpp>
#include <troupe/runtime/unique_fd.hpp>

namespace troupe {

namespace {

constexpr std::size_t kSecretBytes = 32;
constexpr std::size_t kMostFileBytes = 4096;
constexpr mode_t kOwnerOnly = 0700;
constexpr const char* kInstead =
    "; or give the node a secret (node.secret_file), or none (node.secret = none)";

Error refused(const std::string& path, const std::string& why, const std::string& what_to_do) {
  return {Code::kPermissionDenied,
          "the secret of this user, " + path + ", cannot be trusted: " + why + ": " + what_to_do + kInstead};
}

/// kUnavailable: this place is not to be had, another may be.
Error cannot(int error, const std::string& what) {
  switch (error) {
    case EACCES:
    case EPERM:
    case EROFS:
    case ENOENT:
    case ENOTDIR:
    case ENOSYS:
      return {Code::kUnavailable, what + ": " + std::strerror(error)};
    default:
      return errno_error(error, what);
  }
}

/// Whether nobody else can have put, or read, what lies there.
Result<void> check_owned(const std::string& path, const struct stat& status, uid_t user) {
  const mode_t others = S_ISDIR(status.st_mode) ? S_IWGRP | S_IWOTH : S_IRWXG | S_IRWXO;
  if (status.st_uid != user)
    return refused(path,
                   "it belongs to user " + std::to_string(status.st_uid) + ", not to " + std::to_string(user),
                   "remove it");
  if ((status.st_mode & others) != 0) {
    std::array<char, 8> mode{};
    std::snprintf(mode.data(), mode.size(), "%04o", static_cast<unsigned>(status.st_mode & 07777U));
    return refused(path, std::string("others can use it (mode ") + mode.data() + ")",
                   std::string("chmod ") + (S_ISDIR(status.st_mode) ? "700 " : "600 ") + path);
  }
  return {};
}

Result<void> check_folder(const std::string& folder, uid_t user) {
  struct stat status {};
  if (::lstat(folder.c_str(), &status) != 0) return cannot(errno, "looking at " + folder);
  if (!S_ISDIR(status.st_mode)) return refused(folder, "it is no folder", "remove it");
  return check_owned(folder, status, user);
}

/// Makes the folder, and those above it.
Result<void> make_folder(const std::string& folder, uid_t user) {
  for (std::size_t end = 0; end != std::string::npos;) {
    end = folder.find('/', end + 1);
    const std::string part = folder.substr(0, end);
    if (::mkdir(part.c_str(), kOwnerOnly) == 0 || errno == EEXIST) continue;
    const int failure = errno;
    struct stat status {};
    if (::stat(part.c_str(), &status) != 0) return cannot(failure, "making the folder " + part);
  }
  return check_folder(folder, user);
}

/// Nothing: there is no such file.
Result<std::optional<std::string>> read_secret(const std::string& path, uid_t user) {
  const UniqueFd file(::open(path.c_str(), O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK));
  if (!file && errno == ENOENT) return std::optional<std::string>();
  if (!file) {
    if (errno == ELOOP) return refused(path, "it is a link", "remove it");
    return cannot(errno, "reading " + path);
  }
  struct stat status {};
  if (::fstat(file.get(), &status) != 0) return errno_error(errno, "reading " + path);
  if (!S_ISREG(status.st_mode)) return refused(path, "it is no file", "remove it");
  if (auto owned = check_owned(path, status, user); !owned) return owned.error();
  std::array<char, kMostFileBytes> text{};
  const ssize_t n = ::read(file.get(), text.data(), text.size());
  if (n < 0) return errno_error(errno, "reading " + path);
  const std::string_view secret = trimmed({text.data(), static_cast<std::size_t>(n)});
  if (secret.size() < kSecretBytes)
    return Error{Code::kDataLoss,
                 "the secret of this user, " + path + ", is too short: remove the file" + kInstead};
  return std::optional<std::string>(secret);
}

Result<std::string> random_text() {
  std::array<unsigned char, kSecretBytes> random{};
  if (::getentropy(random.data(), random.size()) != 0) return errno_error(errno, "asking for random bytes");
  return to_hex(std::as_bytes(std::span(random)));
}

/// Makes the file whole under another name first, and gives it its own only if there is none: who comes
/// second takes the first one's.
Result<void> make_secret(const std::string& path) {
  const auto secret = random_text();
  const auto name = random_text();
  if (!secret) return secret.error();
  if (!name) return name.error();
  const std::string aside = path + "." + name->substr(0, 16);
  {
    const UniqueFd file(::open(aside.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600));
    if (!file) return cannot(errno, "making " + aside);
    const std::string text = *secret + "\n";
    const bool written = ::fchmod(file.get(), 0600) == 0 &&
                         ::write(file.get(), text.data(), text.size()) == static_cast<ssize_t>(text.size()) &&
                         ::fsync(file.get()) == 0;
    if (!written) {
      const int failure = errno;
      ::unlink(aside.c_str());
      return errno_error(failure, "writing " + aside);
    }
  }
  int failure = ::link(aside.c_str(), path.c_str()) == 0 ? 0 : errno;
  // Some file systems know no second names.
  if (failure == EPERM || failure == EOPNOTSUPP || failure == ENOSYS)
    failure = ::renameat2(AT_FDCWD, aside.c_str(), AT_FDCWD, path.c_str(), RENAME_NOREPLACE) == 0 ? 0 : errno;
  ::unlink(aside.c_str());
  if (failure != 0 && failure != EEXIST) return cannot(failure, "making " + path);
  return {};
}

/// Of one folder. kUnavailable: another may do.
Result<std::string> secret_in(const std::string& folder, uid_t user) {
  const std::string path = folder + "/secret";
  for (int attempt = 0; attempt < 2; ++attempt) {
    auto found = read_secret(path, user);
    if (!found) return found.error();
    if (*found) {
      if (auto owned = check_folder(folder, user); !owned) return owned.error();
      return std::move(**found);
    }
    auto made = make_folder(folder, user);
    if (made) made = make_secret(path);
    if (!made) return made.error();
  }
  return Error{Code::kUnavailable, path + " goes away as soon as it is made"};
}

bool is_own_folder(const char* path, uid_t user) {
  struct stat status {};
  return path && path[0] == '/' && ::stat(path, &status) == 0 && S_ISDIR(status.st_mode) &&
         status.st_uid == user;
}

/// From the system's list of users; empty: it does not have this one.
std::string home_in_list(uid_t user) {
  std::array<char, 4096> memory{};
  passwd entry{};
  passwd* found = nullptr;
  if (::getpwuid_r(user, &entry, memory.data(), memory.size(), &found) != 0 || !found) return {};
  return is_own_folder(found->pw_dir, user) ? found->pw_dir : "";
}

}  // namespace

UserSecretPlace user_secret_place() {
  UserSecretPlace place{::geteuid(), {}};
  const char* const state = std::getenv("XDG_STATE_HOME");
  const char* const home = std::getenv("HOME");
  const char* const run = std::getenv("XDG_RUNTIME_DIR");
  if (state && state[0] == '/') {
    place.folders.push_back(std::string(state) + "/troupe");
  } else if (is_own_folder(home, place.user)) {
    // Not if it is another user's, as after "sudo": what is put there would be in that one's way.
    place.folders.push_back(std::string(home) + "/.local/state/troupe");
  } else if (const std::string listed = home_in_list(place.user); !listed.empty()) {
    place.folders.push_back(listed + "/.local/state/troupe");
  }
  if (is_own_folder(run, place.user)) place.folders.push_back(std::string(run) + "/troupe");
  place.folders.push_back("/tmp/troupe-" + std::to_string(place.user));
  return place;
}

Result<std::string> user_secret(const UserSecretPlace& place) {
  std::string why;
  for (const std::string& folder : place.folders) {
    auto secret = secret_in(folder, place.user);
    if (secret || secret.error().code != Code::kUnavailable) return secret;
    why += (why.empty() ? "" : "; ") + secret.error().message;
  }
  return Error{Code::kUnavailable, "there is no place for the secret of this user (" + why +
                                       "): set XDG_STATE_HOME to a folder that can be written" + kInstead};
}

}  // namespace troupe
