#include "shm/segment.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <string>
#include <string_view>
#include <utility>

namespace troupe::rpc::shm {
namespace {

constexpr char kName[] = "troupe-ring";
constexpr std::string_view kSegmentLink = "/memfd:troupe-ring";
constexpr std::string_view kPipeLink = "pipe:[";
constexpr int kSeals = F_SEAL_SHRINK | F_SEAL_GROW;
/// Of a bell that has been rung: together as much as a pipe holds.
constexpr int kMostReads = 16;

Error cannot_open(const std::string& why) {
  return {Code::kUnavailable, "a peer's shared memory cannot be opened: " + why};
}

Error may_not() {
  return {Code::kUnimplemented, "this process may not open the peer's shared memory: it is another user's"};
}

/// Opens another process's descriptor anew, if it is what it should be: looked at first, because opening
/// can have effects of its own.
Result<UniqueFd> open_of(pid_t owner, int fd, std::string_view expected) {
  if (owner <= 0 || fd < 0) return cannot_open("no such descriptor");
  const std::string path = "/proc/" + std::to_string(owner) + "/fd/" + std::to_string(fd);
  std::array<char, 64> target{};
  const ssize_t length = ::readlink(path.c_str(), target.data(), target.size());
  if (length < 0 && (errno == EACCES || errno == EPERM)) return may_not();
  if (length < 0 || !std::string_view(target.data(), static_cast<std::size_t>(length)).starts_with(expected))
    return cannot_open("it is not there");
  // For reading, too: a pipe with no reader left would end the writer's process.
  UniqueFd opened(::open(path.c_str(), O_RDWR | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
  if (!opened && (errno == EACCES || errno == EPERM)) return may_not();
  if (!opened) return cannot_open("errno " + std::to_string(errno));
  return opened;
}

}  // namespace

Result<Segment> Segment::map(UniqueFd fd, std::size_t size) {
  void* const base = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd.get(), 0);
  if (base == MAP_FAILED) return errno_error(errno, "mapping shared memory");
  Segment segment;
  segment.fd_ = std::move(fd);
  segment.data_ = static_cast<std::byte*>(base);
  segment.size_ = size;
  return segment;
}

Result<Segment> Segment::create(std::size_t size) {
  UniqueFd fd(::memfd_create(kName, MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!fd || ::ftruncate(fd.get(), static_cast<off_t>(size)) != 0 ||
      ::fcntl(fd.get(), F_ADD_SEALS, kSeals | F_SEAL_SEAL) != 0)
    return errno_error(errno, "making shared memory");
  return map(std::move(fd), size);
}

Result<Segment> Segment::open(pid_t owner, int fd, std::size_t size) {
  auto opened = open_of(owner, fd, kSegmentLink);
  if (!opened) return opened.error();
  struct stat info {};
  if (::fstat(opened->get(), &info) != 0 || info.st_size != static_cast<off_t>(size))
    return cannot_open("its size is wrong");
  const int seals = ::fcntl(opened->get(), F_GET_SEALS);
  if (seals < 0 || (seals & kSeals) != kSeals) return cannot_open("it is not sealed");
  auto segment = map(std::move(*opened), size);
  if (segment) segment->close_fd();
  return segment;
}

Segment::~Segment() {
  if (data_) ::munmap(data_, size_);
}

Segment::Segment(Segment&& other) noexcept
    : fd_(std::move(other.fd_)), data_(std::exchange(other.data_, nullptr)), size_(other.size_) {}

Segment& Segment::operator=(Segment&& other) noexcept {
  std::swap(fd_, other.fd_);
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

Result<Doorbell> Doorbell::create() {
  std::array<int, 2> ends{-1, -1};
  if (::pipe2(ends.data(), O_CLOEXEC | O_NONBLOCK) != 0) return errno_error(errno, "making a pipe");
  Doorbell bell;
  bell.hear_ = UniqueFd(ends[0]);
  bell.keep_ = UniqueFd(ends[1]);
  return bell;
}

/// Not until it is empty: a peer may ring faster than we read. What is left wakes us once more.
void Doorbell::clear() const {
  std::array<char, 4096> rung;
  for (int i = 0; i < kMostReads; ++i)
    if (::read(hear_.get(), rung.data(), rung.size()) != static_cast<ssize_t>(rung.size())) return;
}

Result<Bell> Bell::open(pid_t owner, int fd) {
  auto opened = open_of(owner, fd, kPipeLink);
  if (!opened) return opened.error();
  Bell bell;
  bell.fd_ = std::move(*opened);
  return bell;
}

void Bell::ring() const {
  const char one = 1;
  // A pipe that is full has rung already.
  static_cast<void>(!::write(fd_.get(), &one, 1));
}

}  // namespace troupe::rpc::shm
