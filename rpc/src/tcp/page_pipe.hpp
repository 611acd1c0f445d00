#pragma once

#include <sys/types.h>
#include <sys/uio.h>

#include <cstddef>

#include <troupe/runtime/unique_fd.hpp>

namespace troupe::rpc::tcp {

/// A pipe through which pages are given to a socket without copying them.
class PagePipe {
 public:
  /// Without descriptors if there can be none.
  static PagePipe create();
  explicit operator bool() const { return static_cast<bool>(in_); }

  std::size_t filled() const { return filled_; }
  /// Puts pages in; returns the bytes taken, 0 if it is full, -1 for memory that cannot be given so.
  ssize_t fill(const iovec& piece);
  /// Moves up to `most` bytes of what is in it to `socket`, and adds them to `moved`. False: the socket is
  /// broken.
  bool empty_into(int socket, std::size_t most, bool more_follows, std::size_t& moved);

 private:
  UniqueFd in_;
  UniqueFd out_;
  std::size_t filled_ = 0;
};

}  // namespace troupe::rpc::tcp
