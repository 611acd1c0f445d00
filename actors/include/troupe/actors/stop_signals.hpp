#pragma once

#include <chrono>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <thread>

namespace troupe {

/// SIGINT and SIGTERM as a function call on a thread of its own. To be made before any other thread, so that
/// all threads have the signals blocked.
class StopSignals {
 public:
  StopSignals();
  ~StopSignals();
  StopSignals(const StopSignals&) = delete;
  StopSignals& operator=(const StopSignals&) = delete;

  /// Calls `handler(signal)` at each of the signals from now on. Once.
  void start(std::function<void(int)> handler);
  /// No call of the handler is under way after this, nor comes any more.
  void stop();
  /// For the handler: waits until stop() is called or this object is destroyed, that is, until the process
  /// ends by itself; false if it has not by then.
  bool ends_within(std::chrono::milliseconds patience);

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool ending_ = false;  // under mutex_
  std::thread thread_;
};

}  // namespace troupe
