#pragma once

#include <sys/epoll.h>

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <functional>
#include <span>
#include <thread>
#include <unordered_map>

#include <troupe/runtime/loop.hpp>

#include "held_back.hpp"

namespace troupe {

/// For a time that has passed, whatever is compared with it.
constexpr TimePoint kLongAgo{-1'000'000'000'000};

/// Tells the processor that this thread waits for another one.
inline void spin_pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("isb" : : : "memory");  // "yield" does nothing on most
#endif
}

/// Tasks from other threads: a lock-free stack, taken as a whole by the driver, which reverses it.
/// Its operations are sequentially consistent: see the proof at Loop::post().
struct Loop::Inbox {
  struct Node {
    Task task;
    Node* next = nullptr;
  };

  ~Inbox();
  void push(Task task);
  bool empty() const { return head.load() == nullptr; }
  /// Appends all tasks to `ready`, oldest first.
  void take_all(std::deque<Task>& ready);

  std::atomic<Node*> head{nullptr};
};

/// The epoll set of a loop, with an eventfd by which other threads end a sleep in it, and what the loop's
/// sources hold back.
struct Loop::Poller {
  struct Watched {
    FdHandler* handler = nullptr;
    std::uint32_t events = 0;
    std::uint32_t generation = 0;  // tells a descriptor from an earlier one of the same number
  };
  static constexpr std::uint64_t kKick = UINT64_MAX;
  static constexpr std::uint64_t kSource = UINT64_MAX - 1;

  Poller();
  ~Poller();
  Poller(const Poller&) = delete;
  Poller& operator=(const Poller&) = delete;

  /// Any thread: makes the present or next wait() return at once.
  void kick();
  /// Waits for events (0: does not); negative: without bound. Returns those of watched descriptors, in
  /// `events`. Needs no turn.
  int wait(std::span<epoll_event> events, Duration timeout);
  /// Calls the handlers of what wait() returned. With the turn of `loop`, which is told of what they throw.
  int dispatch(std::span<const epoll_event> events, Loop& loop);

  int epoll_fd = -1;
  int kick_fd = -1;
  std::atomic<bool> kicked{false};  // the eventfd has been written and not yet read
  std::unordered_map<int, Watched> watched;
  std::uint32_t next_generation = 0;
  HeldBack held;
};

/// A thread that waits without wanting the turn. Lies on that thread's stack; guarded by told_mutex_.
struct Loop::Told {
  const std::function<bool()>* done = nullptr;
  bool is_done = false;
  std::exception_ptr failed = {};  // what `done` threw
  std::condition_variable wake = {};
};

/// A thread that waits for the turn. Lies on that thread's stack.
struct Loop::Waiter {
  /// What it waits for; whoever drives may ask instead of it. Null: it needs the turn itself, at once.
  const std::function<bool()>* done = nullptr;
  /// It must have the turn when it goes on, because it waits inside a handler.
  bool nested = false;
  std::thread::id thread = std::this_thread::get_id();
  std::atomic<Wait> state{Wait::kWaiting};
  bool blocked = false;  // on `wake`; guarded by turn_, as `done` is while others see it
  std::condition_variable wake = {};
  std::exception_ptr failed = {};  // what `done` threw when another thread asked it

  /// With turn_ locked. The waiter may be gone when this returns.
  void finish(Wait outcome) {
    if (blocked) wake.notify_one();
    state.store(outcome, std::memory_order_release);
  }
};

}  // namespace troupe
