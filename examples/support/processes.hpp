#pragma once

#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cstdio>
#include <exception>
#include <stdexcept>
#include <string>
#include <vector>

namespace examples {

/// Processes forked before there is anything else. Each runs `body(address)` once tell(address) was called;
/// they end with this object at the latest, and with our process. Ctrl-C is left to us.
class Processes {
 public:
  Processes() = default;
  Processes(const Processes&) = delete;
  Processes& operator=(const Processes&) = delete;
  ~Processes() { end(); }
  void end() {
    for (const Child& child : children_) kill(child.pid, SIGTERM);
    for (const Child& child : children_) {
      waitpid(child.pid, nullptr, 0);
      close(child.to);
    }
    children_.clear();
  }

  /// std::runtime_error: the system has no process or pipe left.
  template <class Body>
  void add(Body body) {
    std::array<int, 2> ends{};
    if (pipe(ends.data()) != 0) throw std::runtime_error("no pipe");
    const pid_t pid = fork();
    if (pid < 0) throw std::runtime_error("no process");
    if (pid == 0) {
      close(ends[1]);
      _exit(run(ends[0], body));
    }
    close(ends[0]);
    children_.push_back({pid, ends[1]});
  }
  void tell(const std::string& address) const {
    for (const Child& child : children_)
      if (write(child.to, address.data(), address.size()) < 0) std::perror("write");
  }

 private:
  struct Child {
    pid_t pid;
    int to;
  };
  template <class Body>
  static int run(int from, Body& body) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    signal(SIGINT, SIG_IGN);
    std::array<char, 256> address{};
    if (read(from, address.data(), address.size() - 1) <= 0) return 1;
    try {
      body(std::string(address.data()));
    } catch (const std::exception& exception) {
      std::fprintf(stderr, "%s\n", exception.what());
      return 1;
    }
    return 0;
  }
  std::vector<Child> children_;
};

}  // namespace examples
