// Named actors as ordinary CAF actors: from scoped and event-based actors, on CAF's own scheduler.
#include <atomic>
#include <string>
#include <thread>
#include <vector>

#include "actors/caf/types.hpp"
#include "actors/cluster.hpp"
#include "actors/process.hpp"
#include "actors/states.hpp"

using namespace troupe;
using namespace troupe::test;
using namespace std::chrono_literals;

namespace {

/// A method for each type, named after it, that gives back what it gets.
struct Echo {
  template <class T>
  static void add(rpc::Methods<Echo>& methods, const std::string& name) {
    methods.add(name, [](Echo&, const T& value) { return value; });
  }
  static void methods(rpc::Methods<Echo>& methods) {
    add<bool>(methods, "bool");
    add<std::int8_t>(methods, "i8");
    add<std::int16_t>(methods, "i16");
    add<std::int32_t>(methods, "i32");
    add<std::int64_t>(methods, "i64");
    add<std::uint8_t>(methods, "u8");
    add<std::uint16_t>(methods, "u16");
    add<std::uint32_t>(methods, "u32");
    add<std::uint64_t>(methods, "u64");
    add<float>(methods, "f32");
    add<double>(methods, "f64");
    add<std::string>(methods, "text");
    add<Tensor>(methods, "tensor");
    add<std::vector<std::int8_t>>(methods, "v_i8");
    add<std::vector<std::uint8_t>>(methods, "v_u8");
    add<std::vector<std::int16_t>>(methods, "v_i16");
    add<std::vector<std::uint16_t>>(methods, "v_u16");
    add<std::vector<std::int32_t>>(methods, "v_i32");
    add<std::vector<std::uint32_t>>(methods, "v_u32");
    add<std::vector<std::int64_t>>(methods, "v_i64");
    add<std::vector<std::uint64_t>>(methods, "v_u64");
    add<std::vector<float>>(methods, "v_f32");
    add<std::vector<double>>(methods, "v_f64");
    methods.add("pair", [](Echo&, std::int64_t a, const std::string& b) { return std::pair(a, b); });
    methods.add("bytes", [](Echo&) { return std::vector<std::byte>(3); });
  }
};

struct Caf : TestTypes {
  Caf() {
    REQUIRE(bob.spawn<Calculator>("calculator").ok());
    REQUIRE(bob.spawn<Echo>("echo").ok());
    REQUIRE(alice.wait_for_actor("calculator", kPatience).ok());
    REQUIRE(alice.wait_for_actor("echo", kPatience).ok());
  }
  /// The answer to a request, or its error.
  template <class R, class... Args>
  Result<R> ask(const caf::actor& actor, const Args&... args) {
    caf::scoped_actor self(cluster.system());
    Result<R> answer = Error{Code::kUnknown, "nothing came"};
    self->request(actor, 20s, args...)
        .receive([&](const R& value) { answer = value; },
                 [&](const caf::error& error) { answer = from_caf(cluster.system(), error); });
    return answer;
  }
  template <class T>
  void check_echo(const caf::actor& echo, const std::string& method, const T& value) {
    CAPTURE(method);
    const auto answer = ask<T>(echo, method, value);
    REQUIRE_MESSAGE(answer.ok(), text_of(answer));
    CHECK(*answer == value);
  }

  RealCluster cluster;
  Node& alice = cluster.add("alice");
  Node& bob = cluster.add("bob");
};

}  // namespace

TEST_CASE_FIXTURE(Caf, "a scoped actor requests of local and remote named actors") {
  for (Node* node : {&alice, &bob}) {
    const auto calculator = node->actor("calculator");
    REQUIRE_MESSAGE(calculator.ok(), text_of(calculator));
    CHECK(*node->actor("calculator") == *calculator);
    CHECK(ask<std::int64_t>(*calculator, std::string("plus"), std::int64_t{40}, std::int64_t{2}).value() ==
          42);
    CHECK(ask<std::int64_t>(*calculator, plus_atom_v, std::int64_t{4}, std::int64_t{2}).value() == 6);
    const Tensor x = Tensor::of<float>({1, 2, 3});
    const auto sum = ask<Tensor>(*calculator, std::string("add"), x, x);
    REQUIRE_MESSAGE(sum.ok(), text_of(sum));
    CHECK(sum->as<float>()[2] == 6);
    caf::scoped_actor self(cluster.system());
    bool done = false;
    self->request(*calculator, 20s, std::string("nothing"))
        .receive([&] { done = true; }, [](const caf::error&) {});
    CHECK(done);
    self->send(*calculator, count_atom_v);  // one-way
  }
  while (ask<std::int64_t>(*alice.actor("calculator"), count_atom_v).value() < 3) continue;
}

TEST_CASE_FIXTURE(Caf, "every supported type makes the round trip") {
  const caf::actor echo = alice.actor("echo").value();
  check_echo(echo, "bool", true);
  check_echo(echo, "i8", std::int8_t{-128});
  check_echo(echo, "i16", std::int16_t{-32768});
  check_echo(echo, "i32", std::int32_t{INT32_MIN});
  check_echo(echo, "i64", std::int64_t{INT64_MIN});
  check_echo(echo, "u8", std::uint8_t{255});
  check_echo(echo, "u16", std::uint16_t{65535});
  check_echo(echo, "u32", std::uint32_t{UINT32_MAX});
  check_echo(echo, "u64", std::uint64_t{UINT64_MAX});
  check_echo(echo, "f32", 1.25F);
  check_echo(echo, "f64", -1e300);
  check_echo(echo, "text", std::string("a\0b", 3));
  check_echo(echo, "v_i8", std::vector<std::int8_t>{-1, 0, 1});
  check_echo(echo, "v_u8", std::vector<std::uint8_t>{0, 255});
  check_echo(echo, "v_i16", std::vector<std::int16_t>{-1, 300});
  check_echo(echo, "v_u16", std::vector<std::uint16_t>{1, 65535});
  check_echo(echo, "v_i32", std::vector<std::int32_t>{-1, 2});
  check_echo(echo, "v_u32", std::vector<std::uint32_t>{1, UINT32_MAX});
  check_echo(echo, "v_i64", std::vector<std::int64_t>{INT64_MIN, INT64_MAX});
  check_echo(echo, "v_u64", std::vector<std::uint64_t>{});
  check_echo(echo, "v_f32", std::vector<float>{0.5F, -2});
  check_echo(echo, "v_f64", std::vector<double>{1e-300});
  const auto tensor = ask<Tensor>(echo, std::string("tensor"), Tensor::of<std::int64_t>({5, 6}));
  REQUIRE_MESSAGE(tensor.ok(), text_of(tensor));
  CHECK(tensor->as<std::int64_t>()[1] == 6);

  // A pair becomes two elements.
  caf::scoped_actor self(cluster.system());
  bool came = false;
  self->request(echo, 20s, std::string("pair"), std::int64_t{7}, std::string("x"))
      .receive([&](std::int64_t a, const std::string& b) { came = a == 7 && b == "x"; },
               [&](const caf::error& error) { FAIL(caf::to_string(error)); });
  CHECK(came);
  const auto bytes = ask<std::string>(echo, std::string("bytes"));
  CHECK(code_of(bytes) == Code::kUnimplemented);
}

TEST_CASE_FIXTURE(Caf, "errors come as caf::error of category troupe, with code and message") {
  const caf::actor calculator = alice.actor("calculator").value();
  const auto method = ask<std::int64_t>(calculator, std::string("cuont"));
  CHECK(code_of(method) == Code::kUnimplemented);
  CHECK(contains(text_of(method), "calculator.cuont"));
  CHECK(contains(text_of(method), "add, count"));
  CHECK(code_of(ask<std::int64_t>(calculator, std::string("plus"), 1.5)) == Code::kInvalidArgument);
  CHECK(code_of(ask<std::int64_t>(calculator, std::string("plus"), std::string("a"), std::int64_t{1})) ==
        Code::kInvalidArgument);
  const auto refused = ask<std::int64_t>(calculator, std::string("refuse"), std::string("not today"));
  CHECK(code_of(refused) == Code::kFailedPrecondition);
  CHECK(contains(text_of(refused), "not today"));
  const auto thrown = ask<std::int64_t>(calculator, std::string("explode"), std::string("boom"));
  CHECK(code_of(thrown) == Code::kInternal);
  CHECK(contains(text_of(thrown), "boom"));

  const auto unsendable = ask<std::int64_t>(calculator, std::string("count"), Unannounced{});
  CHECK(code_of(unsendable) == Code::kInvalidArgument);
  CHECK(contains(text_of(unsendable), "argument 1"));
  const auto nameless = ask<std::int64_t>(calculator, std::int64_t{1});
  CHECK(code_of(nameless) == Code::kUnimplemented);
  CHECK(contains(text_of(nameless), "add, count"));

  caf::scoped_actor self(cluster.system());
  caf::error raw;
  self->request(calculator, 20s, std::string("cuont"))
      .receive([](std::int64_t) {}, [&](const caf::error& error) { raw = error; });
  CHECK(raw.category() == kCafErrorCategory);
  CHECK(raw.code() == static_cast<std::uint8_t>(Code::kUnimplemented));
  CHECK(code_of(alice.actor("calculater")) == Code::kNotFound);
  // Another category's error keeps its text.
  const Error other = from_caf(cluster.system(), caf::make_error(caf::sec::request_timeout));
  CHECK(other.code == Code::kDeadlineExceeded);
  CHECK(contains(other.message, "timeout"));
}

TEST_CASE_FIXTURE(Caf, "an event-based actor on CAF's scheduler requests, chains and gets errors") {
  const caf::actor calculator = alice.actor("calculator").value();
  struct Seen {
    explicit Seen(Loop& of) : loop(of) {}
    Loop& loop;
    Signal done;
    std::int64_t last = 0;
    Code code = Code::kOk;
    std::atomic<bool> on_our_loop{false};
    void look() {
      if (loop.in_turn()) on_our_loop = true;
    }
  } all(alice.loop());
  Seen* const seen = &all;  // it outlives the actor's lambdas, which are gone once they have run
  const auto refuse = [seen, calculator](caf::event_based_actor* self) {
    self->request(calculator, 20s, refuse_atom_v, std::string("no"))
        .then([](std::int64_t) {},
              [=](const caf::error& error) {
                seen->look();
                seen->code = from_caf(self->system(), error).code;
                seen->done.set();
              });
  };
  const auto worker = cluster.system().spawn([=](caf::event_based_actor* self) {
    self->request(calculator, 20s, plus_atom_v, std::int64_t{1}, std::int64_t{2}).then([=](std::int64_t sum) {
      seen->look();
      self->request(calculator, 20s, plus_atom_v, sum, std::int64_t{10}).then([=](std::int64_t next) {
        seen->last = next;
        refuse(self);
      });
    });
  });
  REQUIRE(cluster.wait(seen->done));
  CHECK(seen->last == 13);
  CHECK(seen->code == Code::kFailedPrecondition);
  CHECK_FALSE(seen->on_our_loop);
}

namespace {
/// An actor that sets a signal when `target` goes down, on CAF's scheduler and not on the loop of `node`; it
/// lives as long as somebody has its handle.
[[nodiscard]] caf::actor set_when_down(Cluster& cluster, Node& node, const caf::actor& target, Signal& down,
                                       std::atomic<int>& code, bool link = false) {
  Signal watching;
  Signal* const begun = &watching;
  caf::actor watcher = cluster.system().spawn(
      [=, loop = &node.loop(), ended = &down, why = &code](caf::event_based_actor* self) {
        const auto note = [=](const caf::error& reason) {
          *why = loop->in_turn() ? -1 : static_cast<int>(from_caf(self->system(), reason).code);
          self->quit();
          ended->set();
        };
        if (link) {
          self->set_exit_handler([note](const caf::exit_msg& message) { note(message.reason); });
          self->link_to(target);
        } else {
          self->set_down_handler([note](const caf::down_msg& message) { note(message.reason); });
          self->monitor(target);
        }
        begun->set();
        return caf::behavior{[](caf::ok_atom) {}};
      });
  REQUIRE(cluster.wait(watching));
  return watcher;
}
}  // namespace

TEST_CASE_FIXTURE(Caf, "who monitors or links to a handle hears of the actor's end, and of its node's") {
  const caf::actor calculator = alice.actor("calculator").value();
  const caf::actor echo = alice.actor("echo").value();
  Signal calculator_down;
  Signal echo_down;
  Signal echo_exit;
  std::atomic<int> codes[3]{};
  const caf::actor watcher1 = set_when_down(cluster, alice, calculator, calculator_down, codes[0]);
  const caf::actor watcher2 = set_when_down(cluster, alice, echo, echo_down, codes[1]);
  const caf::actor watcher3 = set_when_down(cluster, alice, echo, echo_exit, codes[2], true);
  REQUIRE(bob.kill("calculator").ok());
  REQUIRE(cluster.wait(calculator_down));
  CHECK(codes[0] == static_cast<int>(Code::kUnavailable));
  CHECK_FALSE(echo_down.is_set());
  CHECK(code_of(ask<std::int64_t>(calculator, count_atom_v)) == Code::kUnavailable);
  cluster.end("bob");
  REQUIRE(cluster.wait(echo_down));
  REQUIRE(cluster.wait(echo_exit));
  CHECK(codes[1] == static_cast<int>(Code::kUnavailable));
  CHECK(codes[2] == static_cast<int>(Code::kUnavailable));
  // A new life of the name has a handle of its own.
  REQUIRE(alice.spawn<Calculator>("calculator").ok());
  const auto again = alice.actor("calculator");
  REQUIRE_MESSAGE(again.ok(), text_of(again));
  CHECK(*again != calculator);
  CHECK(ask<std::int64_t>(*again, count_atom_v).value() == 1);
}

TEST_CASE("down_msg comes also when the process is killed, be it the first node's") {
  register_test_types();
  for (const bool first : {false, true}) {
    CAPTURE(first);
    RealCluster cluster;
    std::unique_ptr<Process> victim;
    if (!first) cluster.add("alice");
    victim = std::make_unique<Process>(NodeProcess{.name = "victim", .registry = cluster.registry}.command());
    const std::string ready = victim->line();
    REQUIRE_MESSAGE(ready.starts_with("ready "), ready);
    if (first) cluster.registry = ready.substr(6);
    Node& bob = cluster.add("bob");
    REQUIRE(bob.wait_for_actor("victim", kPatience).ok());
    Changes changes(bob);
    const caf::actor handle = bob.actor("victim").value();
    Signal down;
    std::atomic<int> code{0};
    const caf::actor watcher = set_when_down(cluster, bob, handle, down, code);
    victim->kill();
    REQUIRE(cluster.wait(down));
    CHECK(code == static_cast<int>(Code::kUnavailable));
    REQUIRE(cluster.wait(*changes.signal(MembershipEvent::kDied, "victim")));
    CHECK(code_of(bob.rpc_sync<std::int64_t>("victim", "count")) == Code::kUnavailable);
  }
}

TEST_CASE_FIXTURE(Caf, "a handle may outlive its node and then answers with errors") {
  const caf::actor remote = alice.actor("calculator").value();
  const caf::actor local = bob.actor("calculator").value();
  cluster.end("bob");
  cluster.end("alice");
  for (const caf::actor& handle : {remote, local}) {
    const auto answer = ask<std::int64_t>(handle, count_atom_v);
    CHECK(code_of(answer) == Code::kUnavailable);
    caf::anon_send(handle, count_atom_v);
    caf::anon_send_exit(handle, caf::exit_reason::kill);
  }
}

TEST_CASE("requests from other threads while the node goes are all answered") {
  register_test_types();
  for (int round = 0; round < 20; ++round) {
    RealCluster cluster;
    Node& alice = cluster.add("alice");
    Node& bob = cluster.add("bob");
    REQUIRE(bob.spawn<Calculator>("calculator").ok());
    REQUIRE(alice.wait_for_actor("calculator", kPatience).ok());
    const caf::actor handle = alice.actor("calculator").value();
    std::atomic<bool> going{false};
    std::atomic<int> unanswered{0};
    std::vector<std::thread> threads;
    threads.reserve(2);
    for (int t = 0; t < 2; ++t)
      threads.emplace_back([&] {
        caf::scoped_actor self(cluster.system());
        for (int after = 0; after < 5; after += going) {
          unanswered += 3;
          for (int i = 0; i < 3; ++i)
            self->request(handle, 20s, count_atom_v)
                .receive(
                    [&](std::int64_t) { --unanswered; },
                    [&](const caf::error& error) { unanswered -= error.category() == kCafErrorCategory; });
        }
      });
    for (int i = 0; i < 10; ++i) REQUIRE(alice.rpc_sync<std::int64_t>("calculator", "count").ok());
    cluster.end(round % 2 == 0 ? "alice" : "bob");
    going = true;
    for (std::thread& thread : threads) thread.join();
    CHECK(unanswered == 0);
  }
}
