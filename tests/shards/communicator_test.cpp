#include <doctest/doctest.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <string>
#include <vector>

#include <troupe/runtime/unique_fd.hpp>

#include "communicator_contract.hpp"

namespace troupe::shards {
namespace {

using namespace test;

const MakeCommunicator kGloo = [](CommunicatorOptions options, AddressExchange exchange) {
  return make_gloo_communicator(std::move(options), std::move(exchange));
};

constexpr int kWaitMs = 60'000;

/// One message whole; empty: the other is gone, or nothing came in time.
std::string take(int fd) {
  pollfd one{fd, POLLIN, 0};
  std::string bytes(4096, '\0');
  if (::poll(&one, 1, kWaitMs) != 1) return "";
  const ssize_t got = ::recv(fd, bytes.data(), bytes.size(), 0);
  bytes.resize(got > 0 ? static_cast<std::size_t>(got) : 0);
  return bytes;
}

bool give(int fd, const std::string& bytes) {
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
AddressExchange over(int fd) {
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
void pass_addresses_on(const std::vector<int>& sockets) {
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

CommunicatorOptions member_of(int size, int rank, Duration timeout) {
  CommunicatorOptions options;
  options.rank = rank;
  options.size = size;
  options.timeout = timeout;
  return options;
}

/// Forms a group in each round and works in it until that fails; says with which error. Ends when told so.
int survive(int fd, int rank, int size, Duration timeout) {
  for (;;) {
    const std::string order = take(fd);
    if (order == "end") return 0;
    if (order != "form") return 2;
    auto group = make_gloo_communicator(member_of(size, rank, timeout), over(fd));
    if (!group || !give(fd, "formed")) return 3;
    const Tensor tensor = filled(DType::kFloat32, 50'000, rank);
    Result<void> ended;
    while (ended) ended = (*group)->all_reduce(tensor, ReduceOp::kMax).wait();
    if (!give(fd, std::string(to_string(ended.error().code)))) return 4;
  }
}

}  // namespace

TEST_CASE("collectives give what a plain loop gives") {
  collectives_give_what_a_plain_loop_gives(kGloo);
}
TEST_CASE("unequal parts find their places") {
  unequal_parts_find_their_places(kGloo);
}
TEST_CASE("transfers meet by tag, and cross") {
  transfers_meet_by_tag_and_cross(kGloo);
}
TEST_CASE("collectives may be many and are told in order") {
  works_may_be_many_and_are_told_in_order(kGloo);
}
TEST_CASE("parts of a group are groups") {
  parts_of_a_group_are_groups(kGloo);
}
TEST_CASE("a collective that is wrong by itself is refused, and the group goes on") {
  what_is_wrong_by_itself_is_refused_and_the_group_goes_on(kGloo);
}
TEST_CASE("members that do different things are told") {
  members_that_do_different_things_are_told(kGloo);
}
TEST_CASE("a member that does not come ends the group in time") {
  who_does_not_come_ends_it_in_time(kGloo);
}
TEST_CASE("aborting ends what waits, everywhere") {
  aborting_ends_what_waits_everywhere(kGloo);
}
TEST_CASE("a group that does not come together says so") {
  a_group_that_does_not_come_together_says_so(kGloo);
}

TEST_CASE("collectives work without being checked") {
  CommunicatorOptions options;
  options.check_calls = false;
  all_well(with_members(
      kGloo, 3,
      [](Communicator& group) -> std::string {
        const Tensor sum = filled(DType::kFloat32, 1000, group.rank());
        if (!group.all_reduce(sum, ReduceOp::kSum).wait() || !group.barrier().wait()) return "failed";
        const Tensor one = filled(DType::kFloat32, 3, group.rank());
        if (group.rank() == 0 && !group.send(one, 1).wait()) return "send";
        if (group.rank() == 1 && !group.receive(one, 0).wait()) return "receive";
        return differences(sum, [](std::int64_t i) { return reduced(ReduceOp::kSum, 3, i); });
      },
      options));
}

TEST_CASE(
    "a hundred members die in mid-collective, one after the other, and the others form anew each time") {
  constexpr int kDeaths = 100;
  const auto timeout = std::chrono::seconds(50);  // long enough to be no answer
  std::vector<Member> survivors;
  survivors.reserve(2);
  for (int rank = 0; rank < 2; ++rank)
    survivors.push_back(begin_member([&](int fd) { return survive(fd, rank, 3, timeout); }));
  for (int death = 0; death < kDeaths; ++death) {
    CAPTURE(death);
    const Member victim = begin_member([&](int fd) { return survive(fd, 2, 3, timeout); });
    const std::vector<int> sockets = {survivors[0].socket.get(), survivors[1].socket.get(),
                                      victim.socket.get()};
    for (const int fd : sockets) REQUIRE(give(fd, "form"));
    pass_addresses_on(sockets);
    for (const int fd : sockets) REQUIRE(take(fd) == "formed");
    REQUIRE(::kill(victim.pid, SIGKILL) == 0);
    REQUIRE(::waitpid(victim.pid, nullptr, 0) == victim.pid);
    for (int i = 0; i < 2; ++i) CHECK(take(sockets[static_cast<std::size_t>(i)]) == "UNAVAILABLE");
  }
  for (const Member& member : survivors) {
    CHECK(give(member.socket.get(), "end"));
    int status = -1;
    CHECK(::waitpid(member.pid, &status, 0) == member.pid);
    CHECK(status == 0);
  }
}

TEST_CASE("a member that is stopped in mid-collective ends the group at its deadline") {
  const auto timeout = std::chrono::milliseconds(1500);
  std::vector<Member> members;
  members.reserve(3);
  for (int rank = 0; rank < 3; ++rank)
    members.push_back(begin_member([&](int fd) { return survive(fd, rank, 3, timeout); }));
  std::vector<int> sockets;
  sockets.reserve(3);
  for (const Member& member : members) sockets.push_back(member.socket.get());
  for (const int fd : sockets) REQUIRE(give(fd, "form"));
  pass_addresses_on(sockets);
  for (const int fd : sockets) REQUIRE(take(fd) == "formed");
  REQUIRE(::kill(members[2].pid, SIGSTOP) == 0);
  bool late = false;
  for (int i = 0; i < 2; ++i) {
    const std::string code = take(sockets[static_cast<std::size_t>(i)]);
    CHECK((code == "DEADLINE_EXCEEDED" || code == "UNAVAILABLE"));
    late = late || code == "DEADLINE_EXCEEDED";
  }
  CHECK(late);
  for (const Member& member : members) {
    CHECK(::kill(member.pid, SIGKILL) == 0);
    CHECK(::waitpid(member.pid, nullptr, 0) == member.pid);
  }
}

}  // namespace troupe::shards
