#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "fuzz/conversation.hpp"

namespace troupe::rpc::conversation {

/// While it lives, what this process receives from sockets goes through its edits (tamper.cpp stands in for
/// recv() and recvmsg()), from the byte number `begin` on.
class Tamper {
 public:
  Tamper(std::vector<Edit> edits, bool wanted);
  ~Tamper();
  Tamper(const Tamper&) = delete;
  Tamper& operator=(const Tamper&) = delete;

  /// From now on bytes count.
  void begin() { counts_ = true; }
  int changed() const { return changed_; }
  std::uint64_t bytes() const { return bytes_; }

  /// How many of `wanted` bytes to ask a socket for, so that a receive ends where an edit says.
  std::size_t room_before(std::size_t wanted);
  /// `size` bytes lie at `data`, received just now; returns how many of them were received: fewer, or none at
  /// the socket's end. `ended` sockets stay so.
  std::size_t apply(int fd, std::uint8_t* data, std::size_t size);
  bool ended(int fd) const;

 private:
  std::vector<Edit> edits_;
  std::size_t next_ = 0;
  std::uint64_t at_ = 0;  // of the next edit
  std::uint64_t bytes_ = 0;
  bool counts_ = false;
  int changed_ = 0;
  std::vector<int> ended_;

  void schedule();
};

}  // namespace troupe::rpc::conversation
