#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <utility>

#include <troupe/runtime/buffer.hpp>
#include <troupe/runtime/result.hpp>

namespace troupe::gpu {

/// Written by the device, read by the host: how far a stream has come.
using Word = std::atomic<std::uint64_t>;

/// A device allocation, as another process of the machine finds it.
using IpcHandle = std::array<std::byte, 64>;

/// What the rest of this folder needs of a device: CUDA's (src/cuda), or a test's, whose streams go on when
/// it says so. Streams and events are whatever the driver makes them. Any thread. kResourceExhausted where
/// memory ran out, which leaves the device as it was; kInternal for anything else, which may be for good.
class Driver {
 public:
  virtual ~Driver() = default;
  virtual Device device() const = 0;
  virtual Result<std::byte*> allocate(MemoryKind kind, std::size_t bytes) = 0;
  /// May wait for the device.
  virtual void free(MemoryKind kind, std::byte* memory) = 0;
  virtual Result<void*> make_stream() = 0;
  virtual void drop_stream(void* stream) = 0;
  virtual Result<void*> make_event() = 0;
  virtual void drop_event(void* event) = 0;
  virtual Result<void> record(void* event, void* stream) = 0;
  virtual Result<void> wait(void* stream, void* event) = 0;
  /// The device writes `value` when it gets there.
  virtual Result<void> write(void* stream, Word* word, std::uint64_t value) = 0;
  virtual Result<void> copy(void* stream, void* to, const void* from, std::size_t bytes) = 0;
  virtual Result<void> fill(void* stream, void* to, std::uint8_t byte, std::size_t bytes) = 0;
  /// What has gone wrong by now, without waiting.
  virtual Result<void> check(void* stream) = 0;
  /// Makes it the calling thread's device, for libraries that look at that; leave() takes what it returns.
  virtual int enter() { return 0; }
  virtual void leave(int /*before*/) {}
  /// The error of a launch's number.
  virtual Error error_of(int native_error) = 0;

  /// Which device it is, the same in every process; zeros: nobody knows.
  virtual std::array<std::byte, 16> uuid() const { return {}; }
  /// Of memory that allocate() has given.
  virtual Result<IpcHandle> ipc_export(std::byte*) { return cannot_share(); }
  /// Maps another process's memory, of whichever device that this one reaches, and says how long it is. Takes
  /// milliseconds. kUnavailable: it cannot be mapped.
  virtual Result<std::pair<std::byte*, std::size_t>> ipc_open(const IpcHandle&) { return cannot_share(); }
  /// May wait for the device.
  virtual void ipc_close(std::byte*) {}
  /// Locks host memory, page by page, for the copy engines; takes milliseconds.
  virtual Result<void> pin(std::byte*, std::size_t, bool /*read_only*/) { return cannot_share(); }
  /// May wait for the device.
  virtual void unpin(std::byte*) {}

 private:
  static Error cannot_share() { return {Code::kUnimplemented, "this driver shares no memory"}; }
};

}  // namespace troupe::gpu
