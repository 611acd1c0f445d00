#pragma once

#include <sys/types.h>

#include <string>

#include <troupe/runtime/unique_fd.hpp>
#include "troupe/tools/job.hpp"

namespace troupe::tools {

/// A started process: its id, a descriptor that turns readable when it ends, and its output.
struct Child {
  pid_t pid = -1;     ///< also its process group
  UniqueFd ended;     ///< pidfd
  UniqueFd out, err;  ///< non-blocking read ends; not open for the console process
};

/// How a process ended.
struct Ending {
  int code = 0;    ///< exit code, if `signal` is 0
  int signal = 0;  ///< the signal that killed it
  bool well() const { return code == 0 && signal == 0; }
  /// As a shell would say it.
  int exit_code() const { return signal != 0 ? 128 + signal : code; }
};

/// Starts the process as the leader of its own group, to be killed when the calling thread dies. Its
/// standard input is empty; the console process keeps our standard output and error, others get pipes.
/// Returns an errno value, or 0.
int start_child(const Process& process, Child* child);

/// Kills what is left in the group of a process that has ended, and reaps the process.
Ending reap_child(const Child& child);

/// `exited with code 3`, `was killed by SIGKILL (9)`.
std::string describe(const Ending& ending);

}  // namespace troupe::tools
