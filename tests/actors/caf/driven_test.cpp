// CAF's own way of testing: its test scheduler runs one job at a time, and the nodes live in virtual time. So
// an application with both is driven message by message, on one thread, the same way each time.
#include <troupe/actors/caf_compat.hpp>
#if TROUPE_CAF < 100  // since 1.0 the test scheduler is in a library of CAF's own tests
#include <caf/scheduler/test_coordinator.hpp>

#include <string>
#include <vector>

#include "actors/cluster.hpp"

using namespace troupe;
using namespace troupe::test;
using namespace std::chrono_literals;

namespace {

/// What happened, in order.
using Events = std::vector<std::string>;

struct Adder {
  explicit Adder(Events& seen) : events(seen) {}
  Events& events;
  std::int64_t add(std::int64_t a, std::int64_t b) {
    events.push_back("the named actor adds");
    return a + b;
  }
  static void methods(rpc::Methods<Adder>& methods) { methods.add("add", &Adder::add); }
};

/// Two nodes in one actor system whose scheduler does nothing by itself.
struct Driven {
  Driven() {
    config.set("scheduler.policy", caf::atom("testing"));
    system = std::make_unique<caf::actor_system>(config);
    office = start("office", "");
    caller = start("caller", office->address());
  }
  std::unique_ptr<Node> start(const std::string& name, const std::string& registry) {
    NodeOptions options{.name = name, .registry = registry};
    options.system = system.get();
    options.clock = &world.clock();
    options.own_thread = false;
    options.loop = world.loop_options();
    options.listen = name + ":0";
    options.make_transport = [this, name](Loop& loop) -> Result<std::unique_ptr<rpc::Transport>> {
      return world.make_transport(loop, name);
    };
    auto node = Node::start(options);
    REQUIRE_MESSAGE(node.ok(), text_of(node));
    return std::move(*node);
  }
  caf::scheduler::test_coordinator& scheduler() {
    return dynamic_cast<caf::scheduler::test_coordinator&>(system->scheduler());
  }

  rpc::SimWorld world;
  caf::actor_system_config config;
  std::unique_ptr<caf::actor_system> system;
  std::unique_ptr<Node> office, caller;
  Events events;
};

}  // namespace

TEST_CASE_FIXTURE(Driven,
                  "driven: a published actor runs when the test says so, and the answer takes its time") {
  const caf::actor adder = system->spawn([this](caf::event_based_actor*) -> caf::behavior {
    return {[this](caf::add_atom, std::int64_t a, std::int64_t b) {
      events.push_back("the application's actor adds");
      return a + b;
    }};
  });
  scheduler().run();
  REQUIRE(office->publish("adder", adder, {"add"}).ok());
  REQUIRE(caller->wait_for_actor("adder", 1s).ok());
  auto sum = caller->rpc_async<std::int64_t>("adder", "add", std::int64_t{1}, std::int64_t{2});
  REQUIRE(world.run_until([&] { return scheduler().has_job(); }, world.clock().now() + 1s));
  CHECK(events.empty());  // it has the message and is not run
  CHECK_FALSE(sum.ready());
  scheduler().run_once();
  CHECK(events == Events{"the application's actor adds"});
  CHECK_FALSE(sum.ready());  // the answer is on its way
  const TimePoint answered = world.clock().now();
  CHECK(sum.get().value() == 3);
  CHECK(world.clock().now() > answered);
  // An actor that the test never runs: its caller hears at the deadline, to the nanosecond.
  const TimePoint asked = world.clock().now();
  auto late = caller->rpc_async_with<std::int64_t>({.timeout = 250ms}, "adder", "add", std::int64_t{1},
                                                   std::int64_t{2});
  CHECK(code_of(late.get()) == Code::kDeadlineExceeded);
  CHECK(world.clock().now() - asked == Duration(250ms));
  caf::anon_send_exit(adder, caf::exit_reason::user_shutdown);
  scheduler().run();
}

TEST_CASE_FIXTURE(Driven, "driven: an application's actor asks a named actor on another node, step by step") {
  REQUIRE(office->spawn<Adder>("adder", events).ok());
  REQUIRE(caller->wait_for_actor("adder", 1s).ok());
  const caf::actor handle = caller->actor("adder").value();
  std::int64_t sum = 0;
  const caf::actor client = system->spawn([&](caf::event_based_actor* self) {
    self->request(handle, caf::infinite, caf::add_atom_v, std::int64_t{20}, std::int64_t{22})
        .then([&](std::int64_t value) {
          events.push_back("the client hears");
          sum = value;
        });
  });
  scheduler().run_once();  // the client asks, and the request is posted to its node's loop
  CHECK(events.empty());
  REQUIRE(world.run_until([&] { return scheduler().has_job(); }, world.clock().now() + 1s));
  CHECK(events == Events{"the named actor adds"});
  CHECK(sum == 0);
  scheduler().run_once();
  CHECK(events == Events{"the named actor adds", "the client hears"});
  CHECK(sum == 42);
}
#endif
