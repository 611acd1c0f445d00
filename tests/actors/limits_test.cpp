// A process at the limits of what the system gives: an error, never the end of the process.
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <functional>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include "cluster.hpp"
#include "process.hpp"

using namespace troupe;
using namespace troupe::test;

// Sanitizers have descriptors and threads of their own.
#ifndef TROUPE_SANITIZER

namespace {

/// What the program of helper/node.cpp says, and its exit code, with these limits; a signal that ended it is
/// the code 128 and more.
struct Said {
  std::string line;
  int code = 0;
};

Said node_within(const std::function<void()>& limit) {
  int out[2];
  REQUIRE(pipe(out) == 0);
  const pid_t child = fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    dup2(out[1], 1);
    for (int fd = 3; fd < 1024; ++fd) close(fd);
    close(0);  // it ends with its input
    limit();
    execl(TROUPE_TEST_NODE, TROUPE_TEST_NODE, "node", "127.0.0.1:0", "", "auto", "", "5000", nullptr);
    std::_Exit(126);
  }
  close(out[1]);
  Said said;
  char bytes[4096];
  for (ssize_t got = 0; (got = read(out[0], bytes, sizeof bytes)) > 0;)
    said.line.append(bytes, static_cast<std::size_t>(got));
  close(out[0]);
  int status = 0;
  waitpid(child, &status, 0);
  said.code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  return said;
}

bool is_clear(const Said& said) {
  if (said.code == 0) return said.line.starts_with("ready ");
  if (said.code == 127) return true;  // not even its libraries could be loaded
  return said.code == 1 && said.line.starts_with("failed RESOURCE_EXHAUSTED");
}

}  // namespace

TEST_CASE("limits: with too few descriptors a node does not start, and says why") {
  int exhausted = 0;
  for (rlim_t files = 3; files < 24; ++files) {
    const Said said = node_within([&] {
      const rlimit few{files, files};
      setrlimit(RLIMIT_NOFILE, &few);
    });
    CHECK_MESSAGE(is_clear(said), files, " descriptors: exit code ", said.code, ", ", said.line);
    exhausted += said.code == 1;
  }
  CHECK(exhausted > 0);
}

TEST_CASE("limits: with too few threads a node does not start, and says why") {
  if (getuid() != 0) {
    MESSAGE("skipped: it takes a user of its own, of whom nothing else runs");
    return;
  }
  int exhausted = 0, started = 0;
  for (rlim_t threads = 1; threads < 10; ++threads) {
    const Said said = node_within([&] {
      const rlimit few{threads, threads};
      setrlimit(RLIMIT_NPROC, &few);
      if (setresgid(54321, 54321, 54321) != 0 || setresuid(54321, 54321, 54321) != 0) std::_Exit(125);
    });
    if (said.code == 125 || said.code == 126) {
      MESSAGE("skipped: the program cannot be run as another user here");
      return;
    }
    CHECK_MESSAGE(is_clear(said), threads, " threads: exit code ", said.code, ", ", said.line);
    exhausted += said.code == 1;
    started += said.code == 0;
  }
  CHECK(exhausted > 0);
  CHECK(started > 0);
}

TEST_CASE(
    "limits: where there are none, room for threads is found; a node within a process at its limit fails "
    "alone") {
  RealCluster cluster;
  Node& alice = cluster.add("alice");
  rlimit before{};
  REQUIRE(getrlimit(RLIMIT_NOFILE, &before) == 0);
  const int next = dup(0);
  REQUIRE(next > 0);
  close(next);
  const rlimit few{static_cast<rlim_t>(next), before.rlim_max};
  REQUIRE(setrlimit(RLIMIT_NOFILE, &few) == 0);
  const auto refused = cluster.start({.name = "bob"});
  REQUIRE(setrlimit(RLIMIT_NOFILE, &before) == 0);
  CHECK_FALSE(refused.ok());
  if (!refused.ok()) CHECK_MESSAGE(refused.error().code == Code::kResourceExhausted, text_of(refused));
  auto later = cluster.start({.name = "bob"});
  CHECK_MESSAGE(later.ok(), text_of(later));
  CHECK(alice.membership().members.size() == 2);
}

#endif
