#pragma once

#include <cstddef>
#include <deque>
#include <functional>
#include <optional>

#include <troupe/runtime/loop.hpp>
#include <troupe/runtime/result.hpp>
#include <troupe/runtime/task.hpp>
#include <troupe/runtime/timer.hpp>

namespace troupe::rpc {

/// Messages that wait for pinned memory, in their order. Nobody says when a device, a peer or a program is
/// done with some: it is looked at now and then. Loop only.
class PinnedQueue final : private TimerNode {
 public:
  static constexpr std::size_t kMost = 4096;

  explicit PinnedQueue(Loop& loop) : loop_(loop) {}
  ~PinnedQueue() override { loop_.cancel(*this); }
  PinnedQueue(const PinnedQueue&) = delete;
  PinnedQueue& operator=(const PinnedQueue&) = delete;

  struct Wait {
    /// Why nobody wants it any more; asked wherever it stands.
    std::function<std::optional<Error>()> over;
    /// Takes what there is, once it is the first. False: that is not all.
    std::function<Result<bool>()> take;
    /// Called once.
    UniqueFunction<void(Result<void>)> told;
  };
  void add(Wait wait);
  bool empty() const { return waits_.empty(); }
  bool full() const { return waits_.size() >= kMost; }
  std::size_t size() const { return waits_.size(); }
  /// Some memory may have come back. What it tells may do anything but end this.
  void go_on();

 private:
  void on_timer() override;

  Loop& loop_;
  std::deque<Wait> waits_;
  bool going_on_ = false;
};

}  // namespace troupe::rpc
