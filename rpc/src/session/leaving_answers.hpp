#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <list>
#include <utility>

namespace troupe::rpc {

/// How many bytes of answers a peer's transport has been given that have not left yet. What it is given
/// leaves in order, as good as: so an answer has left when no more is on its way than has been given after
/// it. Noted in pieces; the number may be too large by a piece, never too small by more than what overtakes.
class LeavingAnswers {
 public:
  /// A message was given to the transport.
  void note(std::size_t bytes, bool is_answer) {
    given_ += bytes;
    if (!is_answer) return;
    sum_ += bytes;
    piece_ += bytes;
    if (piece_ >= kPiece) pieces_.push_back({given_, std::exchange(piece_, 0)});
  }
  /// As of the last update().
  std::size_t bytes() const { return sum_; }
  /// `in_flight`: bytes of all messages that have not left.
  void update(std::size_t in_flight) {
    if (in_flight == 0) {
      pieces_.clear();
      sum_ = piece_ = 0;
      return;
    }
    const std::uint64_t left = given_ - std::min<std::uint64_t>(given_, in_flight);
    while (!pieces_.empty() && pieces_.front().end <= left) {
      sum_ -= pieces_.front().bytes;
      pieces_.pop_front();
    }
  }

 private:
  static constexpr std::size_t kPiece = std::size_t{1} << 20;
  struct Piece {
    std::uint64_t end;  // of all that had been given
    std::size_t bytes;  // of answers
  };
  std::list<Piece> pieces_;  // few are there, and most sessions have none
  std::uint64_t given_ = 0;
  std::size_t sum_ = 0;    // of the pieces, and
  std::size_t piece_ = 0;  // of the one that is being noted
};

}  // namespace troupe::rpc
