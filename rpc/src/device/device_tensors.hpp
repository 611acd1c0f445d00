#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <list>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <troupe/rpc/message.hpp>
#include <troupe/runtime/gpu_memory.hpp>
#include <troupe/runtime/gpu_sharing.hpp>
#include <troupe/runtime/loop.hpp>
#include <troupe/runtime/stream.hpp>
#include <troupe/runtime/task.hpp>
#include <troupe/runtime/thread_pool.hpp>
#include <troupe/runtime/timer.hpp>

#include "device/arriving.hpp"
#include "device/peer_devices.hpp"
#include "device/pinned_queue.hpp"
#include "device/staging.hpp"

namespace troupe::rpc {

/// A GPU of this endpoint, with what device tensors need on their way.
struct DeviceLane {
  DeviceLane(Gpu own, troupe::Stream out_stream, troupe::Stream in_stream)
      : gpu(std::move(own)),
        out(std::move(out_stream)),
        in(std::move(in_stream)),
        pool(gpu),
        probes(gpu, {.slab_bytes = kProbeSlab}),
        uuid(uuid_of(gpu)) {}
  /// A stream for a copy to where a tensor is sent from that is to wait for whoever writes the tensor:
  /// nothing else stands behind it, unless there are many such.
  const troupe::Stream& out_behind(const Event& written);
  void note_waiting(const troupe::Stream& stream, const Event& until);
  /// One for a copy that may have to wait for a program's streams; in, if all others are at work.
  const troupe::Stream& aside();

  Gpu gpu;
  troupe::Stream out;  ///< copies to where a tensor is sent from, if nobody writes it any more
  std::deque<std::pair<troupe::Stream, Event>> waiting;  ///< others, either way; until when each is at work
  troupe::Stream in;                                     ///< copies to where it was sent to
  GpuPool pool;
  /// A peer that maps a slab could do anything in it: nothing of anybody's lies in this one. As long as the
  /// driver's own, which others share.
  static constexpr std::size_t kProbeSlab = std::size_t{2} << 20;
  GpuPool probes;
  std::array<std::byte, 16> uuid;
  Buffer probe;  ///< of a slab that peers map to see whether they can
};

/// How one device tensor of a message leaves.
struct DevicePlace {
  bool is_device = false;
  std::uint8_t gpu = 0;     ///< ours, as in our hello
  std::uint8_t target = 0;  ///< the peer's, from 1; 0: any
  bool follows = false;     ///< it is staged in memory that the peer maps, and may still be on its way there
  std::uint64_t lease = 0;  ///< not 0: it stays where it is, and this is where
  GpuLocation location;
  bool later = false;  ///< there is no pinned memory now: once there is, `memory` is copied there
  bool may_share = false, may_follow = false;  ///< and the peer maps that, and follows the copy
  Event after;
  Buffer memory;
};

/// What the endpoint has of GPUs. Nothing here waits for a device but the destructor. Loop only.
class DeviceTensors {
 public:
  /// `most_pinned`: bytes of host memory that are locked. `gone`: told on the loop of slabs of ours that
  /// peers may have mapped and that are freed.
  using Gone = std::function<void(const std::vector<std::uint64_t>&)>;
  DeviceTensors(Loop& loop, const std::vector<Gpu>& gpus, std::size_t most_pinned, Gone gone);
  ~DeviceTensors();  ///< waits for copies that are under way
  DeviceTensors(const DeviceTensors&) = delete;
  DeviceTensors& operator=(const DeviceTensors&) = delete;

  std::vector<std::unique_ptr<DeviceLane>>& lanes() { return lanes_; }
  /// Null: there are no lanes. Locked for all of them.
  Staging* staging() { return staging_.get(); }
  PinnedQueue& pinned_queue() { return pinned_queue_; }
  std::list<Arriving> arriving;  ///< messages whose tensors are on their way into devices
  /// Null: the device is none of this endpoint's.
  DeviceLane* lane_of(Device device, std::uint8_t* number = nullptr);
  /// Why a GPU's tensors cannot travel.
  Error no_lane(Device device) const;

  /// What is said of our GPUs in a hello; `shares`: with what shows whether their memory can be mapped.
  std::vector<PeerGpu> own_gpus(bool shares);
  /// Maps what a peer has named of its memory, off the loop; then tells on the loop what could be mapped,
  /// with words for people.
  using Met = std::function<void(std::vector<Reach>, std::string)>;
  void meet(const std::vector<PeerGpu>& theirs, Met met);
  /// Maps a slab of a peer's for one of our GPUs, off the loop.
  using Mapped = std::function<void(Result<std::shared_ptr<const GpuMapping>>)>;
  void map(const GpuSlab& slab, std::uint8_t reader, Mapped mapped);
  /// Unmaps it off the loop, if nobody else has it.
  void let_go(std::shared_ptr<const GpuMapping> mapping);

  /// Calls `told` when all have passed: at once if they have already. With the first error, if work on the
  /// device has failed.
  void when_all(std::vector<Event> events, UniqueFunction<void(Result<void>)> told);
  /// Keeps memory until then.
  void retire(std::vector<Buffer> memory, TimePoint until) { retired_.add(std::move(memory), until); }
  /// Keeps it for ever: a device has failed while it was at work there.
  void lose(std::shared_ptr<void> anything) { lost_.push_back(std::move(anything)); }
  /// So that lose() needs no memory for any of those that arrive.
  void reserve_lost() { lost_.reserve(lost_.size() + arriving.size() + 1); }
  /// Calls `advance` now, and in each round of the loop, until it says true or an error; then `told`.
  using Advance = std::function<Result<bool>()>;
  void when_given(Advance advance, UniqueFunction<void(Result<void>)> told);

 private:
  /// What is given to devices as it comes.
  class Giving final : public Source {
   public:
    explicit Giving(Loop& loop) : loop_(loop) {}
    ~Giving() override;
    Giving(const Giving&) = delete;
    Giving& operator=(const Giving&) = delete;
    void add(Advance advance, UniqueFunction<void(Result<void>)> told);
    int poll() override;
    bool arm() override;

   private:
    struct Entry {
      Advance advance;
      UniqueFunction<void(Result<void>)> told;
    };
    Loop& loop_;
    Timer look_again_;  // while the loop may sleep
    std::list<Entry> entries_;
    bool looking_ = false;
    bool polling_ = false;  // whether the loop has this as a source
    TimePoint added_at_;
  };
  /// The way back to the loop, for the thread that maps.
  struct Way;
  struct All;
  void run(Task task);

  /// Memory that a peer may still copy from though its session has ended.
  class Retired final : private TimerNode {
   public:
    explicit Retired(Loop& loop) : loop_(loop) {}
    ~Retired() override { loop_.cancel(*this); }
    Retired(const Retired&) = delete;
    Retired& operator=(const Retired&) = delete;
    void add(std::vector<Buffer> memory, TimePoint until);

   private:
    void on_timer() override;
    Loop& loop_;
    std::deque<std::pair<TimePoint, std::vector<Buffer>>> kept_;
  };

  Loop& loop_;
  EventWatch watch_;
  Giving giving_;
  PinnedQueue pinned_queue_;
  Retired retired_;
  std::vector<std::shared_ptr<void>> lost_;  // what a device may still be at work in, nobody knows until when
  std::vector<std::unique_ptr<DeviceLane>> lanes_;
  std::unique_ptr<Staging> staging_;
  std::vector<Error> failures_;  // of GPUs that are of no use
  std::shared_ptr<Way> way_;
  std::shared_ptr<const SlabsFreed> freed_;  // called by whoever frees
  ThreadPool threads_;
};

}  // namespace troupe::rpc
