#pragma once

#include <doctest/doctest.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <string>
#include <vector>

/// What the tests of the troupe command share: a fresh folder, the command as a child process.
namespace command_test {

using SteadyClock = std::chrono::steady_clock;

/// The bound on any wait: generous, for sanitizers on a busy machine; nothing waits this long on success.
constexpr std::chrono::seconds kPatience{60};

/// A folder of its own, removed at the end.
class Folder {
 public:
  Folder() {
    std::string pattern = (std::filesystem::temp_directory_path() / "troupe-test-XXXXXX").string();
    REQUIRE(mkdtemp(pattern.data()) != nullptr);
    path_ = pattern;
  }
  ~Folder() { std::filesystem::remove_all(path_); }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;

  std::string operator/(const std::string& name) const { return (path_ / name).string(); }
  std::string write(const std::string& name, const std::string& text) const {
    std::ofstream(*this / name) << text;
    return *this / name;
  }

 private:
  std::filesystem::path path_;
};

inline int pidfd(pid_t pid) {
  return static_cast<int>(syscall(SYS_pidfd_open, pid, 0));
}

/// Waits for the end of a process that need not be our child, by its pidfd.
inline bool ends_in_time(int fd) {
  pollfd waited{fd, POLLIN, 0};
  return poll(&waited, 1, std::chrono::milliseconds(kPatience).count()) == 1;
}

/// The troupe command as a child process with its output in pipes. Killed at the end if it still runs.
class Command {
 public:
  /// `prepare` is run in the child before the command: only async-signal-safe functions.
  explicit Command(const std::vector<std::string>& args, const std::function<void()>& prepare = {}) {
    int out[2], err[2];
    REQUIRE(pipe2(out, O_CLOEXEC) == 0);
    REQUIRE(pipe2(err, O_CLOEXEC) == 0);
    std::vector<std::string> words{TROUPE_PROGRAM};
    words.insert(words.end(), args.begin(), args.end());
    std::vector<char*> argv;
    argv.reserve(words.size() + 1);
    for (std::string& word : words) argv.push_back(word.data());
    argv.push_back(nullptr);
    pid_ = fork();
    REQUIRE(pid_ >= 0);
    if (pid_ == 0) {
      dup2(out[1], 1);
      dup2(err[1], 2);
      if (prepare) prepare();
      execv(argv[0], argv.data());
      _exit(99);
    }
    close(out[1]);
    close(err[1]);
    fds_ = {out[0], err[0]};
  }

  ~Command() {
    close_out();
    if (fds_[1] >= 0) close(fds_[1]);
    if (pid_ > 0) {
      ::kill(pid_, SIGKILL);
      waitpid(pid_, nullptr, 0);
    }
  }
  Command(const Command&) = delete;
  Command& operator=(const Command&) = delete;

  pid_t pid() const { return pid_; }
  const std::string& out() const { return text_[0]; }
  const std::string& err() const { return text_[1]; }
  void kill(int signal) const { ::kill(pid_, signal); }

  void close_out() {
    if (fds_[0] >= 0) close(fds_[0]);
    fds_[0] = -1;
  }

  /// Reads until standard output (or error) holds `text`. False at the end of output or of patience.
  bool wait_for(const std::string& text) {
    auto deadline = SteadyClock::now() + kPatience;
    while (out().find(text) == std::string::npos && err().find(text) == std::string::npos) {
      if (!read_some(deadline)) return false;
    }
    return true;
  }

  /// Reads what comes next. False at the end of output or of patience.
  bool read_more() { return read_some(SteadyClock::now() + kPatience); }

  /// Reads everything, then returns the exit code, or -n after signal n, or -1000 if it does not end.
  int finish() {
    auto deadline = SteadyClock::now() + kPatience;
    while (read_some(deadline)) {
    }
    int fd = pidfd(pid_);
    bool ended = ends_in_time(fd);
    close(fd);
    if (!ended) return -1000;
    int status = 0;
    waitpid(pid_, &status, 0);
    pid_ = -1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
  }

 private:
  bool read_some(SteadyClock::time_point deadline) {
    std::array<pollfd, 2> polled{pollfd{fds_[0], POLLIN, 0}, pollfd{fds_[1], POLLIN, 0}};
    if (fds_[0] < 0 && fds_[1] < 0) return false;
    auto left = std::chrono::duration_cast<std::chrono::milliseconds>(deadline - SteadyClock::now());
    if (left.count() <= 0 || poll(polled.data(), 2, static_cast<int>(left.count())) <= 0) return false;
    for (size_t i = 0; i < 2; ++i) {
      if (polled[i].revents == 0) continue;
      std::array<char, 65536> buffer;
      ssize_t got = read(fds_[i], buffer.data(), buffer.size());
      if (got > 0) {
        text_[i].append(buffer.data(), static_cast<size_t>(got));
      } else {
        close(fds_[i]);
        fds_[i] = -1;
      }
    }
    return true;
  }

  pid_t pid_ = -1;
  std::array<int, 2> fds_{-1, -1};
  std::array<std::string, 2> text_;
};

/// Runs it to its end.
struct Finished {
  int code;
  std::string out, err;
};
inline Finished run(const std::vector<std::string>& args) {
  Command command(args);
  int code = command.finish();
  return {code, command.out(), command.err()};
}

inline size_t count(const std::string& text, const std::string& part) {
  size_t found = 0;
  for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + part.size())) ++found;
  return found;
}

/// The number that follows `mark` in the text.
inline int number_after(const std::string& text, const std::string& mark) {
  size_t at = text.find(mark);
  REQUIRE_MESSAGE(at != std::string::npos, mark << " is not in: " << text);
  return std::atoi(text.c_str() + at + mark.size());
}

}  // namespace command_test
