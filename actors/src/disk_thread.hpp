#pragma once

#include <condition_variable>
#include <deque>
#include <mutex>
#include <thread>

#include <troupe/runtime/process.hpp>
#include <troupe/runtime/task.hpp>

namespace troupe {

/// A thread for what would hold up a loop: files, and memory that takes long to fill. Runs its tasks one
/// after the other; those that were not begun when it ends are dropped. Tasks must not throw.
class DiskThread {
 public:
  DiskThread() = default;
  DiskThread(const DiskThread&) = delete;
  DiskThread& operator=(const DiskThread&) = delete;
  /// Waits for the task that runs.
  ~DiskThread();
  /// Any thread. The thread is started with the first task; if none is to be had, the task runs here and now.
  void post(Task task);

 private:
  void run();

  const HomeProcess process_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Task> tasks_;
  bool ending_ = false;
  std::thread thread_;
};

}  // namespace troupe
