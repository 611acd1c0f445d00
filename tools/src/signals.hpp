#pragma once

#include <csignal>

#include <troupe/runtime/unique_fd.hpp>

namespace troupe::tools {

/// While it lives, the signals that steer a job arrive at a descriptor instead of interrupting the
/// calling thread, and a closed output is an error code instead of SIGPIPE.
class SignalWatch {
 public:
  SignalWatch();
  ~SignalWatch();
  SignalWatch(const SignalWatch&) = delete;
  SignalWatch& operator=(const SignalWatch&) = delete;

  int fd() const { return fd_.get(); }
  /// The next signal that has arrived, or 0.
  int next();

 private:
  UniqueFd fd_;
  sigset_t before_{};
  struct sigaction pipe_before_ {
  }, child_before_{};
};

}  // namespace troupe::tools
