#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "control/link_table.hpp"
#include "shm/inbound.hpp"
#include "shm/outbound.hpp"
#include "shm/segment.hpp"
#include "transport/data_plane.hpp"
#include "transport/data_way.hpp"
#include "transport/removed_ends.hpp"

namespace troupe::rpc::shm {

/// How a peer on this machine finds our side of a link. Comes from the peer: all of it may be wrong.
struct Address {
  std::uint32_t pid = 0;  ///< 0: there is no such way
  std::int32_t ring_fd = -1;
  std::int32_t bell_fd = -1;
  std::uint32_t pid_namespace = 0;  ///< in which `pid` means something
  std::uint64_t cookie = 0;
  std::uint64_t probe = 0;  ///< where the cookie stands in the process's own memory
};

/// The ways between this process and others on the same machine: for each link two rings in shared memory,
/// each with one writer, so that the death of a peer, whatever it was doing, stops nothing but its own link.
///
/// Loop only. Belongs to a transport, which polls it.
class ShmWay final : public DataWay {
 public:
  /// `enabled`: else no link gets such a way.
  ShmWay(DataPlane& data, bool enabled);

  WayId id() const override { return WayId::kSharedMemory; }
  std::string_view name() const override { return "shared memory"; }
  Result<void> add(const LinkFacts& facts) override;
  std::vector<std::byte> offer(LinkId link) override;
  /// Makes our side of a link's way to us; idempotent. An address without pid if there can be none.
  Address address(LinkId link);
  /// Each end tries to open the other's ring; one that cannot says so in its own, and neither uses them.
  Result<WayEnd*> open(LinkId link, std::span<const std::byte> peer_offer) override;
  Result<WayEnd*> open(LinkId link, const Address& peer);
  Agreement agreement(WayEnd& way_end) override;
  void leave(LinkId link) override;
  void remove(LinkId link) override;

  Result<void> send(WayEnd& way_end, OutFrame&& frame) override;
  std::size_t bytes_in_flight(const WayEnd& way_end) const override;
  void pause(LinkId link, bool on) override {
    if (End* const end = ends_.find(link)) end->paused = on;
  }
  void drain(LinkId link) override;

  int poll() override;
  /// Readable when a peer has rung after arm(); -1 without shared memory.
  int event_fd() const override { return doorbell_.fd(); }
  bool is_quiet() const override { return true; }
  bool arm() override;
  void disarm();

 private:
  struct End final : WayEnd {
    using WayEnd::WayEnd;
    std::optional<Inbound> in;
    std::optional<Outbound> out;
    bool tried = false;           // to make `in`, which is tried once
    bool lost = false;            // nothing more is read
    bool paused = false;          // nothing is read for now
    bool sending = false;         // in sending_
    bool copying = false;         // in copying_
    std::uint64_t active_in = 0;  // the last round with something to receive
    std::unique_ptr<End> removed_before;
  };

  /// While one lives, ends that are removed stay in memory: their code may be on the stack.
  class Depth;

  int receive(End& end);
  bool has_arrivals() const;
  bool raise_flags();
  Error refuse(End& end, const Error& why);
  int copy_some();
  int receive_all();
  int go_on_sending();
  void deliver(Arrival& arrival);
  void lose(End& end);
  bool is_there(std::size_t index, const End& end) const {
    return index < reading_.size() && reading_[index] == &end;
  }
  void heat(std::size_t index);
  void cool_down();
  void forget_removed();

  DataPlane& data_;
  bool enabled_;
  Doorbell doorbell_;
  LinkTable<End> ends_;
  // What a round looks at: the busy ones, first in the list, and a few of the others. Null: removed.
  std::vector<End*> reading_;
  std::size_t busy_ = 0;
  std::size_t cursor_ = 0;
  std::uint64_t round_ = 0;
  std::vector<End*> sending_;  // those with Outbound::busy()
  std::vector<End*> copying_;  // those with Inbound::copying()
  std::size_t turn_ = 0;       // whose turn it is in copying_
  bool has_holes_ = false;     // null in a list, of ends that have been left
  RemovedEnds<End> removed_;
  unsigned quiet_steps_ = 0;  // steps of copying since a small message came
  bool armed_ = false;
  int depth_ = 0;
};

}  // namespace troupe::rpc::shm
