#pragma once

#include <doctest/doctest.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdlib>
#include <functional>
#include <string>
#include <vector>

#include <troupe/runtime/unique_fd.hpp>

#include "communicator_contract.hpp"

/// Members of a communicator that are processes of their own, and what a test has them do.
namespace troupe::shards::test {

inline constexpr int kWaitMs = 60'000;

/// One message whole; empty: the other is gone, or nothing came in time.
inline std::string take(int fd) {
  pollfd one{fd, POLLIN, 0};
  std::string bytes(4096, '\0');
  if (::poll(&one, 1, kWaitMs) != 1) return "";
  const ssize_t got = ::recv(fd, bytes.data(), bytes.size(), 0);
  bytes.resize(got > 0 ? static_cast<std::size_t>(got) : 0);
  return bytes;
}

inline bool give(int fd, const std::string& bytes) {
  return ::send(fd, bytes.data(), bytes.size(), MSG_NOSIGNAL) == static_cast<ssize_t>(bytes.size());
}

/// A member in a process of its own, and the socket over which the test hears from it.
struct Member {
  pid_t pid = -1;
  UniqueFd socket;
};

template <class Body>
Member begin_member(Body body) {
  int ends[2];
  REQUIRE(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) == 0);
  Member member;
  member.pid = ::fork();
  if (member.pid == 0) {
    ::close(ends[0]);
    ::_exit(body(ends[1]));
  }
  ::close(ends[1]);
  member.socket = UniqueFd(ends[0]);
  return member;
}

/// A member's exchange: its bytes go to the test, which sends back how many there are and what each is.
inline AddressExchange over(int fd) {
  return [fd](const std::string& mine, Duration) -> Result<std::vector<std::string>> {
    if (!give(fd, mine.empty() ? "-" : mine)) return Error{Code::kUnavailable, "the test is gone"};
    const std::string count = take(fd);
    std::vector<std::string> all;
    for (int i = 0; i < std::atoi(count.c_str()); ++i) {
      all.push_back(take(fd));
      if (all.back() == "-") all.back().clear();
    }
    return all;
  };
}

/// The test's side, for all members by rank.
inline void pass_addresses_on(const std::vector<int>& sockets) {
  std::vector<std::string> all;
  for (const int fd : sockets) {
    all.push_back(take(fd));
    REQUIRE(!all.back().empty());
  }
  for (const int fd : sockets) {
    REQUIRE(give(fd, std::to_string(all.size())));
    for (const std::string& one : all) REQUIRE(give(fd, one));
  }
}

inline CommunicatorOptions member_of(int size, int rank, Duration timeout) {
  CommunicatorOptions options;
  options.rank = rank;
  options.size = size;
  options.timeout = timeout;
  return options;
}

/// A kind is made by each process for itself, after it has begun.
using MakeKind = std::function<CommunicatorKind()>;

/// Forms a group in each round and works in it until that fails; says with which error. Ends when told so.
inline int survive(const MakeKind& kind_here, int fd, int rank, int size, Duration timeout) {
  const CommunicatorKind kind = kind_here();
  for (;;) {
    const std::string order = take(fd);
    if (order == "end") return 0;
    if (order != "form") return 2;
    auto group = kind.make(member_of(size, rank, timeout), over(fd));
    if (!group) {
      give(fd, "not formed: " + group.error().to_string());
      return 3;
    }
    if (!give(fd, "formed")) return 3;
    const Tensor tensor = Side(kind, rank).filled(DType::kFloat32, 50'000, rank);
    Result<void> ended;
    while (ended) ended = (*group)->all_reduce(tensor, ReduceOp::kMax).wait();
    group->reset();
    if (!give(fd, std::string(to_string(ended.error().code)))) return 4;
  }
}

/// The last of `members` is killed `deaths` times in mid-collective, and the others form anew each time.
inline void die_and_form_anew(const MakeKind& kind, int members, int deaths, Duration timeout) {
  const int last = members - 1;
  std::vector<Member> survivors;
  survivors.reserve(static_cast<std::size_t>(last));
  for (int rank = 0; rank < last; ++rank)
    survivors.push_back(begin_member([&](int fd) { return survive(kind, fd, rank, members, timeout); }));
  for (int death = 0; death < deaths; ++death) {
    CAPTURE(death);
    const Member victim = begin_member([&](int fd) { return survive(kind, fd, last, members, timeout); });
    std::vector<int> sockets;
    sockets.reserve(static_cast<std::size_t>(members));
    for (const Member& each : survivors) sockets.push_back(each.socket.get());
    sockets.push_back(victim.socket.get());
    for (const int fd : sockets) REQUIRE(give(fd, "form"));
    pass_addresses_on(sockets);
    for (const int fd : sockets) REQUIRE(take(fd) == "formed");
    REQUIRE(::kill(victim.pid, SIGKILL) == 0);
    REQUIRE(::waitpid(victim.pid, nullptr, 0) == victim.pid);
    for (const Member& each : survivors) CHECK(take(each.socket.get()) == "UNAVAILABLE");
  }
  for (const Member& member : survivors) {
    CHECK(give(member.socket.get(), "end"));
    int status = -1;
    CHECK(::waitpid(member.pid, &status, 0) == member.pid);
    CHECK(status == 0);
  }
}

/// One of `members` is stopped in mid-collective: the others hear of it at their deadline.
inline void stop_in_mid_collective(const MakeKind& kind, int members, Duration timeout) {
  std::vector<Member> all;
  all.reserve(static_cast<std::size_t>(members));
  for (int rank = 0; rank < members; ++rank)
    all.push_back(begin_member([&](int fd) { return survive(kind, fd, rank, members, timeout); }));
  std::vector<int> sockets;
  sockets.reserve(all.size());
  for (const Member& member : all) sockets.push_back(member.socket.get());
  for (const int fd : sockets) REQUIRE(give(fd, "form"));
  pass_addresses_on(sockets);
  for (const int fd : sockets) REQUIRE(take(fd) == "formed");
  REQUIRE(::kill(all.back().pid, SIGSTOP) == 0);
  bool late = false;
  for (std::size_t i = 0; i + 1 < all.size(); ++i) {
    const std::string code = take(sockets[i]);
    CHECK((code == "DEADLINE_EXCEEDED" || code == "UNAVAILABLE"));
    late = late || code == "DEADLINE_EXCEEDED";
  }
  CHECK(late);
  for (const Member& member : all) {
    CHECK(::kill(member.pid, SIGKILL) == 0);
    CHECK(::waitpid(member.pid, nullptr, 0) == member.pid);
  }
}

}  // namespace troupe::shards::test
