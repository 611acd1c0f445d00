// The registry's state by itself: whom it takes in, on which session it knows them, and what those whom it
// tells may do.
#include "registry.hpp"

#include <algorithm>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "cluster.hpp"

namespace troupe::test {

namespace {

using namespace std::chrono_literals;

struct Office {
  Result<Membership> join(rpc::SessionId session, std::uint64_t node_id, const std::string& name) {
    caller = node_id;
    return registry->join(on(session), {node_id, name, "worker", "127.0.0.1:1", {}});
  }
  static rpc::CallContext on(rpc::SessionId session) {
    rpc::CallContext context;
    context.session = session;
    return context;
  }
  void settle() {
    (void)loop.wait_until([] { return false; }, clock.now() + 5ms);
  }

  RealClock clock;
  Loop loop{clock, {.on_exception = [this](const std::string&) { ++exceptions; }}};
  Loop::Turn turn{loop};
  int exceptions = 0;
  std::uint64_t caller = 0;  // the node that calls, as its session knows it
  std::vector<std::pair<rpc::SessionId, MembershipChange>> told;
  std::function<void(rpc::SessionId)> tell_hook;
  std::shared_ptr<Registry> registry = std::make_shared<Registry>(
      loop, Registry::Ways{[this](rpc::SessionId session, const std::vector<MembershipChange>& changes) {
                             for (const MembershipChange& change : changes)
                               told.emplace_back(session, change);
                             if (tell_hook) tell_hook(session);
                           },
                           [](rpc::SessionId, Duration) {}, [this](rpc::SessionId) { return caller; }});
};

}  // namespace

TEST_CASE("registry: an id, a name and a session belong to one member") {
  Office office;
  REQUIRE(office.join(rpc::kLocal, 1, "first").ok());
  REQUIRE(office.join(7, 2, "second").ok());
  const auto same_id = office.join(8, 2, "third");
  CHECK(code_of(same_id) == Code::kAlreadyExists);
  CHECK(contains(text_of(same_id), "'second'"));
  CHECK(code_of(office.join(8, 3, "second")) == Code::kAlreadyExists);
  CHECK(code_of(office.join(7, 3, "third")) == Code::kAlreadyExists);
  CHECK(office.registry->list().members.size() == 2);
  // The end of the session of one who was refused is nobody's death.
  office.registry->session_closed(8, "gone");
  CHECK(office.registry->list().members.size() == 2);
  office.registry->session_closed(7, "gone");
  REQUIRE(office.join(8, 2, "second").ok());
  CHECK(office.registry->list().members.size() == 2);
}

TEST_CASE("registry: a member is known by the session on which it joined, as long as it is there") {
  Office office;
  REQUIRE(office.join(rpc::kLocal, 1, "first").ok());
  REQUIRE(office.join(7, 2, "second").ok());
  CHECK(office.registry->session_of(1) == rpc::kLocal);
  CHECK(office.registry->session_of(2) == rpc::SessionId{7});
  CHECK_FALSE(office.registry->session_of(3).has_value());
  REQUIRE(office.registry->leave(Office::on(7)).ok());
  CHECK_FALSE(office.registry->session_of(2).has_value());
}

TEST_CASE("registry: if one who is told throws, all are told of what comes after, others of this, too") {
  Office office;
  REQUIRE(office.join(rpc::kLocal, 1, "first").ok());
  REQUIRE(office.join(7, 2, "second").ok());
  office.settle();
  office.told.clear();
  office.tell_hook = [](rpc::SessionId session) {
    if (session != 7) throw std::runtime_error("not now");
  };
  REQUIRE(office.join(6, 5, "other").ok());
  REQUIRE(office.join(8, 3, "third").ok());
  office.settle();
  CHECK(office.exceptions > 0);
  office.tell_hook = nullptr;
  const auto heard = [&](rpc::SessionId session, const std::string& name) {
    return std::any_of(office.told.begin(), office.told.end(), [&](const auto& each) {
      return each.first == session && each.second.member.name == name;
    });
  };
  CHECK(heard(7, "third"));
  REQUIRE(office.join(9, 4, "fourth").ok());
  CHECK(heard(rpc::kLocal, "fourth"));
  office.settle();
  CHECK(heard(7, "fourth"));
}

TEST_CASE("registry: the first node watches a member on the link on which it joined, and dials no other") {
  for (std::uint64_t seed = 1; seed <= 20; ++seed) {
    CAPTURE(seed);
    SimCluster cluster({.seed = seed});
    std::vector<std::string> lines;
    LogOptions log_options;
    log_options.level = LogLevel::kDebug;
    log_options.write = [&](std::string_view line) { lines.emplace_back(line); };
    auto log = Logger::open(log_options);
    REQUIRE(log);
    cluster.add("first");
    auto second = cluster.start({.name = "second", .log = *log});
    REQUIRE(second.ok());
    cluster.world.run_for(5s);
    CHECK(std::count_if(lines.begin(), lines.end(),
                        [](const std::string& line) { return contains(line, "met"); }) == 1);
  }
}

TEST_CASE("registry: the end of an actor of which it could not be told is told again") {
  SimCluster cluster;
  cluster.add("first");
  const auto start = [&](const std::string& name) {
    auto node = cluster.start({.name = name, .default_timeout = 300ms});
    REQUIRE(node.ok());
    return std::move(*node);
  };
  const auto second = start("second");
  const auto third = start("third");
  for (const std::string name : {"a", "b"}) REQUIRE(second->serve(name, rpc::Functions()).ok());
  cluster.world.run_for(1s);
  cluster.world.set_partition("first", "second", true);
  for (const std::string name : {"a", "b"}) CHECK_FALSE(second->kill(name).ok());
  cluster.world.set_partition("first", "second", false);
  // Nothing keeps the node itself from giving the name again at once, nor others after a while.
  CHECK(second->serve("a", rpc::Functions()).ok());
  CHECK(code_of(third->serve("b", rpc::Functions())) == Code::kAlreadyExists);
  cluster.world.run_for(3s);
  CHECK(third->serve("b", rpc::Functions()).ok());
  CHECK(code_of(third->serve("a", rpc::Functions())) == Code::kAlreadyExists);
  CHECK(third->wait_for_actor("a", 1s).ok());
}

}  // namespace troupe::test
