#pragma once

#include <cstddef>
#include <cstdint>
#include <list>
#include <vector>

#include <troupe/runtime/buffer.hpp>
#include <troupe/runtime/unique_fd.hpp>

#include "tcp/byte_stream.hpp"
#include "tcp/page_pipe.hpp"
#include "tcp/pieces.hpp"
#include "transport/data_plane.hpp"

namespace troupe::rpc::tcp {

/// What became of a try to go on with a stream.
enum class Went {
  kOn,     ///< as far as it goes now
  kEnded,  ///< the stream has ended, or is broken
};

/// Sends the parts of announced messages. Loop only.
class BulkSender {
 public:
  /// `lent`: the peer reads our own memory, and says when it has. `announced_at`: how many bytes of the
  /// stream of messages have to be sent before these are: what the peer has not been told of, it does not
  /// read.
  void push(std::vector<Buffer> parts, std::size_t bytes, bool lent, std::uint64_t announced_at);
  /// Sends up to `most` bytes of what is announced within `told`; adds what it sent to `did`.
  Went progress(ByteStream& stream, std::size_t most, std::uint64_t told, std::size_t& did);
  /// The peer has taken so many lent messages, whose parts are added to `parts`: to be dropped when that may
  /// run anybody's code. False: so many were not lent.
  bool taken(std::uint64_t count, std::vector<std::vector<Buffer>>& parts);

  /// The stream is given up. What was lent, and perhaps not read yet, is kept as long as the peer could.
  void retire(UniqueFd stream);

  /// Something is to be sent still.
  bool busy() const { return !queue_.empty(); }
  /// ... and its announcement lies within the first `told` bytes.
  bool ready(std::uint64_t told) const { return busy() && queue_.front().announced_at <= told; }
  /// Of messages that are not sent, or not taken, yet.
  std::size_t bytes_in_flight() const { return bytes_in_flight_; }
  /// Of messages that the kernel has, and of which the peer has not said yet that it has taken them.
  std::size_t bytes_not_taken() const { return bytes_not_taken_; }

 private:
  struct Outgoing {
    std::vector<Buffer> parts;
    Pieces pieces;
    std::size_t bytes = 0;
    bool lent = false;  // announced so
    std::uint64_t announced_at = 0;
    bool pages_given = false;  // the kernel has some of its pages
  };
  ssize_t copy(ByteStream& stream, Outgoing& message, std::size_t most) const;
  Went lend(int fd, Outgoing& message, std::size_t most, std::size_t& sent);

  // Lists, because most links have none.
  std::list<Outgoing> queue_;
  std::list<Outgoing> given_;  // lent, and not taken
  std::size_t bytes_in_flight_ = 0;
  std::size_t bytes_not_taken_ = 0;
  PagePipe pipe_;
  bool may_lend_ = true;
};

/// Receives the parts of announced messages, one message after the other, each into its own memory, which
/// is asked for when its turn has come: so a sender can make us hold little more than the message that is
/// being received, and the next one often goes into memory that is in the processor's cache. Loop only.
class BulkReceiver {
 public:
  explicit BulkReceiver(DataPlane& data) : data_(&data) {}

  void announce(Arrival arrival, std::size_t bytes, bool lent) {
    announced_.push_back({std::move(arrival), bytes, lent});
  }
  /// Receives up to `most` bytes, and puts what is whole into DataPlane::arrivals; adds to `did`.
  Went progress(ByteStream& stream, std::size_t most, std::size_t& did);

  /// Parts are being waited for.
  bool busy() const { return !announced_.empty(); }
  /// As many are announced as are kept. The peer's further announcements stay with the kernel meanwhile.
  bool full() const { return announced_.size() >= kMostAnnounced; }
  /// Lent messages received since this was asked last.
  std::uint64_t take_taken() { return std::exchange(taken_, 0); }

 private:
  struct Announced {
    Arrival arrival;  // without parts until it is its turn
    std::size_t bytes = 0;
    bool lent = false;
  };
  void end_first();

  static constexpr std::size_t kMostAnnounced = 1024;

  DataPlane* data_;
  std::list<Announced> announced_;
  Pieces pieces_;  // of the first
  bool begun_ = false;
  bool lost_ = false;
  std::uint64_t taken_ = 0;
};

}  // namespace troupe::rpc::tcp
