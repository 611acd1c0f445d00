#pragma once

#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <string>

#include <doctest/doctest.h>

namespace troupe::rpc::contract {

inline constexpr const char* kTransportsVariable = "TROUPE_TEST_TRANSPORTS";
inline constexpr const char* kReportVariable = "TROUPE_TEST_REPORT_FD";
inline constexpr const char* kUserVariable = "TROUPE_TEST_USER";
inline constexpr const char* kDialVariable = "TROUPE_TEST_DIAL";

/// A process of its own that runs the test case "transport: a process for others to talk to" of this program:
/// started anew, because threads and UCX do not survive a fork.
class Child {
 public:
  /// `user`: which it becomes, if not -1. `dial`: an address that it dials instead of listening.
  explicit Child(const char* transports, int user = -1, const std::string& dial = {}) {
    std::array<int, 2> ends{};
    REQUIRE(::pipe(ends.data()) == 0);
    pid_ = ::fork();
    REQUIRE(pid_ >= 0);
    if (pid_ == 0) {
      ::prctl(PR_SET_PDEATHSIG, SIGKILL);  // it must not outlive a test that is ended
      ::setenv(kTransportsVariable, transports, 1);
      ::setenv(kReportVariable, std::to_string(ends[1]).c_str(), 1);
      ::setenv(kUserVariable, std::to_string(user).c_str(), 1);
      ::setenv(kDialVariable, dial.c_str(), 1);
      ::execl("/proc/self/exe", "test", "--no-skip", "--test-case=transport: a process for others to talk to",
              nullptr);
      ::_exit(1);
    }
    ::close(ends[1]);
    report_ = ends[0];
  }
  ~Child() {
    kill();
    ::close(report_);
  }
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;

  /// What the child has written next, at least something unless it has ended.
  std::string read() {
    std::array<char, 256> text{};
    const ssize_t size = ::read(report_, text.data(), text.size());
    return {text.data(), static_cast<std::size_t>(std::max<ssize_t>(size, 0))};
  }
  void signal(int number) const { ::kill(pid_, number); }
  void kill() {
    if (pid_ <= 0) return;
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
    pid_ = 0;
  }

 private:
  pid_t pid_ = 0;
  int report_ = -1;
};

}  // namespace troupe::rpc::contract
