#pragma once

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

#include <troupe/rpc/message.hpp>
#include <troupe/runtime/loop.hpp>
#include <troupe/runtime/shared_pool.hpp>
#include <troupe/runtime/stream.hpp>

#include "device/peer_devices.hpp"

namespace troupe::rpc {

/// A device tensor of a frame for which there was no pinned memory when the frame was made.
struct StagedLater {
  std::uint32_t attachment = 0;  ///< its number in the envelope's list
  std::size_t part = 0;          ///< of the frame's parts, where its bytes are to be: empty so far
  bool may_share = false;        ///< the peer may map the copy
  bool may_follow = false;       ///< and follow it
  Event after;                   ///< which must have passed before it is read
  Buffer memory;                 ///< empty: it has been copied
};

/// The tensors of a frame that the peer is to map. They are leased from the moment when they are written into
/// a message, and become leases of the session when it is sent.
struct FrameLeases {
  std::uint64_t first = 0;  ///< the first one's number; the others' follow
  std::vector<SharedLease> leases = {};
  std::vector<std::pair<std::uint64_t, Buffer>> device =
      {};                         ///< likewise in device memory, each with its number
  std::vector<Event> waits = {};  ///< which must have passed before the frame is sent
  std::vector<StagedLater> later = {};
  std::vector<std::pair<std::uint64_t, SharedLease>> late = {};  ///< leases of copies that were made later
  std::size_t device_bytes = 0;  ///< of device tensors that are no parts of the frame; and of those leased
  std::vector<std::pair<std::uint64_t, std::size_t>> device_leases = {};
};

/// What the two sides of a session read of each other's memory. With the loop's turn only.
class SessionMemory final : public SharedTensors {
 public:
  ~SessionMemory() override { end(); }

  // ---- Ours, read by the peer ---------------------------------------------------------------------
  bool peer_maps = false;  ///< it has opened our probe
  std::uint64_t next_lease = 1;
  void lend(FrameLeases leases, bool is_answer);
  /// What the peer returns; others than its own do not count.
  void take_back(std::uint64_t lease) {
    if (leases_.erase(lease) == 0 && !device_leases_.empty()) device_leases_.erase(lease);
    if (!asked_.empty()) [[unlikely]]
      asked_.erase(lease);
    if (!answers_.empty()) [[unlikely]]
      forget_answer(lease);
  }
  /// Bytes of device tensors in answers that the peer has not given back.
  std::size_t answer_bytes() const { return answer_bytes_; }
  /// Memory of a device that is lent to the peer; empty: there is no such lease.
  Buffer device_lease(std::uint64_t lease) const {
    const auto found = device_leases_.find(lease);
    return found == device_leases_.end() ? Buffer() : found->second;
  }
  /// Whether the peer asks for its bytes for the first time.
  bool may_stage(std::uint64_t lease) { return asked_.insert(lease).second; }
  std::size_t leases() const { return leases_.size() + device_leases_.size(); }

  // ---- The peer's, read by us ---------------------------------------------------------------------
  void set_owner(pid_t owner, const SharedPool::Location& probe) { owner_ = owner, probe_ = probe; }
  /// Whether the peer's memory can be opened. From then on `flush` is called on the loop when leases are to
  /// be returned.
  bool open_probe(Loop& loop, std::function<void()> flush);
  Result<Buffer> open(const SharedPool::Location& location, std::uint64_t lease,
                      std::uint64_t bytes) override;
  bool takes_device_slabs() const override { return !devices.we_reach.empty() || !devices.lost.empty(); }
  bool follows_devices() const override { return devices.told; }
  /// A copy from the peer's device memory is done, or will not be made.
  void return_lease(std::uint64_t lease) { returned_.push_back(lease); }
  std::vector<std::uint64_t> leases_to_return();
  void return_later(std::vector<std::uint64_t>&& leases);
  /// Whether its memory was opened: so it is on this machine.
  bool maps_peer() const { return returns_ != nullptr; }
  /// Whether segments of the peer are mapped.
  bool maps() const { return !mappings_.empty(); }
  /// Forgets segments that their owner has given up.
  void drop_closed();

  PeerDevices devices;  ///< GPUs, and their memory
  /// Device memory that the peer may be copying from; it is not leased any more.
  std::vector<Buffer> take_device_leases();
  /// Whether the peer's process is there still, as far as can be known.
  bool owner_lives() const;

  /// The session has ended: whether the peer still reads our memory cannot be known any more.
  void end();

 private:
  class Returns;
  void forget_answer(std::uint64_t lease);
  std::unordered_map<std::uint64_t, SharedLease> leases_;
  std::unordered_map<std::uint64_t, Buffer> device_leases_;
  std::unordered_map<std::uint64_t, std::size_t> answers_;  // leases of device tensors in answers, with bytes
  std::size_t answer_bytes_ = 0;                            // of these
  std::unordered_set<std::uint64_t> asked_;                 // leases whose bytes were asked for
  std::vector<std::uint64_t> returned_;
  pid_t owner_ = 0;
  SharedPool::Location probe_;
  std::unordered_map<std::uint64_t, std::shared_ptr<const SharedMapping>> mappings_;  // by cookie
  std::shared_ptr<Returns> returns_;  // null: the peer's memory is not opened
};

}  // namespace troupe::rpc
