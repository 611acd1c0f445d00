#include <troupe/runtime/memfd.hpp>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <string>

// In the kernel since 5.1; missing from older headers.
#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 0x0010
#endif

namespace troupe {
namespace {

constexpr int kSize = F_SEAL_SHRINK | F_SEAL_GROW;

Error cannot_open(const std::string& why) {
  return {Code::kUnavailable, "a peer's shared memory cannot be opened: " + why};
}

Error may_not() {
  return {Code::kUnimplemented, "this process may not open the peer's shared memory: it is another user's"};
}

}  // namespace

Result<UniqueFd> make_memfd(const char* name, std::size_t size) {
  UniqueFd fd(::memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!fd || ::ftruncate(fd.get(), static_cast<off_t>(size)) != 0 ||
      ::fcntl(fd.get(), F_ADD_SEALS, kSize) != 0)
    return errno_error(errno, "making shared memory");
  return fd;
}

bool close_seals(int memfd) {
  return ::fcntl(memfd, F_ADD_SEALS, F_SEAL_SEAL) == 0;
}

bool close_to_writers(int memfd) {
  return ::fcntl(memfd, F_ADD_SEALS, F_SEAL_FUTURE_WRITE | F_SEAL_SEAL) == 0;
}

Result<UniqueFd> open_descriptor_of(pid_t owner, int fd, std::string_view link, int flags) {
  if (owner <= 0 || fd < 0) return cannot_open("no such descriptor");
  const std::string path = "/proc/" + std::to_string(owner) + "/fd/" + std::to_string(fd);
  std::array<char, 64> target{};
  const ssize_t length = ::readlink(path.c_str(), target.data(), target.size());
  if (length < 0 && (errno == EACCES || errno == EPERM)) return may_not();
  if (length < 0 || !std::string_view(target.data(), static_cast<std::size_t>(length)).starts_with(link))
    return cannot_open("it is not there");
  UniqueFd opened(::open(path.c_str(), flags | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
  if (!opened && (errno == EACCES || errno == EPERM)) return may_not();
  if (!opened) return cannot_open("errno " + std::to_string(errno));
  return opened;
}

Result<std::size_t> sealed_size(int memfd) {
  struct stat info {};
  if (::fstat(memfd, &info) != 0) return cannot_open("its size is not known");
  const int seals = ::fcntl(memfd, F_GET_SEALS);
  if (seals < 0 || (seals & kSize) != kSize) return cannot_open("it is not sealed");
  return static_cast<std::size_t>(info.st_size);
}

}  // namespace troupe
