// Which way the messages of a link take, where one side can do what the other cannot.
#include <sys/prctl.h>
#include <unistd.h>

#include <cstdlib>
#include <string>
#include <utility>
#include <vector>

#include "transport/process_transport.hpp"
#include "transport_child.hpp"
#include "transport_contract.hpp"

namespace troupe::rpc::contract {
namespace {

constexpr uid_t kNobody = 65534;

/// This process is `user` from now on, and an ordinary one: its descriptors can be opened by that user's
/// others.
void become(uid_t user) {
  REQUIRE(::setresgid(user, user, user) == 0);
  REQUIRE(::setresuid(user, user, user) == 0);
  REQUIRE(::prctl(PR_SET_DUMPABLE, 1) == 0);
}

}  // namespace

/// Listens, reports its address, and answers every message with one of its own, until it is killed.
TEST_CASE("transport: a process for others to talk to" * doctest::skip()) {
  const char* transports = std::getenv(kTransportsVariable);
  const char* report = std::getenv(kReportVariable);
  if (!transports || !report) return;  // somebody runs all tests that are usually skipped
  RealClock clock;
  Loop loop(clock);
  const Loop::Turn turn(loop);
  if (const int user = std::atoi(std::getenv(kUserVariable)); user >= 0) become(static_cast<uid_t>(user));
  auto transport = make_process_transport(loop, {transports, ""}).value();
  Peer peer;
  peer.transport = transport.get();
  transport->set_events(peer);
  std::vector<std::pair<LinkId, std::size_t>> answers;  // the other side may be open before this one is
  peer.frame_hook = [&](LinkId link) {
    answers.emplace_back(link, peer.frames.back().sequence % 2 == 0 ? 0 : std::size_t{1} << 20);
    peer.frames.clear();
  };
  const auto answer = [&] {
    std::erase_if(answers, [&](const auto& next) {
      if (!peer.links[next.first].open) return false;
      static_cast<void>(transport->send(next.first, make_frame(1, {next.second})));
      return true;
    });
    return false;
  };
  const std::string dial = std::getenv(kDialVariable);
  const std::string address = dial.empty() ? transport->listen("127.0.0.1:0").value() : dial;
  if (!dial.empty()) REQUIRE(transport->dial(dial).ok());
  REQUIRE(::write(std::atoi(report), address.data(), address.size()) > 0);
  static_cast<void>(loop.wait_until(answer, TimePoint::never()));
}

TEST_CASE("transport: two users' processes use streams, whichever of them could open the other's memory") {
  if (::geteuid() != 0) {
    MESSAGE("skipped: needs root");
    return;
  }
  for (const bool child_dials : {false, true}) {
    for (const bool same_user : {false, true}) {
      CAPTURE(child_dials);
      CAPTURE(same_user);
      RealWorld world;
      auto transport = ProcessTransport::create(world.a, {"auto", ""}).value();
      Peer peer;
      peer.transport = transport.get();
      transport->set_events(peer);
      const std::string here = transport->listen("127.0.0.1:0").value();
      Child other("auto", same_user ? -1 : static_cast<int>(kNobody), child_dials ? here : "");
      const std::string there = other.read();
      if (!child_dials) REQUIRE(transport->dial(there).ok());
      REQUIRE(world.run_until([&] { return peer.open(); }, std::chrono::seconds(20)));
      // Its answers show that both have chosen the same.
      for (std::uint64_t i = 0; i < 4; ++i)
        REQUIRE(transport->send(peer.link(), make_frame(i, {i % 2 << 20})).ok());
      REQUIRE(world.run_until([&] { return peer.frames.size() == 4; }, std::chrono::seconds(20)));
      CHECK(peer.damaged() == 0);
      CHECK(transport->bytes_in_flight(peer.link()) == 0);
      const std::string way = transport->describe_way(peer.link());
      CAPTURE(way);
      CHECK(
          way.starts_with(same_user ? "shared memory" : "TCP (no shared memory: the peer cannot open ours"));
    }
  }
}

}  // namespace troupe::rpc::contract
