#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include <troupe/runtime/task.hpp>
#include <troupe/runtime/timer.hpp>

#include "endpoint/core.hpp"

namespace troupe::rpc::detail {

/// Made when the handler of a call first makes another one, or wants to hear of cancellation; most calls
/// never have one. With the turn, but for its end, and for what says otherwise: a method on the pool may go
/// on when its call has been answered, or the node has gone.
class CallScope final : public std::enable_shared_from_this<CallScope>, private TimerNode {
 public:
  CallScope(EndpointCore& endpoint, TimePoint deadline, const TraceContext& trace, Metadata metadata,
            bool cancelled)
      : endpoint_(&endpoint),
        deadline_(deadline),
        trace_(trace),
        metadata_(std::move(metadata)),
        cancelled_(cancelled) {}

  TimePoint deadline() const { return deadline_; }
  const TraceContext& trace() const { return trace_; }
  /// What calls within it carry, too.
  const Metadata& metadata() const { return metadata_; }
  /// Any thread, as the next three, which may read the clock.
  bool cancelled() const { return cancelled_.load(std::memory_order_relaxed); }
  bool cancelled_or_expired() const;
  /// For how long somebody waits still: not at all once it is cancelled, or finished.
  Duration time_left() const;
  /// on_cancel() with the turn, soon if the thread has it not.
  void on_cancel_from_anywhere(UniqueFunction<void()> told);

  /// Ends the calls made in its name and tells those who wanted to hear. Idempotent.
  void cancel();
  /// The call has its answer, or its endpoint has gone: nothing is cancelled from now on.
  void finish();
  /// A call of the endpoint's was made in its name.
  void add(std::uint64_t call_id);
  /// Runs `told` when it is cancelled or the deadline has come; at once if so already, never after finish().
  void on_cancel(UniqueFunction<void()> told);

 private:
  void on_timer() override { cancel(); }

  EndpointCore* endpoint_;  // null: finished
  mutable std::mutex end_;  // with it that is changed, and read by others than the loop
  TimePoint deadline_;
  TraceContext trace_;
  Metadata metadata_;
  std::atomic<bool> cancelled_;
  std::vector<std::uint64_t> calls_;  // open, or ended since the last look
  std::size_t look_at_ = 16;          // the number of calls at which those that have ended are dropped
  std::vector<UniqueFunction<void()>> told_;
};

}  // namespace troupe::rpc::detail
