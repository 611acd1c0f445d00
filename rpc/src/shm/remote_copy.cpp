#include "shm/remote_copy.hpp"

#include <sys/uio.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <utility>

namespace troupe::rpc::shm {
namespace {

/// Pieces of one step; more are left for the next.
constexpr std::size_t kPieces = 64;

/// Fills `list` with what comes from `cursor` on, `most` bytes at the most.
template <class Range, class Address>
std::size_t fill(std::array<iovec, kPieces>& list, std::size_t& bytes, const Range& range, std::size_t index,
                 std::size_t offset, std::size_t most, Address address) {
  std::size_t count = 0;
  bytes = 0;
  for (; index < range.size() && count < kPieces && bytes < most; ++index, offset = 0) {
    const auto [base, size] = address(range[index]);
    const std::size_t piece = std::min(size - offset, most - bytes);
    if (piece == 0) continue;
    list[count++] = {reinterpret_cast<void*>(base + offset), piece};
    bytes += piece;
  }
  return count;
}

template <class Range, class Size, class Cursor>
void advance(const Range& range, Cursor& cursor, std::size_t bytes, Size size) {
  while (bytes > 0 && cursor.index < range.size()) {
    const std::size_t here = std::min(bytes, size(range[cursor.index]) - cursor.offset);
    bytes -= here;
    cursor.offset += here;
    if (cursor.offset == size(range[cursor.index])) cursor = {cursor.index + 1, 0};
  }
}

}  // namespace

bool RemoteCopy::may_copy(pid_t from, std::uint64_t address, std::uint64_t expected) {
  std::uint64_t found = 0;
  iovec here{&found, sizeof found};
  iovec there{reinterpret_cast<void*>(address), sizeof found};
  return ::process_vm_readv(from, &here, 1, &there, 1, 0) == static_cast<ssize_t>(sizeof found) &&
         found == expected;
}

void RemoteCopy::start(std::vector<LentPiece> from, const std::vector<Buffer>& to) {
  from_ = std::move(from);
  to_.clear();
  left_ = 0;
  for (const Buffer& part : to) {
    to_.push_back(part.bytes());
    left_ += part.size();
  }
  read_ = written_ = {};
}

Result<void> RemoteCopy::step(pid_t from, std::size_t most) {
  const auto there_of = [](const LentPiece& piece) {
    return std::pair{static_cast<std::uintptr_t>(piece.address), static_cast<std::size_t>(piece.bytes)};
  };
  const auto here_of = [](std::span<std::byte> piece) {
    return std::pair{reinterpret_cast<std::uintptr_t>(piece.data()), piece.size()};
  };
  std::array<iovec, kPieces> there;
  std::array<iovec, kPieces> here;
  std::size_t bytes = 0;
  const std::size_t pieces_here = fill(here, bytes, to_, written_.index, written_.offset, most, here_of);
  const std::size_t pieces_there = fill(there, bytes, from_, read_.index, read_.offset, bytes, there_of);
  const ssize_t copied = ::process_vm_readv(from, here.data(), pieces_here, there.data(), pieces_there, 0);
  if (copied <= 0)
    return Error{Code::kUnavailable, "a message's parts cannot be copied out of the peer's memory (errno " +
                                         std::to_string(copied < 0 ? errno : 0) + ")"};
  const auto done = static_cast<std::size_t>(copied);
  advance(from_, read_, done, [](const LentPiece& piece) { return static_cast<std::size_t>(piece.bytes); });
  advance(to_, written_, done, [](std::span<std::byte> piece) { return piece.size(); });
  left_ -= std::min(left_, done);
  return {};
}

}  // namespace troupe::rpc::shm
