#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>

#include <troupe/runtime/result.hpp>
#include <troupe/runtime/unique_fd.hpp>

namespace troupe::rpc::shm {

/// Memory that two processes of this machine write and read: a memfd, sealed in its size, mapped. Loop only.
class Segment {
 public:
  /// Fresh memory, all zero. `size` is a multiple of the page size.
  static Result<Segment> create(std::size_t size);
  /// A peer's, through /proc, which takes the same user, or root: else kUnimplemented. kUnavailable: it is
  /// not there, or not what a Segment of that size must be.
  static Result<Segment> open(pid_t owner, int fd, std::size_t size);
  Segment() = default;
  ~Segment();
  Segment(Segment&& other) noexcept;
  Segment& operator=(Segment&& other) noexcept;

  std::byte* data() const { return data_; }
  int fd() const { return fd_.get(); }
  /// Once the peer has opened it the descriptor is of no more use.
  void close_fd() { fd_ = UniqueFd(); }

 private:
  static Result<Segment> map(UniqueFd fd, std::size_t size);

  UniqueFd fd_;
  std::byte* data_ = nullptr;
  std::size_t size_ = 0;
};

/// What wakes this process when it sleeps: a pipe of which peers on this machine open the other end, through
/// /proc. (An eventfd cannot be opened in that way.)
class Doorbell {
 public:
  static Result<Doorbell> create();
  Doorbell() = default;
  /// Becomes readable when somebody has rung.
  int fd() const { return hear_.get(); }
  void clear() const;

 private:
  UniqueFd hear_;
  UniqueFd keep_;  // a writer of our own, so that the pipe is not at its end while no peer has opened it
};

/// A peer's doorbell.
class Bell {
 public:
  static Result<Bell> open(pid_t owner, int fd);
  Bell() = default;
  /// Never waits; a bell that has rung and was not heard yet need not ring again.
  void ring() const;

 private:
  UniqueFd fd_;
};

}  // namespace troupe::rpc::shm
