#pragma once

#include <sys/types.h>

#include <cstddef>
#include <span>
#include <vector>

#include <troupe/runtime/buffer.hpp>
#include <troupe/runtime/result.hpp>

#include "shm/message_ring.hpp"

namespace troupe::rpc::shm {

/// Copies bytes out of another process's memory, a step at a time: one copy, made by the kernel
/// (process_vm_readv), straight to where they are wanted.
class RemoteCopy {
 public:
  /// Whether we may read the process's memory: tries it at `address`, where `expected` must stand.
  static bool may_copy(pid_t from, std::uint64_t address, std::uint64_t expected);

  RemoteCopy() = default;
  /// Precondition: as many bytes there as here.
  void start(std::vector<LentPiece> from, const std::vector<Buffer>& to);
  /// Copies up to about `most` bytes. kUnavailable: the process is gone, or has no such memory.
  Result<void> step(pid_t from, std::size_t most);
  bool done() const { return left_ == 0; }

 private:
  struct Cursor {
    std::size_t index = 0, offset = 0;
  };
  std::vector<LentPiece> from_;
  std::vector<std::span<std::byte>> to_;
  Cursor read_, written_;
  std::size_t left_ = 0;
};

}  // namespace troupe::rpc::shm
