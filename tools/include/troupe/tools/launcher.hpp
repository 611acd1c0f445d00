#pragma once

#include <chrono>
#include <filesystem>
#include <memory>

#include "troupe/tools/job.hpp"

namespace troupe::tools {

/// How long a process may take to end after it was asked to, before SIGKILL. With a sanitizer, which looks
/// for leaks before it lets a process end, longer.
#ifdef TROUPE_SANITIZER
inline constexpr std::chrono::seconds kGrace{60};
#else
inline constexpr std::chrono::seconds kGrace{5};
#endif

struct LaunchOptions {
  std::chrono::milliseconds grace = kGrace;
  bool color = false;   ///< colour the names before the lines
  bool status = false;  ///< keep a line of what runs at the bottom; needs a terminal
  /// At SIGTERM and SIGHUP, and when the main processes have ended: ask role by role to end, the last of the
  /// job first, each with its share of `grace`, so that workers finish while those that they use are there.
  bool in_order = false;
  /// Say nothing while a console process has the screen: not what was started, and how processes ended
  /// only after the console process did, unless that ended well.
  bool quiet = false;
  int out_fd = 1;  ///< where lines of the processes' standard output go
  int err_fd = 2;  ///< where lines of their standard error, and our own messages, go
  /// Where to keep the list of processes (name, role, pid, state) as JSON; empty for nowhere.
  std::filesystem::path job_json;
};

/// Runs the processes of one job on this machine, from start to end.
///
/// One thread; one poll() over signals, process ends and output. Each process leads its own process
/// group, dies with the launcher (even after SIGKILL of it), and takes what it left in its group with it. As
/// process 1, or as a subreaper, it also reaps all other children of this process that end.
class Launcher {
 public:
  Launcher(Job job, LaunchOptions options);
  ~Launcher();
  Launcher(const Launcher&) = delete;
  Launcher& operator=(const Launcher&) = delete;

  /// Starts everything and returns when all of it has ended. The exit code is
  /// - 128 + n when signal n (SIGINT, SIGTERM, SIGHUP) ended the job,
  /// - 1 when a critical process failed, a process could not be started, or our output was closed,
  /// - otherwise that of the first main process that did not end with 0 (128 + n after signal n), or 0.
  /// While it runs, these signals are blocked in the calling thread. To be called once, and from a
  /// thread that outlives the call (the kernel ties the processes to that thread).
  int run();

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace troupe::tools
