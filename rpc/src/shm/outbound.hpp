#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <vector>

#include <troupe/rpc/transport.hpp>

#include "shm/message_ring.hpp"
#include "shm/segment.hpp"

namespace troupe::rpc::shm {

/// Our way to a peer on this machine: a ring of the peer's into which we write.
///
/// Small messages are copied into the ring, in order. The parts of a large one are lent: the ring gets their
/// addresses, and they are kept until the peer has copied them. If the peer cannot read our memory, they go
/// through the ring piece by piece, small messages in between. Loop only.
class Outbound {
 public:
  /// Up to so many bytes of parts are copied into the ring.
  static constexpr std::size_t kCopiedBytes = std::size_t{32} << 10;

  Outbound(Segment ring, Bell bell);

  /// Whether the peer, who owns the ring, cannot write to us.
  Refusal refused() const {
    return static_cast<Refusal>(writer_.header().refused.load(std::memory_order_acquire));
  }
  void send(OutFrame&& frame);
  /// Goes on with what could not be done at once; returns how much was done.
  int progress();
  /// Whether there is anything for progress().
  bool busy() const { return !waiting_.empty() || !streams_.empty() || !lent_.empty(); }
  /// Before this process sleeps: asks the peer to ring when there is room. False: there is something to do.
  bool arm();
  void disarm() { writer_.header().writer_waits.store(0, std::memory_order_relaxed); }
  std::size_t bytes_in_flight() const { return bytes_in_flight_; }
  const Bell& bell() const { return bell_; }

 private:
  struct Lent {
    std::vector<Buffer> parts;
    std::size_t bytes = 0;
  };
  struct Stream {
    OutFrame frame;
    std::size_t bytes = 0;  // of parts
    std::size_t part = 0, offset = 0;
    bool begun = false;
  };

  bool write(OutFrame& frame, std::size_t part_bytes);
  bool lend(OutFrame& frame, std::size_t part_bytes);
  bool lends(const OutFrame& frame, std::size_t part_bytes) const;
  bool try_send(OutFrame& frame, std::size_t part_bytes);
  void publish(RecordKind kind, std::size_t head_bytes, std::size_t part_bytes);
  int flush_waiting();
  int push_streams();
  bool push(Stream& stream);
  int take_back_lent();

  Segment ring_;
  Bell bell_;
  RingWriter writer_;
  bool fences_ = false;           // the reader cannot order our writing for us
  std::deque<OutFrame> waiting_;  // for room
  std::deque<Stream> streams_;
  std::deque<Lent> lent_;
  std::uint64_t returned_ = 0;  // lent messages of which the peer has made copies
  std::size_t bytes_in_flight_ = 0;
};

}  // namespace troupe::rpc::shm
