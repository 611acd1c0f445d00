#pragma once

#include <sys/uio.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <vector>

#include <troupe/runtime/buffer.hpp>

namespace troupe::rpc::tcp {

/// How far a message's parts have been sent, or received.
class Pieces {
 public:
  Pieces() = default;
  explicit Pieces(const std::vector<Buffer>& parts) {
    pieces_.reserve(parts.size());
    for (const Buffer& part : parts) {
      if (part.empty()) continue;
      pieces_.push_back({part.data(), part.size()});
      left_ += part.size();
    }
  }

  std::size_t left() const { return left_; }
  /// What comes next, at most `most` bytes of it; returns the number of entries in `list`.
  template <std::size_t N>
  int next(std::array<iovec, N>& list, std::size_t most) const {
    int count = 0;
    std::size_t offset = offset_;
    for (std::size_t i = index_; i < pieces_.size() && count < static_cast<int>(N) && most > 0; ++i) {
      const std::size_t bytes = std::min(most, pieces_[i].iov_len - offset);
      list[static_cast<std::size_t>(count++)] = {static_cast<std::byte*>(pieces_[i].iov_base) + offset,
                                                 bytes};
      most -= bytes;
      offset = 0;
    }
    return count;
  }
  /// Precondition: bytes <= left().
  void advance(std::size_t bytes) {
    left_ -= bytes;
    while (bytes > 0) {
      const std::size_t here = std::min(bytes, pieces_[index_].iov_len - offset_);
      bytes -= here;
      offset_ += here;
      if (offset_ < pieces_[index_].iov_len) continue;
      ++index_;
      offset_ = 0;
    }
  }

 private:
  std::vector<iovec> pieces_;
  std::size_t index_ = 0;
  std::size_t offset_ = 0;  // in that piece
  std::size_t left_ = 0;
};

}  // namespace troupe::rpc::tcp
