// From what somebody has written to a connection: names, several addresses, deaf and silent ones.
#include "control/dialling.hpp"

#include <sys/socket.h>

#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include "control/resolver.hpp"
#include "control/socket.hpp"

namespace troupe::rpc {
namespace {

using namespace std::chrono_literals;

struct World {
  RealClock clock;
  Loop loop{clock};
  Loop::Turn turn{loop};
  Resolver resolver{loop};

  Result<UniqueFd> dial(const Destination& to, const DialRules& rules = {}) {
    std::optional<Result<UniqueFd>> done;
    Dialling dialling(loop, resolver, to, rules, [&](Result<UniqueFd> result) { done = std::move(result); });
    dialling.start();
    CHECK_FALSE(done.has_value());
    REQUIRE(loop.wait_until([&] { return done.has_value(); }, clock.now() + 30s));
    return std::move(*done);
  }
};

UniqueFd listener() {
  return std::move(*listen_socket(SocketAddress::parse("127.0.0.1:0").value()));
}

/// A port that takes no more connections and says nothing: its queue is full.
class Silent {
 public:
  Silent() : fd_(listener()) {
    REQUIRE(::listen(fd_.get(), 0) == 0);
    for (int i = 0; i < 4; ++i) waiting_.push_back(std::move(*connecting_socket(address())));
  }
  SocketAddress address() const { return SocketAddress::local_of(fd_.get()); }

 private:
  UniqueFd fd_;
  std::vector<UniqueFd> waiting_;
};

Destination several(std::vector<SocketAddress> addresses) {
  return {"several:1", std::move(addresses), {}};
}

const SocketAddress kDeaf = SocketAddress::parse("127.0.0.1:1").value();

}  // namespace

TEST_CASE("dialling: addresses are tried in turn until one answers") {
  World world;
  const UniqueFd fd = listener();
  const SocketAddress there = SocketAddress::local_of(fd.get());
  SUBCASE("the first one is deaf") {
    const auto got = world.dial(several({kDeaf, kDeaf, there}));
    REQUIRE(got.ok());
    CHECK(SocketAddress::peer_of(got->get()).to_string() == there.to_string());
  }
  SUBCASE("the first one is silent: the next is tried after a quarter of a second") {
    const Silent silent;
    const TimePoint begun = world.clock.now();
    const auto got = world.dial(several({silent.address(), there}));
    REQUIRE(got.ok());
    CHECK(SocketAddress::peer_of(got->get()).to_string() == there.to_string());
    CHECK(world.clock.now() - begun > 200ms);
    CHECK(world.clock.now() - begun < 4s);
  }
}

TEST_CASE("dialling: who is not reached is told of with each address, and what may be done") {
  World world;
  const auto refused = world.dial(Destination::parse("127.0.0.1:1").value());
  REQUIRE_FALSE(refused.ok());
  CHECK(refused.error().code == Code::kUnavailable);
  CHECK(refused.error().message.find("127.0.0.1:1: Connection refused (nobody listens there") !=
        std::string::npos);

  const Silent silent;
  const TimePoint begun = world.clock.now();
  const auto none = world.dial(several({kDeaf, silent.address()}), {.patience = 600ms});
  REQUIRE_FALSE(none.ok());
  CHECK(world.clock.now() - begun < 5s);
  CHECK(none.error().code == Code::kUnavailable);
  const std::string& why = none.error().message;
  CHECK_MESSAGE(why.find("127.0.0.1:1: Connection refused") != std::string::npos, why);
  CHECK_MESSAGE(why.find("no answer within 600ms") != std::string::npos, why);
  CHECK_MESSAGE(why.find("port " + std::to_string(silent.address().port())) != std::string::npos, why);
}

TEST_CASE("dialling: without a secret other machines are not dialled, whatever name they have") {
  World world;
  const DialRules near{.this_machine_only = true};
  const auto far = world.dial(several({SocketAddress::parse("192.0.2.1:4000").value()}), near);
  REQUIRE_FALSE(far.ok());
  CHECK(far.error().code == Code::kFailedPrecondition);
  CHECK(far.error().message.find("192.0.2.1:4000") != std::string::npos);
  const UniqueFd fd = listener();
  const SocketAddress there = SocketAddress::local_of(fd.get());
  CHECK(world.dial(several({SocketAddress::parse("192.0.2.1:4000").value(), there}), near).ok());
}

TEST_CASE("dialling: a name is looked up while the loop goes on, and need not be known yet") {
  World world;
  bool went_on = false;
  Timer timer([&] { went_on = true; });
  world.loop.schedule_after(timer, 1ms);
  // The top-level domain that never exists (RFC 2606).
  const auto unknown = world.dial(Destination::parse("no-such-host.invalid:1").value(), {.patience = 20s});
  REQUIRE_FALSE(unknown.ok());
  CHECK(unknown.error().code == Code::kUnavailable);
  CHECK(unknown.error().message.find("'no-such-host.invalid' cannot be looked up") != std::string::npos);
  CHECK(world.loop.wait_until([&] { return went_on; }, world.clock.now() + 10s));

  const auto hasty = world.dial(Destination::parse("another.invalid:1").value(), {.patience = 0ms});
  REQUIRE_FALSE(hasty.ok());
  CHECK(hasty.error().code == Code::kUnavailable);
}

TEST_CASE("resolver: who is told may forget another one that waits for the same name") {
  World world;
  int told = 0;
  Resolver::Lookup second = 0;
  world.resolver.look_up({"none.invalid", 1}, [&](const auto&) {
    ++told;
    world.resolver.forget(second);
  });
  second = world.resolver.look_up({"none.invalid", 2}, [&](const auto&) { told += 100; });
  world.resolver.look_up({"none.invalid", 3}, [&](const auto&) { ++told; });
  CHECK(world.loop.wait_until([&] { return told == 2; }, world.clock.now() + 30s));
  CHECK(told == 2);
}

TEST_CASE("resolver: one that goes tells nobody any more") {
  World world;
  bool told = false;
  {
    Resolver brief(world.loop);
    brief.look_up({"brief.invalid", 1}, [&](const auto&) { told = true; });
  }
  const TimePoint until = world.clock.now() + 200ms;
  static_cast<void>(world.loop.wait_until([&] { return told; }, until));
  CHECK_FALSE(told);
}

TEST_CASE("addresses: what is written is read without asking anybody, and printed so that it can be read") {
  for (const char* text : {"127.0.0.1:4000", "[::1]:0", "unix:/run/x", "[fe80::1%lo]:7"}) {
    const auto read = SocketAddress::parse(text);
    REQUIRE_MESSAGE(read.ok(), text);
    CHECK(read->to_string() == text);
  }
  const auto local = Destination::parse("localhost:7").value();
  REQUIRE(local.addresses.size() == 2);
  CHECK(local.addresses[0].to_string() == "127.0.0.1:7");
  CHECK(local.addresses[1].to_string() == "[::1]:7");
  const auto name = Destination::parse("node7.example:7").value();
  CHECK(name.addresses.empty());
  CHECK(name.name.host == "node7.example");
  CHECK_FALSE(SocketAddress::parse("node7.example:7").ok());
  for (const char* bad : {"unix:", "[fe80::1%nosuchdevice]:7", "[not:v6]:7", "a b:7"})
    CHECK(Destination::parse(bad).error().code == Code::kInvalidArgument);
}

}  // namespace troupe::rpc
