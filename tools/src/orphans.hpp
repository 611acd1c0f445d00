#pragma once

#include <sys/types.h>

#include <functional>

namespace troupe::tools {

/// As process 1 of a container, or as a subreaper, a launcher gets the children of those who have ended
/// before them. They are to be reaped when they end, or they stay in the table of processes for ever.
class Orphans {
 public:
  Orphans();
  /// Reaps what has ended and is not `ours`; to be called at SIGCHLD, and after one of ours was reaped, for
  /// those behind it cannot be seen before.
  void reap(const std::function<bool(pid_t)>& ours) const;

 private:
  bool adopts_ = false;
};

}  // namespace troupe::tools
