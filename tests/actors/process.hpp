#pragma once

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include "cluster.hpp"

extern char** environ;

namespace troupe::test {

/// A child process with its input and output in pipes. Killed, if it still runs, and reaped at the end.
class Process {
 public:
  explicit Process(std::vector<std::string> command) {
    int in[2];
    int out[2];
    REQUIRE(pipe2(in, O_CLOEXEC) == 0);
    REQUIRE(pipe2(out, O_CLOEXEC) == 0);
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, in[0], 0);
    posix_spawn_file_actions_adddup2(&actions, out[1], 1);
    std::vector<char*> arguments;
    arguments.reserve(command.size() + 1);
    for (std::string& word : command) arguments.push_back(word.data());
    arguments.push_back(nullptr);
    const int failed = posix_spawnp(&pid_, arguments[0], &actions, nullptr, arguments.data(), environ);
    posix_spawn_file_actions_destroy(&actions);
    close(in[0]);
    close(out[1]);
    in_ = in[1];
    out_ = out[0];
    REQUIRE(failed == 0);
  }
  ~Process() {
    kill();
    close(out_);
  }
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;

  void tell(const std::string& line) {
    const std::string text = line + "\n";
    REQUIRE(write(in_, text.data(), text.size()) == static_cast<ssize_t>(text.size()));
  }
  /// The next line of its output; empty if it has ended or said nothing in time.
  std::string line() {
    const auto deadline = std::chrono::steady_clock::now() + kPatience;
    for (;;) {
      if (const auto end = read_.find('\n'); end != std::string::npos) {
        std::string first = read_.substr(0, end);
        read_.erase(0, end + 1);
        return first;
      }
      const auto left =
          std::chrono::duration_cast<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now());
      pollfd waited{out_, POLLIN, 0};
      if (left.count() <= 0 || poll(&waited, 1, static_cast<int>(left.count())) != 1) return "";
      char bytes[4096];
      const ssize_t got = read(out_, bytes, sizeof bytes);
      if (got <= 0) return "";
      read_.append(bytes, static_cast<std::size_t>(got));
    }
  }
  void signal(int number) const { ::kill(pid_, number); }
  /// Stops it, and waits until it stands still: the signal alone leaves its threads running for a while.
  void stop() const {
    signal(SIGSTOP);
    int status = 0;
    REQUIRE(waitpid(pid_, &status, WUNTRACED) == pid_);
    REQUIRE(WIFSTOPPED(status));
  }
  bool runs() const {
    siginfo_t ended{};
    return waitid(P_PID, static_cast<id_t>(pid_), &ended, WEXITED | WNOHANG | WNOWAIT) == 0 &&
           ended.si_pid == 0;
  }
  void kill() {
    if (pid_ == 0) return;
    signal(SIGKILL);
    end();
  }
  /// Ends its input, waits for it and returns its exit status; -1 if a signal ended it.
  int end() {
    close(in_);
    int status = 0;
    waitpid(pid_, &status, 0);
    pid_ = 0;
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  }

 private:
  pid_t pid_ = 0;
  int in_ = -1;
  int out_ = -1;
  std::string read_;
};

/// An environment variable of the processes that are started meanwhile.
struct Variable {
  Variable(const char* variable, const std::string& value) : name(variable) {
    setenv(name, value.c_str(), 1);
  }
  ~Variable() { unsetenv(name); }
  Variable(const Variable&) = delete;
  Variable& operator=(const Variable&) = delete;
  const char* name;
};

/// The program of helper/node.cpp as a node of a cluster.
struct NodeProcess {
  std::string name;
  std::string listen = "127.0.0.1:0";
  std::string registry = "";
  std::string transports = "auto";
  std::string net_devices = "";
  int silence_ms = 5000;

  std::vector<std::string> command() const {
    return {TROUPE_TEST_NODE, name, listen, registry, transports, net_devices, std::to_string(silence_ms)};
  }
};

}  // namespace troupe::test
