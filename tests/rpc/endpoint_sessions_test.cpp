#include <random>

#include "endpoint_support.hpp"
#include "support/seed.hpp"

namespace troupe::rpc::testing {

TEST_CASE_TEMPLATE("session: another protocol version is refused, naming both", Kind,
                   TROUPE_ENDPOINT_TRANSPORTS) {
  auto newer = options_of(1, "alice");
  newer.protocol_version = 7;
  Duo<Kind> duo(newer);
  const SessionId session = duo.a.endpoint->connect(duo.address).value();
  Answer& answer = duo.answer();
  start_call(*duo.a.endpoint, {session, 1}, "add", 10s, answer, 1, 2);
  REQUIRE(duo.until([&] { return !duo.a.closed.empty() && !duo.b.closed.empty(); }));
  for (const Error& error : {duo.a.closed[0].second, duo.b.closed[0].second, *answer.error}) {
    CHECK(error.code == Code::kFailedPrecondition);
    CHECK(error.message.find("version 7 of node 'alice'") != std::string::npos);
    CHECK(error.message.find("version 2 of node 'bob'") != std::string::npos);
  }
  CHECK(answer.count == 1);
  CHECK(duo.a.sessions.empty());
  CHECK(duo.b.sessions.empty());
}

TEST_CASE_TEMPLATE("session: a peer that leaves ends every open call at once", Kind,
                   TROUPE_ENDPOINT_TRANSPORTS) {
  Duo<Kind> duo;
  duo.connect();
  auto& answers = duo.answers(100);
  for (Answer& answer : answers) start_call(*duo.a.endpoint, {duo.ab, Side::kKeeper}, "k", 60s, answer);
  REQUIRE(duo.until([&] { return duo.b.service.kept.size() == answers.size(); }));
  const TimePoint begun = duo.world.a.clock().now();
  duo.b.endpoint.reset();
  REQUIRE(duo.until([&] { return !duo.a.closed.empty(); }));
  CHECK(duo.world.a.clock().now() - begun < Duration(2s));
  for (const Answer& answer : answers) {
    CHECK(answer.count == 1);
    CHECK(answer.code() == Code::kUnavailable);
    CHECK(answer.error->message.find("bob") != std::string::npos);
  }
  CHECK(duo.a.closed.size() == 1);
  Answer& late = duo.answer();
  start_call(*duo.a.endpoint, {duo.ab, 1}, "add", 1s, late, 1, 2);
  CHECK(late.code() == Code::kUnavailable);
  duo.b.service.kept.clear();  // they outlive their endpoint
}

TEST_CASE_TEMPLATE("session: one's own shutdown answers what is open, in both directions", Kind,
                   TROUPE_ENDPOINT_TRANSPORTS) {
  Duo<Kind> duo;
  duo.connect();
  auto& ours = duo.answers(50);
  auto& theirs = duo.answers(50);
  auto& local = duo.answers(3);
  for (Answer& answer : ours) start_call(*duo.a.endpoint, {duo.ab, Side::kKeeper}, "k", 60s, answer);
  for (Answer& answer : theirs) start_call(*duo.b.endpoint, {duo.ba, Side::kKeeper}, "k", 60s, answer);
  for (Answer& answer : local) start_call(*duo.a.endpoint, {kLocal, Side::kKeeper}, "k", 60s, answer);
  // A sink that tries again at once gets its answer at once, too, and cannot keep the endpoint alive.
  Answer& again = duo.answer();
  REQUIRE(duo.until([&] { return duo.b.service.kept.size() == 50 && duo.a.service.kept.size() == 53; }));
  Endpoint* const going = duo.a.endpoint.get();
  ours[0].hook = [&] {
    start_call(*going, {duo.ab, 1}, "add", 60s, again, 1, 2);
    CHECK_FALSE(going->connect(duo.address).ok());
  };
  duo.a.endpoint.reset();
  CHECK(again.code() == Code::kCancelled);
  for (const Answer& answer : ours) CHECK((answer.count == 1 && answer.code() == Code::kCancelled));
  for (const Answer& answer : local) CHECK((answer.count == 1 && answer.code() == Code::kCancelled));
  REQUIRE(duo.until([&] { return !duo.b.closed.empty(); }));
  for (const Answer& answer : theirs) CHECK((answer.count == 1 && answer.code() == Code::kUnavailable));
  for (auto& call : duo.b.service.kept) CHECK(call->cancelled());
}

TEST_CASE_TEMPLATE("session: closing one tells the peer why", Kind, TROUPE_ENDPOINT_TRANSPORTS) {
  Duo<Kind> duo;
  duo.connect();
  Answer& answer = duo.answer();
  start_call(*duo.a.endpoint, {duo.ab, Side::kKeeper}, "k", 60s, answer);
  REQUIRE(duo.until([&] { return duo.b.service.kept.size() == 1; }));
  duo.a.endpoint->close(duo.ab, {Code::kAborted, "out of fashion"});
  CHECK(answer.code() == Code::kAborted);
  CHECK(duo.a.closed.empty());
  REQUIRE(duo.until([&] { return !duo.b.closed.empty(); }));
  CHECK(duo.b.closed[0].second.message.find("out of fashion") != std::string::npos);
  duo.a.endpoint->close(duo.ab, {Code::kAborted, "again"});
}

TEST_CASE_TEMPLATE("session: where nobody listens calls fail soon", Kind, TROUPE_ENDPOINT_TRANSPORTS) {
  Duo<Kind> duo;
  const SessionId session = duo.a.endpoint->connect(Kind::kDeaf).value();
  Answer& answer = duo.answer();
  start_call(*duo.a.endpoint, {session, 1}, "add", 60s, answer, 1, 2);
  REQUIRE(duo.until([&] { return answer.count == 1; }));
  CHECK(answer.code() == Code::kUnavailable);
  CHECK(duo.a.closed.size() == 1);
  CHECK_FALSE(duo.a.endpoint->connect("not an address").ok());
}

TEST_CASE_TEMPLATE("session: a listener that says nothing is given up in time", Kind,
                   TROUPE_ENDPOINT_TRANSPORTS) {
  auto options = options_of(1, "alice");
  options.handshake_timeout = 60ms;
  Duo<Kind> duo(options);
  Stranger stranger(duo.world.make(duo.world.b, "b"));
  const std::string there = stranger.transport->listen(Kind::kAnyPort).value();
  const TimePoint begun = duo.world.a.clock().now();
  const SessionId session = duo.a.endpoint->connect(there).value();
  Answer& answer = duo.answer();
  start_call(*duo.a.endpoint, {session, 1}, "add", 60s, answer, 1, 2);
  REQUIRE(duo.until([&] { return answer.count == 1; }));
  CHECK(answer.code() == Code::kUnavailable);
  CHECK(answer.error->message.find("no meeting with") != std::string::npos);
  CHECK(duo.world.a.clock().now() - begun >= Duration(60ms));
  CHECK(duo.world.a.clock().now() - begun < Duration(5s));
}

TEST_CASE_TEMPLATE("session: garbage on the control way ends that link only", Kind,
                   TROUPE_ENDPOINT_TRANSPORTS) {
  Duo<Kind> duo;
  duo.connect();
  std::mt19937_64 random(test::test_seed());
  Stranger stranger(duo.world.make(duo.world.a, "a"));
  for (std::size_t i = 0; i < 30; ++i) {
    const std::size_t seen = stranger.links.size();
    (void)stranger.transport->dial(duo.address).value();
    REQUIRE(duo.until([&] { return stranger.links.size() > seen; }));
    std::vector<std::uint64_t> words(random() % 12);
    for (auto& word : words) word = random() % 2 ? random() : random() % 6;
    if (!words.empty() && random() % 2) words[0] = (words.size() - 1) << 32;
    const auto bytes = std::as_bytes(std::span(words));
    stranger.transport->send_control(stranger.links.back(),
                                     bytes.first(bytes.size() - random() % 2 * (bytes.size() > 0)));
    // What says hello, heartbeat or goodbye by chance does not end the link by itself.
    duo.settle(2ms);
    stranger.transport->close(stranger.links.back());
  }
  CHECK(duo.template call<std::int64_t>("add", 1, 1).value() == 2);
  CHECK(duo.a.closed.empty());
}

TEST_CASE_TEMPLATE("session: a callback may end sessions and begin others", Kind,
                   TROUPE_ENDPOINT_TRANSPORTS) {
  Duo<Kind> duo;
  duo.connect();
  auto& answers = duo.answers(10);
  auto& later = duo.answers(10);
  for (std::size_t i = 0; i < answers.size(); ++i) {
    start_call(*duo.a.endpoint, {duo.ab, Side::kKeeper}, "k", 60s, answers[i]);
    // Each end makes new calls, on the dead session, on itself and on a new one.
    answers[i].hook = [&, i] {
      duo.a.endpoint->close(duo.ab, {Code::kAborted, "in a callback"});
      const SessionId fresh = duo.a.endpoint->connect(duo.address).value();
      start_call(*duo.a.endpoint, {i % 2 ? fresh : kLocal, 1}, "add", 60s, later[i], 1, 2);
    };
  }
  REQUIRE(duo.until([&] { return duo.b.service.kept.size() == answers.size(); }));
  // The handler of a call ends the session on which it came, then answers.
  duo.a.handler = [&](InboundCallPtr call) {
    if (call->session() == kLocal) return call->reply(3);
    duo.a.endpoint->close(call->session(), {Code::kAborted, "by its own handler"});
    CHECK(call->cancelled());
    call->reply(1);
  };
  Answer& back = duo.answer();
  start_call(*duo.b.endpoint, {duo.ba, 1}, "any", 60s, back);
  REQUIRE(duo.until([&] { return back.count == 1; }));
  duo.a.handler = nullptr;
  for (const Answer& answer : answers) CHECK((answer.count == 1 && answer.code() == Code::kAborted));
  CHECK(back.code() == Code::kUnavailable);
  REQUIRE(duo.until([&] { return duo.a.endpoint->open_calls() == 0; }));
  for (const Answer& answer : later) CHECK(answer.code() == Code::kOk);
}

namespace {
/// Ends when it is asked whether it wants to meet somebody.
struct Unsociable final : EndpointEvents {
  std::unique_ptr<Endpoint> endpoint;
  int asked = 0;
  Result<void> may_meet(const Peer&) override {
    ++asked;
    endpoint->shut_down();
    return {};
  }
  void on_call(InboundCallPtr) override {}
  void on_session(SessionId, const Peer&) override { FAIL("it has ended"); }
  void on_session_closed(SessionId, const Peer&, const Error&) override {}
};
}  // namespace

TEST_CASE_TEMPLATE("session: who is asked whether a peer may be met may end it", Kind,
                   TROUPE_ENDPOINT_TRANSPORTS) {
  Duo<Kind> duo;
  Unsociable c;
  c.endpoint =
      std::make_unique<Endpoint>(duo.world.a, duo.world.make(duo.world.a, "c"), options_of(3, "carol"), c);
  static_cast<void>(c.endpoint->connect(duo.address).value());
  REQUIRE(duo.until([&] { return duo.b.closed.size() == 1; }));
  CHECK(c.asked == 1);
  CHECK(duo.b.sessions.empty());
}

TEST_CASE_TEMPLATE("session: an idle one stays alive", Kind, TROUPE_ENDPOINT_TRANSPORTS) {
  auto options = options_of(1, "alice"), for_b = options_of(2, "bob");
  for (EndpointOptions* each : {&options, &for_b}) {
    each->heartbeat_interval = 20ms;
    each->silence_limit = 2s;
  }
  Duo<Kind> duo(options, for_b);
  duo.connect();
  duo.settle(std::is_same_v<Kind, contract::Sim> ? Duration(600s) : Duration(200ms));
  CHECK(duo.template call<std::int64_t>("add", 1, 1).value() == 2);
  CHECK(duo.a.closed.empty());
  CHECK(duo.b.closed.empty());
}

TEST_CASE_TEMPLATE("session: a hundred endpoints come and go", Kind, TROUPE_ENDPOINT_TRANSPORTS) {
  Duo<Kind> duo;
  constexpr int kRounds = std::is_same_v<Kind, contract::Sim> ? 100 : 10;
  for (int i = 0; i < kRounds; ++i) {
    Side guest;
    guest.endpoint =
        std::make_unique<Endpoint>(duo.world.a, duo.world.make(duo.world.a, "a"),
                                   options_of(100 + static_cast<std::uint64_t>(i), "guest"), guest);
    const SessionId session = guest.endpoint->connect(duo.address).value();
    Answer& answer = duo.answer();
    Answer& open = duo.answer();
    start_call(*guest.endpoint, {session, 1}, "add", 10s, answer, i, 1);
    start_call(*guest.endpoint, {session, Side::kKeeper}, "k", 10s, open);
    REQUIRE(duo.until([&] { return answer.count == 1; }));
    CHECK(answer.code() == Code::kOk);
    guest.endpoint.reset();
    CHECK(open.code() == Code::kCancelled);
  }
  REQUIRE(duo.until([&] { return duo.b.closed.size() == kRounds; }));
}

}  // namespace troupe::rpc::testing
