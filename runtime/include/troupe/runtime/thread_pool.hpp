#pragma once

#include <cstddef>
#include <memory>
#include <vector>

#include <troupe/runtime/clock.hpp>
#include <troupe/runtime/result.hpp>
#include <troupe/runtime/task.hpp>

namespace troupe {

/// Threads for work that takes long, before a bounded queue. A thread is started when there is work and none
/// of those that there are waits for it. Any thread, but for its end.
class ThreadPool {
 public:
  struct Limits {
    std::size_t threads = 4;     ///< at least 1
    std::size_t waiting = 1024;  ///< tasks that may wait while all threads work
  };
  explicit ThreadPool(Limits limits);
  ~ThreadPool();  ///< close() with as much patience as it takes
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  /// Runs `task`, which must not throw, soon. kResourceExhausted: as many wait as may, or no thread can be
  /// started; kCancelled: it is closed. Then `task` is untouched.
  Result<void> run(Task& task);
  std::size_t waiting() const;

  /// Takes no more tasks, waits for those that run, and gives back those that do not run yet. Threads that
  /// are at work when `patience` is over are left to themselves. Idempotent.
  struct Left {
    std::vector<Task> tasks;  ///< never begun
    std::size_t threads = 0;  ///< still at work
  };
  Left close(Duration patience);

 private:
  struct Shared;
  std::shared_ptr<Shared> shared_;  // threads that are left to themselves keep it
};

}  // namespace troupe
