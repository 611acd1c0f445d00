#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <troupe/runtime/gpu_sharing.hpp>
#include <troupe/runtime/gpu_usage.hpp>
#include <troupe/runtime/stream.hpp>

#include "driver.hpp"

namespace troupe::gpu {

/// How far a stream must have come. Words outlive everything but the State.
struct Point {
  const Word* word;
  std::uint64_t number;
  bool passed() const { return word->load(std::memory_order_acquire) >= number; }
};

/// The same, of a stream that can be waited for.
struct Mark {
  std::shared_ptr<StreamState> stream;
  std::uint64_t number = 0;
  Point point() const;
  bool passed() const { return point().passed(); }
};

/// A device's event, used again when the last Event on it has gone.
class EventHandle {
 public:
  EventHandle(std::shared_ptr<State> gpu, void* native) : gpu_(std::move(gpu)), native_(native) {}
  ~EventHandle();
  EventHandle(const EventHandle&) = delete;
  EventHandle& operator=(const EventHandle&) = delete;
  void* native() const { return native_; }

 private:
  std::shared_ptr<State> gpu_;
  void* native_;
};

/// How other processes know a slab: by a number that is never another's, and its handle, which is made when
/// it is first asked for.
class SlabExport {
 public:
  std::uint64_t id() const { return id_; }
  Result<IpcHandle> handle(Driver& driver, std::byte* slab);
  /// Whether others may know it.
  bool is_known() {
    const std::lock_guard lock(mutex_);
    return handle_.has_value();
  }

 private:
  static std::uint64_t random_id();
  const std::uint64_t id_ = random_id();
  std::mutex mutex_;
  std::optional<IpcHandle> handle_;
};

/// Memory of a pool that is gone, and when it can be used.
struct IdleSlab {
  MemoryKind kind;
  std::byte* data;
  std::size_t bytes;
  std::vector<Point> busy;
  std::shared_ptr<SlabExport> exported = {};
};

/// How often kernels were launched, by their names.
using KernelCounts = std::map<std::string_view, std::uint64_t>;

/// What a Gpu is.
class State : public std::enable_shared_from_this<State> {
 public:
  explicit State(std::unique_ptr<Driver> driver) : driver_(std::move(driver)) {}
  ~State();
  State(const State&) = delete;
  State& operator=(const State&) = delete;

  Driver& driver() { return *driver_; }
  Result<std::shared_ptr<StreamState>> make_stream(void* adopted);
  Result<std::shared_ptr<EventHandle>> event();
  void keep_event(void* native);
  /// A word for a new stream, with the number that it stands at; and back, with the last number asked for.
  Result<std::pair<Word*, std::uint64_t>> word();
  void keep_word(Word* word, std::uint64_t last);
  void keep_counts(const KernelCounts& kernels);

  /// `release` is called when `busy` have passed.
  void release_after(std::vector<Point> busy, std::function<void()> release);
  /// Calls what may be called now, which may be anything: not with a lock held.
  void collect();
  void keep_slab(IdleSlab slab);
  /// One of at least so many bytes that has passed; null data: there is none.
  IdleSlab take_slab(MemoryKind kind, std::size_t bytes);
  std::size_t free_slabs();
  /// Of the driver, for slabs, which free_slabs() gives back.
  Result<std::byte*> allocate_slab(MemoryKind kind, std::size_t bytes);
  GpuUsage usage();
  void watch_freed(std::weak_ptr<const SlabsFreed> told);

  /// What has failed, if anything: asked of `stream`, and the same answer to all from then on.
  Result<void> check(void* stream);
  Result<void> check_any();
  /// Whether something is known to have failed.
  std::optional<Error> failed() const;

 private:
  struct Lent {
    std::vector<Point> busy;
    std::function<void()> release;
  };
  std::string under_way();
  void tell_freed(const std::vector<std::uint64_t>& ids);

  const std::unique_ptr<Driver> driver_;
  mutable std::mutex mutex_;
  std::vector<std::weak_ptr<StreamState>> streams_;
  std::vector<void*> events_;
  std::vector<std::pair<Word*, std::uint64_t>> words_;
  std::vector<Lent> lent_;
  GpuUsage held_;         // with no kernels
  KernelCounts kernels_;  // of streams that have gone
  std::vector<IdleSlab> slabs_;
  std::vector<std::weak_ptr<const SlabsFreed>> watch_freed_;
  std::optional<Error> failed_;
};

/// What a Stream is.
class StreamState : public std::enable_shared_from_this<StreamState> {
 public:
  StreamState(std::shared_ptr<State> gpu, void* native, bool adopted, Word* word, std::uint64_t begin)
      : gpu_(std::move(gpu)), native_(native), adopted_(adopted), word_(word), given_(begin) {}
  ~StreamState();
  StreamState(const StreamState&) = delete;
  StreamState& operator=(const StreamState&) = delete;

  State& gpu() const { return *gpu_; }
  void* native() const { return native_; }
  Point point(std::uint64_t number) const { return {word_, number}; }
  bool passed(std::uint64_t number) const { return point(number).passed(); }
  /// The point after what it has been given.
  Result<Mark> mark();
  Result<void> launched(const char* kernel, int native_error);
  KernelCounts kernels() {
    const std::lock_guard lock(mutex_);
    return counts_;
  }
  /// The first kernel that has not passed; null: none.
  const char* under_way();
  Result<void> check() { return gpu_->check(native_); }

 private:
  Result<std::uint64_t> next_number(const char* kernel);

  const std::shared_ptr<State> gpu_;
  void* const native_;
  const bool adopted_;
  Word* const word_;
  std::mutex mutex_;  // numbers are written in order
  std::uint64_t given_;
  std::deque<std::pair<std::uint64_t, const char*>> kernels_;  // that may not have passed
  KernelCounts counts_;
};

inline Point Mark::point() const {
  return stream->point(number);
}

/// Marks or Points.
template <class Marks>
bool all_passed(const Marks& marks) {
  for (const auto& mark : marks)
    if (!mark.passed()) return false;
  return true;
}

}  // namespace troupe::gpu
