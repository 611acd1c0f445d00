#pragma once

#include <chrono>
#include <cstddef>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <troupe/kernels/place.hpp>
#include <troupe/shards/device_store.hpp>

namespace troupe::shards {

/// So long a loop waits for a device that has not failed: less than others wait for a sign of its process.
inline constexpr Duration kPatience = std::chrono::seconds(10);

/// What is read, on its way: done when its event has passed and what lay in pinned memory has been copied.
class DeviceReading final : public Completion::Pending, public std::enable_shared_from_this<DeviceReading> {
 public:
  /// `watch` is that of the store, which is there as long as somebody may want to be told.
  explicit DeviceReading(EventWatch* watch) : watch_(watch) {}

  /// The device writes to `from`; it is to go to `to`.
  void copy_later(Buffer from, void* to);
  /// All has been given to the device.
  void ends_with(Event event) { event_ = std::move(event); }
  /// Asked once when that has passed: what comes after it, before all is done.
  using AndThen = UniqueFunction<Result<Event>()>;
  void ends_then_with(AndThen then) { then_ = std::move(then); }

  bool done() override;
  Result<void> wait(Duration timeout) override;
  void when_done(UniqueFunction<void(Result<void>)> told) override;

 private:
  struct Copy {
    Buffer from;
    void* to;
  };
  void copy_now();
  /// Whether nothing comes after what has passed.
  bool goes_no_further();

  EventWatch* watch_;
  Event event_;
  AndThen then_;
  Result<void> outcome_;
  std::vector<Copy> copies_;
};

/// A stream with what it needs to be given work: kernels, and memory of the host that is copied from.
class DeviceWork {
 public:
  /// `staging_bytes`: the most that stage() is asked for.
  static Result<DeviceWork> create(const DeviceHome& home, std::size_t staging_bytes);

  const Stream& stream() const { return stream_; }
  const DeviceHome& home() const { return home_; }

  Result<Buffer> device_memory(std::size_t bytes) const { return home_.memory->allocate(bytes, stream_); }
  /// To be written by the device; by the host only when the stream has passed all that it had been given
  /// before: finish().
  Result<Buffer> pinned_memory(std::size_t bytes) const { return home_.pinned->allocate(bytes, stream_); }

  /// Gives `kernel`, a function of a Place that returns a Launch, to the stream. What it captures is used
  /// later where there is no GPU.
  /// One that is refused leaves what came before it done: nothing can be given from then on.
  template <class Kernel>
  Result<void> launch(Kernel kernel) const {
    if (broken_) return *broken_;
    if (home_.on_host) {
      home_.on_host(stream_, [kernel]() mutable { (void)kernel(kernels::Place::host()); });
      return {};
    }
    const kernels::Launch launched = kernel(kernels::Place::gpu(stream_.native(), stream_.device().ordinal));
    if (!launched.ok()) {
      auto refused = stream_.launched(launched.kernel ? launched.kernel : "a step", launched.error);
      if (!refused) break_off(refused.error());
      return refused;
    }
    given_ = launched.kernel;  // told once for all until the next seal(): telling costs as much as a launch
    return {};
  }
  Result<void> copy(void* to, const void* from, std::size_t bytes) const {
    return stream_.copy(to, from, bytes);
  }

  /// Something was done by halves: every later call answers kInternal, saying why.
  void break_off(const Error& why) const {
    if (!broken_)
      broken_ = Error{Code::kInternal, "work on the device was broken off half-way: " + why.message};
  }
  /// Pinned memory to be written at once, and copied from until the next seal().
  Result<std::byte*> stage();
  /// The point after all so far, for the host alone.
  Result<Event> seal();
  /// What `other`, if there is one, had been given before comes before what is given from now on; and what it
  /// is given from now on after all so far.
  Result<void> begin_after(const Stream* other) const;
  Result<void> end_before(const Stream* other);
  /// Waits for all so far.
  Result<void> finish();

 private:
  struct Staging {
    Buffer memory;
    Event free_after;
  };
  DeviceWork(const DeviceHome& home, Stream stream) : home_(home), stream_(std::move(stream)) {}

  DeviceHome home_;
  Stream stream_;
  std::vector<Staging> staging_;
  std::size_t next_ = 0;  // of staging_
  bool open_ = false;     // staging_[next_] is in use, with no event yet
  mutable std::optional<Error> broken_;
  mutable const char* given_ = nullptr;  // the last kernel of which the stream has not been told
};

}  // namespace troupe::shards
