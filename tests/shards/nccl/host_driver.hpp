#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <new>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "fake_nccl.hpp"
#include "gpu/driver.hpp"

namespace troupe::test {

/// A device whose memory is the host's and whose streams are threads. Any thread.
class HostDriver final : public gpu::Driver {
 public:
  explicit HostDriver(int ordinal) : ordinal_(ordinal) {}
  ~HostDriver() override {
    for (const auto& stream : streams_) stream->close();
    for (const auto& stream : streams_) stream->thread.join();
    for (std::byte* each : memory_) ::operator delete (each, std::align_val_t{kAlignment});
  }

  /// From now on it tells this.
  void fail(Error why) {
    const std::lock_guard lock(mutex_);
    broken_ = std::move(why);
  }

  /// There is no memory for the next event that is recorded.
  void run_out_once() { runs_out_ = true; }

  Device device() const override { return {MemoryKind::kDevice, ordinal_}; }
  Result<std::byte*> allocate(MemoryKind, std::size_t bytes) override {
    auto* const memory = static_cast<std::byte*>(::operator new (bytes, std::align_val_t{kAlignment}));
    const std::lock_guard lock(mutex_);
    memory_.push_back(memory);
    return memory;
  }
  void free(MemoryKind, std::byte*) override {}  // at the end: what is used after it is wrong is seen by none
  Result<void*> make_stream() override {
    auto stream = std::make_unique<Stream>();
    FakeStream* const made = stream.get();
    const std::lock_guard lock(mutex_);
    streams_.push_back(std::move(stream));
    return static_cast<void*>(made);
  }
  void drop_stream(void*) override {}
  Result<void*> make_event() override { return static_cast<void*>(new Event); }
  void drop_event(void* event) override { delete static_cast<Event*>(event); }
  Result<void> record(void* event, void* stream) override {
    if (runs_out_.exchange(false)) throw std::bad_alloc();
    auto passed = std::make_shared<std::atomic<bool>>(false);
    static_cast<Event*>(event)->passed = passed;
    return give(stream, [passed] { *passed = true; });
  }
  Result<void> wait(void* stream, void* event) override {
    return give(stream, [passed = static_cast<Event*>(event)->passed] {
      while (!*passed) std::this_thread::sleep_for(std::chrono::microseconds(20));
    });
  }
  Result<void> write(void* stream, gpu::Word* word, std::uint64_t value) override {
    return give(stream, [word, value] { word->store(value); });
  }
  Result<void> copy(void* stream, void* to, const void* from, std::size_t bytes) override {
    return give(stream, [=] { std::memcpy(to, from, bytes); });
  }
  Result<void> fill(void* stream, void* to, std::uint8_t byte, std::size_t bytes) override {
    return give(stream, [=] { std::memset(to, byte, bytes); });
  }
  Result<void> check(void*) override {
    const std::lock_guard lock(mutex_);
    if (broken_) return *broken_;
    return {};
  }
  Error error_of(int native_error) override {
    return {Code::kInternal, "error " + std::to_string(native_error)};
  }

  /// Has a stream do `task`, which may take its time.
  static Result<void> give(void* stream, std::function<void()> task) {
    static_cast<Stream*>(static_cast<FakeStream*>(stream))->add(std::move(task));
    return {};
  }

 private:
  static constexpr std::size_t kAlignment = 4096;
  struct Event {
    std::shared_ptr<std::atomic<bool>> passed = std::make_shared<std::atomic<bool>>(true);
  };
  struct Stream : FakeStream {
    Stream() {
      FakeStream::give = [](FakeStream* stream, void (*task)(void*), void* argument) {
        static_cast<Stream*>(stream)->add([task, argument] { task(argument); });
      };
      thread = std::thread([this] { run(); });
    }
    void add(std::function<void()> task) {
      const std::lock_guard lock(mutex);
      tasks.push_back(std::move(task));
      changed.notify_all();
    }
    void close() {
      const std::lock_guard lock(mutex);
      closed = true;
      changed.notify_all();
    }
    void run() {
      std::unique_lock lock(mutex);
      for (;;) {
        changed.wait(lock, [&] { return closed || !tasks.empty(); });
        if (tasks.empty()) return;
        const auto task = std::move(tasks.front());
        tasks.pop_front();
        lock.unlock();
        task();
        lock.lock();
      }
    }
    std::mutex mutex;
    std::condition_variable changed;
    std::deque<std::function<void()>> tasks;
    bool closed = false;
    std::thread thread;
  };

  const int ordinal_;
  std::atomic<bool> runs_out_{false};
  std::mutex mutex_;
  std::optional<Error> broken_;
  std::vector<std::byte*> memory_;
  std::vector<std::unique_ptr<Stream>> streams_;
};

}  // namespace troupe::test
