#pragma once

#include <cstddef>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <new>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "gpu/driver.hpp"

namespace troupe::test {

/// A device whose streams go on when a test says so. One thread.
class ScriptedDriver final : public gpu::Driver {
 public:
  /// What a test sees and says; outlives the driver.
  struct Script {
    std::size_t memory_bytes = std::size_t{1} << 30;  ///< of the device
    std::size_t bytes_allocated = 0;                  ///< likewise
    int allocations = 0;
    std::vector<MemoryKind> freed;
    int streams = 0;  ///< that are there
    int events = 0;
    int waits = 0;                ///< of streams for events
    std::optional<Error> broken;  ///< everything answers so
    bool goes_on = false;  ///< whoever asks how it stands makes it go on: for what waits for the device
    std::vector<std::deque<std::function<bool()>>*> queues;
    bool at_once = false;  ///< streams do what they are given before the call returns
    bool can_pin = true;
    std::set<std::byte*> pinned;
    // Other processes' memory is that of drivers with the same script. Any thread.
    std::mutex shared;
    std::map<std::byte*, std::size_t> device_memory;
    std::optional<Error> unreachable;  ///< what is not mapped says so
    int exported = 0, opened = 0, closed = 0;

    /// Does what can be done in all streams; false from a task: it waits for another stream.
    void run_all() {
      for (bool moved = true; moved;) {
        moved = false;
        for (auto* queue : queues) moved = run(*queue) || moved;
      }
    }
    static bool run(std::deque<std::function<bool()>>& queue) {
      bool moved = false;
      while (!queue.empty() && queue.front()()) {
        queue.pop_front();
        moved = true;
      }
      return moved;
    }
  };

  explicit ScriptedDriver(std::shared_ptr<Script> script, std::int32_t ordinal = 3)
      : script_(std::move(script)), ordinal_(ordinal) {}
  ~ScriptedDriver() override {
    for (std::byte* each : memory_) ::operator delete (each, std::align_val_t{kAlignment});
    for (Stream* each : streams_) delete each;
  }

  Device device() const override { return {MemoryKind::kDevice, ordinal_}; }
  Result<std::byte*> allocate(MemoryKind kind, std::size_t bytes) override {
    if (script_->broken) return *script_->broken;
    if (kind == MemoryKind::kDevice) {
      if (bytes > script_->memory_bytes - script_->bytes_allocated)
        return Error{Code::kResourceExhausted, "the device has no " + std::to_string(bytes) + " bytes"};
      script_->bytes_allocated += bytes;
      ++script_->allocations;
    }
    auto* const memory = static_cast<std::byte*>(::operator new (bytes, std::align_val_t{kAlignment}));
    memory_.insert(memory);
    if (kind == MemoryKind::kDevice) {
      const std::lock_guard lock(script_->shared);
      script_->device_memory[memory] = bytes;
    }
    return memory;
  }
  void free(MemoryKind kind, std::byte* memory) override {
    memory_.erase(memory);
    {
      const std::lock_guard lock(script_->shared);
      script_->device_memory.erase(memory);
    }
    script_->freed.push_back(kind);
    ::operator delete (memory, std::align_val_t{kAlignment});
  }

  Result<void*> make_stream() override {
    auto* const stream = new Stream;
    streams_.push_back(stream);
    script_->queues.push_back(&stream->queue);
    ++script_->streams;
    return static_cast<void*>(stream);
  }
  // What it was given goes on, as on a device.
  void drop_stream(void*) override { --script_->streams; }
  Result<void*> make_event() override {
    ++script_->events;
    return static_cast<void*>(new Recorded);
  }
  void drop_event(void* event) override {
    --script_->events;
    delete static_cast<Recorded*>(event);
  }
  Result<void> record(void* event, void* stream) override {
    // A later record makes it another event: those who wait for this one keep it.
    auto passed = std::make_shared<bool>(false);
    static_cast<Recorded*>(event)->passed = passed;
    return give(stream, [passed] { return *passed = true; });
  }
  Result<void> wait(void* stream, void* event) override {
    ++script_->waits;
    return give(stream, [passed = static_cast<Recorded*>(event)->passed] { return *passed; });
  }
  Result<void> write(void* stream, gpu::Word* word, std::uint64_t value) override {
    return give(stream, [word, value] { return word->store(value), true; });
  }
  Result<void> copy(void* stream, void* to, const void* from, std::size_t bytes) override {
    return give(stream, [=] { return std::memcpy(to, from, bytes), true; });
  }
  Result<void> fill(void* stream, void* to, std::uint8_t byte, std::size_t bytes) override {
    return give(stream, [=] { return std::memset(to, byte, bytes), true; });
  }
  Result<void> check(void*) override {
    if (script_->broken) return *script_->broken;
    if (script_->goes_on) script_->run_all();
    return {};
  }
  /// Another thing that a stream does when it gets there.
  static void give_to(void* stream, std::function<void()> work) {
    static_cast<Stream*>(stream)->queue.push_back([work = std::move(work)] { return work(), true; });
  }
  Error error_of(int native_error) override {
    return {Code::kInternal, "error " + std::to_string(native_error)};
  }
  std::array<std::byte, 16> uuid() const override { return {static_cast<std::byte>(ordinal_ + 1)}; }
  Result<gpu::IpcHandle> ipc_export(std::byte* memory) override {
    const std::lock_guard lock(script_->shared);
    ++script_->exported;
    gpu::IpcHandle handle{};
    std::memcpy(handle.data(), &memory, sizeof memory);
    return handle;
  }
  Result<std::pair<std::byte*, std::size_t>> ipc_open(const gpu::IpcHandle& handle) override {
    const std::lock_guard lock(script_->shared);
    if (script_->unreachable) return *script_->unreachable;
    std::byte* memory = nullptr;
    std::memcpy(&memory, handle.data(), sizeof memory);
    const auto found = script_->device_memory.find(memory);
    if (found == script_->device_memory.end())
      return Error{Code::kUnavailable, "the handle is of no memory that is there"};
    ++script_->opened;
    return std::pair(memory, found->second);
  }
  void ipc_close(std::byte*) override {
    const std::lock_guard lock(script_->shared);
    ++script_->closed;
  }
  Result<void> pin(std::byte* memory, std::size_t, bool) override {
    if (!script_->can_pin) return Error{Code::kInternal, "it cannot be locked"};
    script_->pinned.insert(memory);
    return {};
  }
  void unpin(std::byte* memory) override { script_->pinned.erase(memory); }

 private:
  static constexpr std::size_t kAlignment = 4096;
  struct Stream {
    std::deque<std::function<bool()>> queue;
  };
  struct Recorded {
    std::shared_ptr<bool> passed = std::make_shared<bool>(true);
  };

  Result<void> give(void* stream, std::function<bool()> task) {
    if (script_->broken) return *script_->broken;
    static_cast<Stream*>(stream)->queue.push_back(std::move(task));
    if (script_->at_once) script_->run_all();
    return {};
  }

  const std::shared_ptr<Script> script_;
  const std::int32_t ordinal_;
  std::set<std::byte*> memory_;
  std::vector<Stream*> streams_;
};

}  // namespace troupe::test
