// What only the simulated network can do to two endpoints: stop, cut, lose, repeat, reorder, corrupt.
#include <map>
#include <random>

#include "endpoint_support.hpp"
#include "support/seed.hpp"

namespace troupe::rpc::testing {

namespace {

using SimDuo = Duo<contract::Sim>;

EndpointOptions watchful(std::uint64_t id, const std::string& name) {
  auto options = options_of(id, name);
  options.heartbeat_interval = 100ms;
  options.silence_limit = 500ms;
  return options;
}

}  // namespace

TEST_CASE("faults: a peer that stops is found dead after the silence limit") {
  SimDuo duo(watchful(1, "alice"), watchful(2, "bob"));
  duo.connect();
  Answer& answer = duo.answer();
  start_call(*duo.a.endpoint, {duo.ab, Side::kKeeper}, "k", 60s, answer);
  REQUIRE(duo.until([&] { return duo.b.service.kept.size() == 1; }));
  const TimePoint begun = duo.world.world.clock().now();
  duo.world.world.stop("b");
  REQUIRE(duo.until([&] { return answer.count == 1; }));
  const Duration took = duo.world.world.clock().now() - begun;
  CHECK(answer.code() == Code::kUnavailable);
  CHECK(answer.error->message.find("nothing was heard of the node") != std::string::npos);
  CHECK(took >= Duration(400ms));
  CHECK(took <= Duration(800ms));
  CHECK(duo.a.closed.size() == 1);
  // When it goes on it learns that it was given up, and can come back.
  duo.world.world.resume("b");
  REQUIRE(duo.until([&] { return duo.b.closed.size() == 1; }));
  duo.a.sessions.clear();
  duo.b.sessions.clear();
  duo.connect();
  CHECK(duo.call<std::int64_t>("add", 1, 1).value() == 2);
}

TEST_CASE("faults: a short stop is no death") {
  SimDuo duo(watchful(1, "alice"), watchful(2, "bob"));
  duo.connect();
  duo.world.world.stop("b");
  duo.settle(250ms);
  duo.world.world.resume("b");
  CHECK(duo.call<std::int64_t>("add", 1, 1).value() == 2);
  duo.settle(5s);
  CHECK(duo.a.closed.empty());
  CHECK(duo.b.closed.empty());
}

TEST_CASE("faults: a cut way is noticed by both sides") {
  SimDuo duo(watchful(1, "alice"), watchful(2, "bob"));
  duo.connect();
  std::vector<Answer>& answers = duo.answers(2);
  start_call(*duo.a.endpoint, {duo.ab, Side::kKeeper}, "k", 60s, answers[0]);
  start_call(*duo.b.endpoint, {duo.ba, Side::kKeeper}, "k", 60s, answers[1]);
  duo.settle(1ms);
  duo.world.world.set_partition("a", "b", true);
  REQUIRE(duo.until([&] { return answers[0].count + answers[1].count == 2; }));
  for (const Answer& answer : answers) CHECK(answer.code() == Code::kUnavailable);
  CHECK(duo.a.closed.size() == 1);
  CHECK(duo.b.closed.size() == 1);
}

TEST_CASE("faults: a killed peer's calls end with its death notice") {
  SimDuo duo(options_of(1, "alice"), options_of(2, "bob"));
  duo.connect();
  Answer& answer = duo.answer();
  start_call(*duo.a.endpoint, {duo.ab, Side::kKeeper}, "k", 60s, answer);
  duo.settle(1ms);
  const TimePoint begun = duo.world.world.clock().now();
  duo.world.world.kill("b");
  REQUIRE(duo.until([&] { return answer.count == 1; }));
  CHECK(answer.code() == Code::kUnavailable);
  CHECK(duo.world.world.clock().now() - begun < Duration(5ms));
}

TEST_CASE("faults: lost messages end in deadlines, each call once") {
  SimOptions net;
  net.seed = test::test_seed();
  SimDuo duo(options_of(1, "alice"), options_of(2, "bob"), net);
  duo.connect();
  duo.world.world.options().loss = 0.3;
  auto& answers = duo.answers(500);
  for (std::size_t i = 0; i < answers.size(); ++i)
    start_call(*duo.a.endpoint, {duo.ab, 1}, "add", 100ms, answers[i], i, 1);
  REQUIRE(duo.until([&] { return duo.a.endpoint->open_calls() == 0; }));
  duo.settle(1s);
  std::map<Code, int> outcomes;
  for (const Answer& answer : answers) {
    CHECK(answer.count == 1);
    ++outcomes[answer.code()];
  }
  CHECK(outcomes[Code::kOk] > 100);
  CHECK(outcomes[Code::kDeadlineExceeded] > 100);
  CHECK(outcomes.size() == 2);
}

TEST_CASE("faults: repeated and reordered messages change no answer") {
  SimOptions net;
  net.seed = test::test_seed();
  net.duplication = 0.3;
  net.reordering = 0.3;
  SimDuo duo(options_of(1, "alice"), options_of(2, "bob"), net);
  duo.connect();
  auto& answers = duo.answers(1000);
  for (std::size_t i = 0; i < answers.size(); ++i)
    start_call(*duo.a.endpoint, {duo.ab, 1}, "add", 10s, answers[i], i, 1);
  REQUIRE(duo.until([&] { return duo.a.endpoint->open_calls() == 0; }));
  duo.settle(1s);
  for (std::size_t i = 0; i < answers.size(); ++i) {
    CHECK(answers[i].count == 1);
    std::uint64_t sum = 0;
    REQUIRE(answers[i].message);
    CHECK(answers[i].message->value(0).read_unsigned(sum));
    CHECK(sum == i + 1);
  }
  CHECK(duo.a.endpoint->stats().replies_late > 0);  // the repeated answers
}

TEST_CASE("faults: corrupt messages end sessions or calls, never the process") {
  SimOptions net;
  net.seed = test::test_seed();
  SimDuo duo(options_of(1, "alice"), options_of(2, "bob"), net);
  duo.connect();
  duo.world.world.options().corruption = 0.05;
  int ended = 0;
  for (int round = 0; round < 50; ++round) {
    auto& answers = duo.answers(20);
    const Tensor tensor = Tensor::zeros(DType::kFloat32, Shape({50}));
    for (std::size_t i = 0; i < answers.size(); ++i) {
      if (i % 2)
        start_call(*duo.a.endpoint, {duo.ab, 1}, "tensor", 50ms, answers[i], tensor);
      else
        start_call(*duo.a.endpoint, {duo.ab, 1}, "add", 50ms, answers[i], i, 1);
    }
    REQUIRE(duo.until([&] { return duo.a.endpoint->open_calls() == 0; }));
    for (const Answer& answer : answers) CHECK(answer.count == 1);
    if (duo.a.endpoint->ready(duo.ab)) continue;
    ++ended;
    duo.a.sessions.clear();
    duo.b.sessions.clear();
    duo.connect();
  }
  CHECK(ended > 0);
}

TEST_CASE("faults: a handler that takes long is not taken for dead at once") {
  SimDuo duo(watchful(1, "alice"), watchful(2, "bob"));
  duo.connect();
  // The callee's loop is busy for less than the silence limit, then reads what has come meanwhile.
  for (int i = 0; i < 5; ++i) {
    duo.world.world.stop("b");
    duo.settle(300ms);
    duo.world.world.resume("b");
    duo.settle(200ms);
  }
  CHECK(duo.a.closed.empty());
  CHECK(duo.b.closed.empty());
}

TEST_CASE("faults: ten thousand random operations, and every call ends once and truthfully") {
  const std::uint64_t seed = test::test_seed();
  std::mt19937_64 random(seed);
  SimOptions net;
  net.seed = seed;
  SimDuo duo(watchful(1, "alice"), watchful(2, "bob"), net);
  Side* sides[2] = {&duo.a, &duo.b};
  struct Made {
    Answer* answer;
    std::uint64_t expected;
    bool adds;
    TimePoint deadline;
    std::uint64_t id;
    int side;
  };
  std::vector<Made> made;
  std::vector<SessionId> known[2] = {{kLocal}, {kLocal}};
  const auto pick_session = [&](int side) {
    for (const auto& [session, peer] : sides[side]->sessions) known[side].push_back(session);
    sides[side]->sessions.clear();
    return known[side][random() % 3 ? known[side].size() - 1 : random() % known[side].size()];
  };
  for (int step = 0; step < 10'000; ++step) {
    const int side = static_cast<int>(random() % 2);
    Endpoint& endpoint = *sides[side]->endpoint;
    auto& kept = sides[side]->service.kept;
    switch (random() % 16) {
      case 0:
        known[0].push_back(duo.a.endpoint->connect(duo.address).value());
        break;
      case 1:
        if (random() % 8 == 0) endpoint.close(pick_session(side), {Code::kAborted, "closed at random"});
        break;
      case 2:
        if (!made.empty()) {
          const Made& call = made[random() % made.size()];
          sides[call.side]->endpoint->cancel(call.id);
        }
        break;
      case 3:
      case 4:
        if (!kept.empty()) {
          const std::size_t which = random() % kept.size();
          if (random() % 4) kept[which]->reply(std::int64_t{-1});
          kept.erase(kept.begin() + static_cast<std::ptrdiff_t>(which));  // unanswered: dropped
        }
        break;
      case 5: {
        SimOptions& now = duo.world.world.options();
        now.loss = random() % 4 ? 0 : 0.1;
        now.duplication = random() % 4 ? 0 : 0.1;
        now.reordering = random() % 4 ? 0 : 0.1;
        break;
      }
      case 6:
        if (random() % 20 == 0) duo.world.world.stop("b");
        if (random() % 3 == 0) duo.world.world.resume("b");
        break;
      case 7:
        duo.world.world.set_partition("a", "b", random() % 20 == 0);
        break;
      case 8:
      case 9:
      case 10:
        duo.settle(Duration(static_cast<std::int64_t>(random() % 3'000'000)));
        break;
      default: {
        Made call{&duo.answer(), random() % 1000, random() % 3 != 0, {}, 0, side};
        const Duration timeout(static_cast<std::int64_t>(random() % 100'000'000) + 1);
        call.deadline = duo.world.world.clock().now() + timeout;
        made.push_back(call);
        Made& stored = made.back();
        stored.id = start_call(endpoint, {pick_session(side), stored.adds ? 1 : Side::kKeeper}, "add",
                               timeout, *call.answer, call.expected, 1);
      }
    }
  }
  duo.world.world.resume("b");
  duo.world.world.set_partition("a", "b", false);
  REQUIRE(duo.until([&] { return duo.a.endpoint->open_calls() == 0 && duo.b.endpoint->open_calls() == 0; }));
  std::map<Code, int> outcomes;
  for (const Made& call : made) {
    REQUIRE(call.answer->count == 1);
    ++outcomes[call.answer->code()];
    if (call.answer->code() != Code::kOk) continue;
    std::int64_t value = 0;
    REQUIRE(call.answer->message->value(0).read_integer(value));
    CHECK(value == (call.adds ? static_cast<std::int64_t>(call.expected) + 1 : -1));
  }
  for (const auto& [code, count] : outcomes) {
    const std::string name(to_string(code));
    CAPTURE(name);
    const bool expected = code == Code::kOk || code == Code::kDeadlineExceeded ||
                          code == Code::kUnavailable || code == Code::kCancelled || code == Code::kAborted ||
                          code == Code::kInternal;
    CHECK(expected);
  }
  CHECK(outcomes[Code::kOk] > 100);
}

}  // namespace troupe::rpc::testing
