#include "child.hpp"

#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <cerrno>
#include <csignal>
#include <cstring>

// POSIX leaves its declaration to the program.
extern "C" char** environ;  // NOLINT(readability-redundant-declaration)

namespace troupe::tools {
namespace {

struct Pipe {
  UniqueFd read_end, write_end;

  int make() {
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) != 0) return errno;
    read_end.reset(ends[0]);
    write_end.reset(ends[1]);
    return 0;
  }
};

std::vector<char*> pointers(const Words& words) {
  std::vector<char*> list;
  list.reserve(words.size() + 1);
  // execve() takes char* for old programs' sake and changes nothing.
  for (const std::string& word : words) list.push_back(const_cast<char*>(word.c_str()));
  list.push_back(nullptr);
  return list;
}

Words merged_environment(const Environment& added) {
  Words merged;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    std::string name(*entry, std::strcspn(*entry, "="));
    if (!added.contains(name)) merged.emplace_back(*entry);
  }
  for (const auto& [name, value] : added) merged.push_back(name + "=" + value);
  return merged;
}

// Everything that the new process needs between fork and exec, made before the fork: only
// async-signal-safe functions may run in between.
struct Launch {
  const char* program;
  char** argv;
  char** envp;
  int in, out, err;  // -1: keep ours
  bool console;
  pid_t launcher;
  int report;  // where to write errno when something fails
};

int enter(const Launch& launch) {
  setpgid(0, 0);
  // The second look: the launcher may have died before the first line was reached.
  if (prctl(PR_SET_PDEATHSIG, SIGKILL) != 0) return errno;
  if (getppid() != launch.launcher) _exit(127);
  struct sigaction standard {};
  standard.sa_handler = SIG_DFL;
  for (int signal : {SIGPIPE, SIGINT, SIGTERM, SIGHUP, SIGQUIT}) sigaction(signal, &standard, nullptr);
  if (launch.console) {
    // It is not in the terminal's foreground group (Ctrl-C comes through us), yet it may draw there.
    standard.sa_handler = SIG_IGN;
    sigaction(SIGTTOU, &standard, nullptr);
  }
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  if (dup2(launch.in, 0) < 0) return errno;
  if (launch.out >= 0 && dup2(launch.out, 1) < 0) return errno;
  if (launch.err >= 0 && dup2(launch.err, 2) < 0) return errno;
  execve(launch.program, launch.argv, launch.envp);
  return errno;
}

// errno as the child reported it, or 0 once exec has closed the pipe.
int read_report(int fd) {
  int error = 0;
  ssize_t got = 0;
  while ((got = read(fd, &error, sizeof error)) < 0 && errno == EINTR) {
  }
  return got == sizeof error ? error : 0;
}

}  // namespace

int start_child(const Process& process, Child* child) {
  bool console = process.marks.console;
  Pipe out, err, report;
  UniqueFd empty(open("/dev/null", O_RDONLY | O_CLOEXEC));
  if (!empty) return errno;
  if (int error = report.make()) return error;
  if (!console) {
    if (int error = out.make()) return error;
    if (int error = err.make()) return error;
    for (const Pipe* pipe : {&out, &err}) fcntl(pipe->read_end.get(), F_SETFL, O_NONBLOCK);
  }
  Words environment = merged_environment(process.env);
  std::vector<char*> argv = pointers(process.command);
  std::vector<char*> envp = pointers(environment);
  Launch launch{process.program.c_str(), argv.data(), envp.data(), empty.get(),           out.write_end.get(),
                err.write_end.get(),     console,     getpid(),    report.write_end.get()};

  // Signals stay blocked in the child until its handlers are reset: a Ctrl-C now must not be lost.
  pid_t pid = fork();
  if (pid < 0) return errno;
  if (pid == 0) {
    int error = enter(launch);
    ssize_t ignored = write(launch.report, &error, sizeof error);
    (void)ignored;
    _exit(127);
  }
  setpgid(pid, pid);  // in both processes: whoever is first, the group exists when we go on
  report.write_end.reset();
  if (int error = read_report(report.read_end.get())) {
    waitpid(pid, nullptr, 0);
    return error;
  }
  child->pid = pid;
  // Debian 12's <sys/pidfd.h> cannot be linked from C++ (it lacks extern "C").
  child->ended.reset(static_cast<int>(syscall(SYS_pidfd_open, pid, 0)));
  child->out = std::move(out.read_end);
  child->err = std::move(err.read_end);
  if (child->ended) return 0;
  int error = errno;
  kill(-pid, SIGKILL);
  waitpid(pid, nullptr, 0);
  return error;
}

Ending reap_child(const Child& child) {
  kill(-child.pid, SIGKILL);  // before reaping: the number is ours until then
  siginfo_t info{};
  while (waitid(P_PID, static_cast<id_t>(child.pid), &info, WEXITED) != 0 && errno == EINTR) {
  }
  Ending ending;
  if (info.si_code == CLD_EXITED) {
    ending.code = info.si_status;
  } else {
    ending.signal = info.si_status;
  }
  return ending;
}

std::string describe(const Ending& ending) {
  if (ending.signal == 0) return "exited with code " + std::to_string(ending.code);
  const char* name = sigabbrev_np(ending.signal);
  return "was killed by " + (name ? "SIG" + std::string(name) : "signal") + " (" +
         std::to_string(ending.signal) + ")";
}

}  // namespace troupe::tools
