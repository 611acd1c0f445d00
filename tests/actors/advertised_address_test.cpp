// What others are told of where a node is.
#include <string>

#include "advertised_address.hpp"
#include "cluster.hpp"
#include "states.hpp"

using namespace troupe;
using namespace troupe::test;

TEST_CASE("who can use an address is seen from its text") {
  for (const char* address : {"10.0.0.1:1", "node7:1", "[2001:db8::1]:1", "169.254.1.1:1"})
    CHECK(reach_of(address) == AddressReach::kEverybody);
  for (const char* address :
       {"127.0.0.1:1", "127.9.9.9:1", "[::1]:1", "localhost:1", "unix:/x", "[::ffff:127.0.0.1]:1"})
    CHECK(reach_of(address) == AddressReach::kThisMachine);
  for (const char* address : {"0.0.0.0:1", "[::]:1", "[::ffff:0.0.0.0]:1"})
    CHECK(reach_of(address) == AddressReach::kNobody);
  for (const char* address : {"[fe80::1%lo]:1", "[fe80::1]:1"})
    CHECK(reach_of(address) == AddressReach::kThisLink);
}

TEST_CASE("where a node listens is advertised, or what it is told to advertise") {
  const auto advertised = [](const std::string& listening, const std::string& wanted,
                             const std::string& own = "") {
    return text_of(advertised_address(listening, wanted, own)) == "a value"
               ? *advertised_address(listening, wanted, own)
               : text_of(advertised_address(listening, wanted, own));
  };
  CHECK(advertised("10.0.0.1:4000", "") == "10.0.0.1:4000");
  CHECK(advertised("127.0.0.1:4000", "") == "127.0.0.1:4000");
  CHECK(advertised("unix:/run/x", "") == "unix:/run/x");
  CHECK(advertised("0.0.0.0:4000", "", "10.0.0.7") == "10.0.0.7:4000");
  CHECK(advertised("[::]:4000", "", "10.0.0.7") == "10.0.0.7:4000");
  CHECK(advertised("[::]:4000", "", "::ffff:10.0.0.7") == "10.0.0.7:4000");
  CHECK(advertised("[::]:4000", "", "2001:db8::7") == "[2001:db8::7]:4000");
  // It does not listen at IPv6.
  CHECK_FALSE(contains(advertised("0.0.0.0:4000", "", "2001:db8::7"), "2001"));
  CHECK_FALSE(contains(advertised("0.0.0.0:4000", ""), "0.0.0.0"));
  CHECK(advertised("0.0.0.0:4000", "node7") == "node7:4000");
  CHECK(advertised("127.0.0.1:4000", "node7:15000") == "node7:15000");
  CHECK(advertised("0.0.0.0:4000", "2001:db8::7") == "[2001:db8::7]:4000");
  CHECK(advertised("0.0.0.0:4000", "[2001:db8::7]") == "[2001:db8::7]:4000");
  CHECK(advertised("0.0.0.0:4000", "[2001:db8::7]:5") == "[2001:db8::7]:5");
  CHECK(advertised("[fe80::1%eth0]:4000", "node7") == "node7:4000");
  for (const char* bad : {"0.0.0.0", "[::]:4000", "node7:x", "node7:0", ":4000", "a:b:c:d%:x"}) {
    CAPTURE(bad);
    CHECK(code_of(advertised_address("127.0.0.1:4000", bad)) == Code::kInvalidArgument);
    CHECK(contains(text_of(advertised_address("127.0.0.1:4000", bad)), "node.advertise"));
  }
  CHECK(code_of(advertised_address("[fe80::1%eth0]:4000", "")) == Code::kFailedPrecondition);
  CHECK(contains(text_of(advertised_address("[fe80::1%eth0]:4000", "")), "node.advertise"));
}

TEST_CASE("what only this machine can use is not advertised to a cluster on others") {
  CHECK(may_advertise("127.0.0.1:1", "127.0.0.1").ok());
  CHECK(may_advertise("127.0.0.1:1", "").ok());  // a unix socket, or simulated
  CHECK(may_advertise("10.0.0.1:1", "10.0.0.1").ok());
  CHECK(may_advertise("node7:1", "10.0.0.1").ok());
  for (const char* near : {"127.0.0.1:1", "[::1]:1", "unix:/x", "localhost:1"}) {
    const auto may = may_advertise(near, "10.0.0.1");
    CHECK(code_of(may) == Code::kFailedPrecondition);
    CHECK(contains(text_of(may), "node.listen"));
    CHECK(contains(text_of(may), "node.advertise"));
  }
}

TEST_CASE("a node publishes what it is told to, and what it listens at if that is of use") {
  RealCluster cluster;
  const std::string secret = "a secret that only tests know";
  auto alice = cluster.start({.name = "alice", .listen = "0.0.0.0:0", .secret = secret});
  REQUIRE_MESSAGE(alice.ok(), text_of(alice));
  CHECK_FALSE(contains((*alice)->address(), "0.0.0.0"));
  const std::string registry = "127.0.0.1" + (*alice)->address().substr((*alice)->address().rfind(':'));
  auto bob = cluster.start({.name = "bob", .registry = registry, .advertise = "localhost", .secret = secret});
  REQUIRE_MESSAGE(bob.ok(), text_of(bob));
  CHECK((*bob)->address().starts_with("localhost:"));
  // A third one reaches it there.
  REQUIRE((*bob)->spawn<Calculator>("calculator").ok());
  auto carol = cluster.start({.name = "carol", .registry = registry, .listen = "[::1]:0", .secret = secret});
  REQUIRE_MESSAGE(carol.ok(), text_of(carol));
  CHECK((*carol)->wait_for_actor("calculator", kPatience).ok());
  const auto called = (*carol)->rpc_sync<std::int64_t>("calculator", "count");
  CHECK_MESSAGE(called.ok(), text_of(called));
}

TEST_CASE("texts of a node that are too long are refused at its start") {
  const std::string long_text(70'000, 'x');
  CHECK(code_of(Node::start({.name = long_text})) == Code::kInvalidArgument);
  CHECK(code_of(Node::start({.name = "alice", .role = long_text})) == Code::kInvalidArgument);
  CHECK(code_of(Node::start({.name = "alice", .metadata = {{"key", long_text}}})) == Code::kInvalidArgument);
  CHECK(code_of(Node::start({.name = "alice", .listen = long_text + ":0"})) == Code::kInvalidArgument);
  CHECK(code_of(Node::start({.name = "alice", .registry = long_text + ":1"})) == Code::kInvalidArgument);
  CHECK(code_of(Node::start({.name = "alice", .advertise = long_text})) == Code::kInvalidArgument);
  RealCluster cluster;
  const auto longest = cluster.start({.name = std::string(255, 'x'), .role = std::string(255, 'r')});
  CHECK_MESSAGE(longest.ok(), text_of(longest));
}
