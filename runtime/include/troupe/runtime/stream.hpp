#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include <troupe/runtime/buffer.hpp>
#include <troupe/runtime/clock.hpp>
#include <troupe/runtime/loop.hpp>
#include <troupe/runtime/result.hpp>
#include <troupe/runtime/task.hpp>

namespace troupe {

namespace gpu {
class Driver;
class State;
class StreamState;
class EventHandle;
}  // namespace gpu

/// A point in a stream's work: it has passed when all that the stream had been given before is done. A small
/// value that may be copied and used on any thread, and outlives its stream. One of nothing has passed.
class Event {
 public:
  Event() = default;
  /// Whether it has passed. Reads a word that the device writes: no call into the driver, and no news of
  /// faults.
  bool done() const;
  /// Waits until it has passed, without giving the core to the driver. kDeadlineExceeded: not within
  /// `timeout`. kInternal: work on the device has failed; the message names the kernel.
  Result<void> wait(Duration timeout) const;
  /// kInternal, as for wait().
  Result<void> check() const;

 private:
  friend class Stream;
  std::shared_ptr<gpu::StreamState> stream_;
  std::uint64_t number_ = 0;
  std::shared_ptr<gpu::EventHandle> handle_;
};

/// An order of work on a GPU: what it is given is done one after the other, beside what other streams have.
/// There is no default one. Every function may be called from any thread, returns at once and reports what is
/// known by then: kInternal for what has failed on the device, kResourceExhausted if the driver has no
/// memory. The destructor waits for nothing: what was given is done.
class Stream {
 public:
  Stream(Stream&&) noexcept = default;
  Stream& operator=(Stream&&) noexcept = default;

  Device device() const;
  /// A cudaStream_t.
  void* native() const;
  /// The point after all that it has been given so far.
  Result<Event> record() const;
  /// The same for the host alone, in half the time: no stream can be made to wait for it.
  Result<Event> point() const;
  /// What it is given from now on begins after `event`, on the device: nobody waits here.
  Result<void> wait_for(const Event& event) const;
  /// Memory of the host must be pinned, or the call takes as long as the copy. The caller keeps both alive.
  Result<void> copy(void* to, const void* from, std::size_t bytes) const;
  Result<void> fill(void* to, std::uint8_t byte, std::size_t bytes) const;
  /// To be called after a kernel has been launched on native(), with what the launch returned (0 is good), so
  /// that a fault is reported with the kernel's name. `kernel` must live for ever. kInternal: it was not
  /// launched.
  Result<void> launched(const char* kernel, int native_error) const;
  /// record() and Event::wait().
  Result<void> finish(Duration timeout) const;

  const std::shared_ptr<gpu::StreamState>& state() const { return state_; }

 private:
  friend class Gpu;
  explicit Stream(std::shared_ptr<gpu::StreamState> state) : state_(std::move(state)) {}
  std::shared_ptr<gpu::StreamState> state_;
};

/// Tells on a loop when events have passed. For some milliseconds after it was asked the loop does not sleep,
/// because devices are mostly done before it would wake again. All methods: loop only.
class EventWatch final : private Source {
 public:
  explicit EventWatch(Loop& loop) : loop_(loop) {}
  ~EventWatch() override;
  EventWatch(const EventWatch&) = delete;
  EventWatch& operator=(const EventWatch&) = delete;

  /// Calls `told` from the loop once `event` has passed, never from here; with kInternal if work on the
  /// device has failed. Those that are left when the watch goes are not called.
  void when_done(Event event, UniqueFunction<void(Result<void>)> told);
  std::size_t waiting() const { return waiting_.size(); }

 private:
  struct Waiting {
    Event event;
    UniqueFunction<void(Result<void>)> told;
  };
  int poll() override;
  bool arm() override;

  Loop& loop_;
  std::vector<Waiting> waiting_;
  TimePoint checked_at_;
  TimePoint asked_at_;
  bool polling_ = false;  // whether the loop has this as a source
};

}  // namespace troupe
