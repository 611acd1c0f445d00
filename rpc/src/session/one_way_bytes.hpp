#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <utility>

namespace troupe::rpc {

/// What a peer has been sent of one-way messages that are not done there, in bytes since the link began,
/// kRequestBytes for each beside its own; and likewise what it has sent. Nobody answers such a message, so
/// the one who sent it hears of its end only if it asks: told when so many bytes are done. It asks when half
/// of its window is used, and when a message has to wait; so whoever sends little never asks.
class OneWayBytes {
 public:
  // ---- Ours, at the peer --------------------------------------------------------------------------
  /// Whether so many more bytes may be sent: in the window, or as the only message. None goes before a longer
  /// one that waits, or that might wait for ever.
  bool may_send(std::size_t bytes, std::size_t window) const {
    return bytes >= wanted_ && fits(bytes, window);
  }
  void note_sent(std::size_t bytes) {
    sent_ += bytes;
    if (bytes >= wanted_) wanted_ = 0;
  }
  /// What had to wait is not sent after all.
  void note_dropped() { wanted_ = 0; }
  /// What the peer is to be asked for after a message was sent; nothing: it has been asked, or there is time.
  std::optional<std::uint64_t> due(std::size_t window) const {
    if (asked_ != 0 || open() <= window / 2) return std::nullopt;
    return sent_ - window / 4;
  }
  /// The same because a message has to wait.
  std::optional<std::uint64_t> due_for(std::size_t bytes, std::size_t window) {
    if (fits(bytes, window)) return std::nullopt;  // it waits for another one
    wanted_ = std::max(wanted_, bytes);
    const std::uint64_t at = sent_ - (bytes < window ? window - bytes : 0);
    if (asked_ != 0 && asked_ <= at) return std::nullopt;
    return at;
  }
  void note_asked(std::uint64_t at) { asked_ = at; }
  /// The peer has told. False: it cannot be.
  [[nodiscard]] bool note_told(std::uint64_t done) {
    if (done > sent_) return false;
    told_ = std::max(told_, done);
    if (told_ >= asked_) asked_ = 0;
    return true;
  }

  // ---- The peer's, here ---------------------------------------------------------------------------
  void note_done(std::size_t bytes) { done_ += bytes; }
  /// The peer asks to be told when so many are done. What it has been told already it knows.
  void ask(std::uint64_t at) {
    if (at > answered_) tell_at_ = std::min(tell_at_, at);
  }
  bool must_tell() const { return done_ >= tell_at_; }
  std::uint64_t done() const { return done_; }
  void note_answered() {
    answered_ = done_;
    tell_at_ = UINT64_MAX;
  }

 private:
  std::uint64_t open() const { return sent_ - told_; }
  bool fits(std::size_t bytes, std::size_t window) const {
    return open() == 0 || (bytes <= window && open() <= window - bytes);
  }

  std::uint64_t sent_ = 0;
  std::uint64_t told_ = 0;              // of those, by the peer
  std::uint64_t asked_ = 0;             // the peer will tell when so many are done; 0: it was not asked
  std::size_t wanted_ = 0;              // the longest that waits
  std::uint64_t done_ = 0;              // of the peer's
  std::uint64_t answered_ = 0;          // so many it has been told of
  std::uint64_t tell_at_ = UINT64_MAX;  // when so many are done it is to be told
};

}  // namespace troupe::rpc
