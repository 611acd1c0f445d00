#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include <troupe/runtime/gpu.hpp>
#include <troupe/shards/communicator.hpp>

#include "communicators/calls.hpp"
#include "communicators/gloo_communicator.hpp"
#include "communicators/nccl_comms.hpp"
#include "communicators/work.hpp"

namespace troupe::shards {

/// What a communicator over NCCL has under way. Whoever calls a collective gives it to the stream; it has
/// ended when its event has passed and the members have agreed that they did the same. One thread looks
/// whether it has, at the time, and at what NCCL and the device say; whoever waits looks, too.
class NcclQueue : public std::enable_shared_from_this<NcclQueue> {
 public:
  using Steady = std::chrono::steady_clock;

  NcclQueue(CommunicatorOptions options, Gpu gpu, Stream stream, std::shared_ptr<NcclComms> comms,
            std::unique_ptr<GlooCommunicator> control);
  ~NcclQueue() = default;
  NcclQueue(const NcclQueue&) = delete;
  NcclQueue& operator=(const NcclQueue&) = delete;
  /// Until formed() it also ends when `given_up` says so, or at `due`.
  void start(std::function<std::optional<Error>()> given_up, Steady::time_point due);
  void formed();
  /// Ends it, and its threads: once, before it goes.
  void close();

  struct Given {
    Result<DescribedCall> call;
    std::vector<Tensor> reads;
    std::vector<Tensor> writes;
    std::vector<Transfer> transfers = {};  ///< if it is these
  };
  using Launch = UniqueFunction<int(NcclComm comm, NcclStream stream)>;
  /// Has `launch` give the collective to the stream; within group(), of the same thread, at the end of that.
  Work begin(Given given, Launch launch);
  /// Gives those that `calls` begins together.
  Work group(UniqueFunction<void()>& calls);
  void end(Error why);
  /// A member has gone: what it has done its part of may still pass.
  void lose(Error why);
  Result<void> state() const;

  const CommunicatorOptions& options() const { return options_; }
  const Gpu& gpu() const { return gpu_; }
  const Stream& stream() const { return stream_; }
  const NcclApi& api() const { return comms_->api(); }
  GlooCommunicator& control() { return *control_; }

  /// Finishes what has passed, in order, unless another thread does.
  void progress();

 private:
  class Passing;
  class Inside;
  class Grouped;
  struct Part {
    Given given;
    Launch launch;
  };
  using Parts = std::vector<Part>;
  struct Entry {
    std::shared_ptr<Passing> work;
    std::vector<Tensor> kept;
    std::string text;
    Steady::time_point begun;
  };
  /// Ends it with `why`, unless it is about to be known who was lost. With mutex_ locked.
  void end_unless_lost(std::unique_lock<std::mutex>& lock, Error why);
  void set_ended(Error why);
  /// With mutex_ locked: ended by something that there was no memory, or no place, to describe.
  void set_ended_without_words();
  Work begin(Parts parts, const std::string& what);
  Result<Work> give_and_keep(Parts& parts, const std::string& what, Steady::time_point begun);
  /// Waits until the stream may have one more; false: it has ended.
  bool wait_for_room();
  void look_after();
  bool lost_for_good() const;
  Result<Event> give(Parts& parts, const std::string& what);
  int launch(Parts& parts);
  void watch();
  void wait_while_idle(std::unique_lock<std::mutex>& lock);
  /// What NCCL or the device have to say against it.
  std::optional<Error> fault();
  std::optional<Error> late() const;
  std::optional<Error> forming_fault();
  void finish_all();

  const CommunicatorOptions options_;
  const Gpu gpu_;
  const Stream stream_;
  const std::shared_ptr<NcclComms> comms_;
  std::unique_ptr<GlooCommunicator> control_;
  std::thread watcher_;

  std::mutex grouping_;  // a group is being made by
  std::atomic<std::thread::id> grouper_{};
  Parts group_;                                    // what it has so far, with that thread
  std::vector<std::shared_ptr<Grouped>> grouped_;  // likewise
  std::mutex calls_;  // collectives are given one after the other; with it held for as long as NCCL takes
  std::atomic<bool> telling_{false};  // a thread finishes works
  std::atomic<std::thread::id> teller_{};
  std::atomic<bool> over_{false};  // ended_ is there

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Entry> under_way_;
  std::optional<Error> ended_;
  std::optional<Error> lost_;  // and when
  Steady::time_point lost_at_;
  bool idle_ = false;                          // the watcher is to be woken
  bool finished_ = false;                      // and nothing comes any more
  std::optional<Steady::time_point> calling_;  // since when a call of NCCL's is under way
  std::string calling_what_;
  std::optional<Steady::time_point> forming_due_;  // while it is formed
  std::function<std::optional<Error>()> given_up_;
  std::optional<Error> spare_;  // to end with where there is no memory for another
  Steady::time_point turn_;     // when the last one passed
  Steady::time_point active_;   // when something was given or passed
};

}  // namespace troupe::shards
