#include <troupe/runtime/files.hpp>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <utility>

#include <troupe/runtime/clock.hpp>
#include <troupe/runtime/unique_fd.hpp>

namespace troupe {
namespace {

Error failed(std::string_view verb, const std::string& path) {
  return errno_error(errno, "cannot " + std::string(verb) + " '" + path + "'");
}

std::string directory_of(const std::string& path) {
  const auto slash = path.rfind('/');
  if (slash == std::string::npos) return ".";
  return slash == 0 ? "/" : path.substr(0, slash);
}

/// Opens a new file beside `path`, whose name goes to `temporary`. mkstemp() would make it private.
int create_beside(const std::string& path, std::string& temporary) {
  for (;;) {
    const auto unique = static_cast<std::uint64_t>(RealClock().now().ns);
    temporary = path + ".tmp-" + std::to_string(getpid()) + "-" + std::to_string(unique);
    const int fd = open(temporary.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (fd >= 0 || errno != EEXIST) return fd;
  }
}

Result<void> write_all(int fd, std::string_view contents, const std::string& path) {
  while (!contents.empty()) {
    const ssize_t written = write(fd, contents.data(), contents.size());
    if (written >= 0) {
      contents.remove_prefix(static_cast<std::size_t>(written));
    } else if (errno != EINTR) {
      return failed("write", path);
    }
  }
  return {};
}

Result<void> write_and_rename(UniqueFd file, std::string_view contents, const std::string& temporary,
                              const std::string& path) {
  if (Result<void> written = write_all(file.get(), contents, temporary); !written) return written;
  if (fsync(file.get()) != 0) return failed("sync", temporary);
  // Errors of delayed writes may come as late as here.
  if (::close(file.release()) != 0) return failed("close", temporary);
  if (rename(temporary.c_str(), path.c_str()) != 0) return failed("write", path);
  return {};
}

}  // namespace

Result<std::string> read_file(const std::string& path) {
  const UniqueFd file(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!file) return failed("read", path);
  struct stat status {};
  if (fstat(file.get(), &status) != 0) return failed("read", path);
  std::string contents;
  std::size_t size = 0;
  // The size is a hint: special files have none, and others may grow.
  contents.resize(static_cast<std::size_t>(std::max<off_t>(status.st_size, 0)) + 1);
  for (;;) {
    const ssize_t got = read(file.get(), contents.data() + size, contents.size() - size);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return failed("read", path);
    if (got == 0) break;
    size += static_cast<std::size_t>(got);
    if (size == contents.size()) contents.resize(2 * size);
  }
  contents.resize(size);
  return contents;
}

Result<void> write_file_atomically(const std::string& path, std::string_view contents) {
  std::string temporary;
  UniqueFd file(create_beside(path, temporary));
  if (!file) return failed("write", path);
  Result<void> done = write_and_rename(std::move(file), contents, temporary, path);
  if (!done) {
    unlink(temporary.c_str());
    return done;
  }
  return sync_directory(directory_of(path));
}

Result<void> write_file_atomically(const std::string& path, std::span<const std::byte> contents) {
  return write_file_atomically(
      path, std::string_view(reinterpret_cast<const char*>(contents.data()), contents.size()));
}

Result<void> sync_directory(const std::string& path) {
  const UniqueFd directory(open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  // Some file systems cannot sync a directory (EINVAL); they have nothing to offer instead.
  if (!directory || (fsync(directory.get()) != 0 && errno != EINVAL)) return failed("sync", path);
  return {};
}

}  // namespace troupe
