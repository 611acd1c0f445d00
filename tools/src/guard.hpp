#pragma once

#include <sys/types.h>

#include <troupe/runtime/unique_fd.hpp>

namespace troupe::tools {

/// A small process that outlives the launcher, should that be killed, just long enough to kill the
/// process groups it had started. The kernel's parent-death signal reaches the direct children only;
/// this reaches what they started in turn.
///
/// It learns the groups, and the launcher's death, through one pipe. Its own kind of death is harmless:
/// the launcher carries on without it.
class Guard {
 public:
  /// Forks the guard process. Returns an errno value, or 0.
  int start();
  ~Guard();

  /// A process group leader was started.
  void add(pid_t group) const { tell(group); }
  /// The group is over. To be called before the leader is reaped: until then no other process can have
  /// its number.
  void remove(pid_t group) const { tell(-group); }
  /// Of the guard process; not positive: there is none.
  pid_t pid() const { return pid_; }
  /// It has ended, and was reaped.
  void gone() { pid_ = -1; }

 private:
  void tell(pid_t message) const;

  UniqueFd pipe_;
  pid_t pid_ = -1;
};

}  // namespace troupe::tools
