#include "guard.hpp"

#include <fcntl.h>
#include <sys/wait.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>

#include "troupe/tools/job.hpp"

namespace troupe::tools {
namespace {

// Runs in the guard process, which never calls exec: only async-signal-safe functions from here on.
[[noreturn]] void guard_groups(int pipe) {
  setpgid(0, 0);  // Ctrl-C is for the launcher to handle
  sigset_t all;
  sigfillset(&all);
  sigprocmask(SIG_SETMASK, &all, nullptr);
  // Whoever reads the launcher's output waits for its end, not for ours.
  for (int fd = 0; fd < 3; ++fd) close(fd);

  std::array<pid_t, kMaxProcesses> groups{};
  for (;;) {
    pid_t message = 0;
    ssize_t got = read(pipe, &message, sizeof message);
    if (got < 0 && errno == EINTR) continue;
    if (got != sizeof message) break;
    pid_t from = message > 0 ? 0 : -message;
    pid_t to = message > 0 ? message : 0;
    auto* slot = std::find(groups.begin(), groups.end(), from);
    if (slot != groups.end()) *slot = to;
  }
  for (pid_t group : groups) {
    if (group > 0) kill(-group, SIGKILL);
  }
  _exit(0);
}

}  // namespace

int Guard::start() {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return errno;
  UniqueFd read_end(ends[0]);
  pipe_.reset(ends[1]);
  pid_ = fork();
  if (pid_ < 0) return errno;
  if (pid_ == 0) {
    close(pipe_.get());
    guard_groups(read_end.get());
  }
  return 0;
}

Guard::~Guard() {
  pipe_.reset();
  while (pid_ > 0 && waitpid(pid_, nullptr, 0) < 0 && errno == EINTR) {
  }
}

void Guard::tell(pid_t message) const {
  if (pid_ <= 0) return;
  while (write(pipe_.get(), &message, sizeof message) < 0 && errno == EINTR) {
  }
}

}  // namespace troupe::tools
