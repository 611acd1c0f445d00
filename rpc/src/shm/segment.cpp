#include "shm/segment.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <string_view>
#include <utility>

#include <troupe/runtime/memfd.hpp>

namespace troupe::rpc::shm {
namespace {

constexpr char kName[] = "troupe-ring";
constexpr std::string_view kSegmentLink = "/memfd:troupe-ring";
constexpr std::string_view kPipeLink = "pipe:[";
/// Of a bell that has been rung: together as much as a pipe holds.
constexpr int kMostReads = 16;

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
  auto fd = make_memfd(kName, size);
  if (!fd) return fd.error();
  if (!close_seals(fd->get())) return errno_error(errno, "sealing shared memory");
  return map(std::move(*fd), size);
}

Result<Segment> Segment::open(pid_t owner, int fd, std::size_t size) {
  auto opened = open_descriptor_of(owner, fd, kSegmentLink, O_RDWR);
  if (!opened) return opened.error();
  const auto sealed = sealed_size(opened->get());
  if (!sealed) return sealed.error();
  if (*sealed != size)
    return Error{Code::kUnavailable, "a peer's shared memory cannot be opened: its size is wrong"};
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
  // For reading, too: a pipe with no reader left would end the writer's process.
  auto opened = open_descriptor_of(owner, fd, kPipeLink, O_RDWR);
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
