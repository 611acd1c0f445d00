#pragma once

#include <doctest/doctest.h>
#include <poll.h>
#include <pty.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <csignal>
#include <cstdlib>
#include <string>
#include <utility>
#include <vector>

#include "command.hpp"

namespace command_test {

/// A program on a terminal of its own, of 80 columns. Killed at the end if it still runs.
class OnTerminal {
 public:
  using Variables = std::vector<std::pair<std::string, std::string>>;

  OnTerminal(std::vector<std::string> command, const Variables& environment, unsigned short rows = 24) {
    std::vector<char*> argv;
    argv.reserve(command.size() + 1);
    for (std::string& word : command) argv.push_back(word.data());
    argv.push_back(nullptr);
    winsize size{rows, 80, 0, 0};
    pid_ = forkpty(&terminal_, nullptr, nullptr, &size);
    REQUIRE(pid_ >= 0);
    if (pid_ == 0) {
      for (const auto& [name, value] : environment) setenv(name.c_str(), value.c_str(), 1);
      execv(argv[0], argv.data());
      _exit(99);
    }
  }
  ~OnTerminal() {
    close(terminal_);
    if (pid_ <= 0) return;
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
  }
  OnTerminal(const OnTerminal&) = delete;
  OnTerminal& operator=(const OnTerminal&) = delete;

  const std::string& screen() const { return text_; }
  void forget() { text_.clear(); }
  void type(const std::string& keys) const {
    REQUIRE(write(terminal_, keys.data(), keys.size()) == static_cast<ssize_t>(keys.size()));
  }
  /// Reads until what it has written since forget() holds `text`. False: not in time, or it has ended.
  bool wait_for(const std::string& text) {
    while (text_.find(text) == std::string::npos)
      if (!read_some()) return false;
    return true;
  }
  /// Reads everything; its exit code, or -n after signal n, or -1000 if it does not end.
  int finish() {
    while (read_some()) {
    }
    const int fd = pidfd(pid_);
    const bool ended = ends_in_time(fd);
    close(fd);
    if (!ended) return -1000;
    int status = 0;
    waitpid(pid_, &status, 0);
    pid_ = -1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
  }

 private:
  bool read_some() {
    pollfd waited{terminal_, POLLIN, 0};
    if (poll(&waited, 1, std::chrono::milliseconds(kPatience).count()) != 1) return false;
    std::array<char, 4096> bytes;
    const ssize_t got = read(terminal_, bytes.data(), bytes.size());
    if (got <= 0) return false;  // EIO: nobody has the other side open any more
    text_.append(bytes.data(), static_cast<std::size_t>(got));
    return true;
  }

  pid_t pid_ = -1;
  int terminal_ = -1;
  std::string text_;
};

}  // namespace command_test
