#pragma once

#include <chrono>
#include <memory>

#include <troupe/runtime/clock.hpp>
#include <troupe/runtime/process.hpp>
#include <troupe/runtime/task.hpp>

namespace troupe {

/// A thread for what would hold up a loop: files, and memory that takes long to fill. Runs its tasks one
/// after the other; those that were not begun when it ends are dropped. Tasks must not throw.
class DiskThread {
 public:
  /// So long is waited at its end for the task that runs: a loop may be who waits.
  static constexpr Duration kPatience = std::chrono::milliseconds(400);

  DiskThread();
  DiskThread(const DiskThread&) = delete;
  DiskThread& operator=(const DiskThread&) = delete;
  /// Waits for the task that runs, but not for ever: a disk may not answer. It then goes on by itself, with a
  /// thread that nobody has any more, and whatever it uses has to be its own.
  ~DiskThread();
  /// Any thread. The thread is started with the first task; if none is to be had, the task runs here and now.
  void post(Task task);

 private:
  struct State;
  static void run(State& state);

  const HomeProcess process_;
  std::shared_ptr<State> state_;
};

}  // namespace troupe
