#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <deque>
#include <vector>

#include "shm/message_ring.hpp"
#include "shm/remote_copy.hpp"
#include "shm/segment.hpp"
#include "transport/data_plane.hpp"

namespace troupe::rpc::shm {

/// A peer's way to us on this machine: a ring of ours that the peer writes into. Loop only.
class Inbound {
 public:
  enum class Got {
    kNothing,
    kMessage,  ///< one is complete
    kMore,     ///< something was done, no message is complete
    kNonsense  ///< the peer broke the rules; the link is to be closed
  };

  static Result<Inbound> create(LinkId link, DataPlane& data);

  /// What the peer needs to know.
  int fd() const { return ring_.fd(); }
  std::uint64_t cookie() const { return reader_.header().cookie; }
  /// Where our cookie stands in our memory, for RemoteCopy::may_copy().
  std::uint64_t probe() const { return reinterpret_cast<std::uintptr_t>(&reader_.header().cookie); }

  /// The peer has opened the ring: what it sends comes this way.
  bool attached();
  /// Tells the peer that we cannot write to it, so that it does not write to us.
  void refuse(Refusal why) {
    reader_.header().refused.store(static_cast<std::uint32_t>(why), std::memory_order_release);
  }
  /// Says who writes here, and whether its memory can be read.
  void set_writer(pid_t pid, bool readable, const Bell& bell);
  /// Its bell goes, and nothing more is read.
  void forget_writer() {
    writer_ = 0;
    bell_ = nullptr;
  }

  /// Takes the next record.
  Got receive(Arrival& arrival);
  /// Copies up to `most` bytes of messages' parts out of the peer's memory.
  Got copy(Arrival& arrival, std::size_t most);
  bool copying() const { return !lent_.empty(); }
  bool empty() const { return reader_.empty(); }
  /// Bytes of records taken since the beginning.
  std::uint64_t position() const { return reader_.position(); }

  /// Before this process sleeps. False: there is something to receive.
  bool arm();
  void disarm() { reader_.header().reader_sleeps.store(0, std::memory_order_relaxed); }

 private:
  struct Lent {
    Arrival arrival;  // without parts
    std::vector<LentPiece> pieces;
    std::uint64_t bytes = 0;
  };

  Inbound(LinkId link, DataPlane& data, Segment ring);
  Got take_frame(const Record& record, Arrival& arrival);
  Got take_lent(const Record& record);
  Got begin_stream(const Record& record);
  Got take_piece(const Record& record, Arrival& arrival);
  bool take_head(const Record& record, Arrival& arrival) const;
  void pop(const Record& record);
  void end_lent();
  void ring_if_waited_for();

  LinkId link_;
  DataPlane* data_;
  Segment ring_;
  RingReader reader_;
  pid_t writer_ = 0;
  const Bell* bell_ = nullptr;  // the writer's
  bool attached_ = false;

  std::deque<Lent> lent_;  // their parts are to be copied, the first one's now
  Arrival copied_;         // the first one, with its parts
  RemoteCopy copy_;
  bool copy_begun_ = false;
  Arrival stream_;  // a message whose parts come piece by piece
  std::uint64_t stream_bytes_ = 0, stream_done_ = 0;
  std::size_t stream_part_ = 0, stream_offset_ = 0;
};

}  // namespace troupe::rpc::shm
