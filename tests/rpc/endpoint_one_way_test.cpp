// One-way messages: nobody answers them, and still no more are under way than a peer may have.
#include <algorithm>
#include <utility>
#include <vector>

#include "endpoint_support.hpp"
#include "forger.hpp"
#include "session/one_way_bytes.hpp"
#include "wire/envelope_patch.hpp"

namespace troupe::rpc::testing {

namespace {

using contract::Shm;
using contract::Sim;
using contract::Tcp;
constexpr std::size_t kKiB = 1024;

EndpointOptions windowed(std::uint64_t id, const std::string& name, std::size_t window) {
  auto options = options_of(id, name);
  options.limits.max_bytes_in_flight = window;
  options.limits.max_inbound_bytes = 3 * window;
  return options;
}

/// Tells the session's peer `number`, with `bytes` bytes beside it.
Result<void> tell(Endpoint& endpoint, SessionId session, std::int64_t number, std::size_t bytes,
                  Duration timeout = 60s) {
  const Tensor tensor = Tensor::zeros(DType::kUInt8, Shape({static_cast<std::int64_t>(bytes)}));
  return endpoint.send({session, 1}, {fnv1a("tell"), 0}, {.timeout = timeout},
                       detail::arguments_writer(number, tensor));
}

std::int64_t number_of(const InboundCall& call) {
  std::int64_t number = -1;
  CHECK(call.message().value(0).read_integer(number));
  return number;
}

/// Keeps one-way messages as an actor does that is slow, and answers calls.
struct Slow {
  explicit Slow(Side& side) {
    side.handler = [this](InboundCallPtr call) {
      if (call->header().kind != MessageKind::kOneWay) return call->reply_void();
      bytes += call->bytes();
      seen.push_back(number_of(*call));
      if (keeps) kept.push_back(std::move(call));
    };
  }
  void let_go() {
    bytes = 0;
    kept.clear();
  }
  bool keeps = true;
  std::vector<InboundCallPtr> kept;
  std::vector<std::int64_t> seen;
  std::size_t bytes = 0;  // of those that are kept
};

#define TROUPE_ONE_WAY_TRANSPORTS Shm, Tcp, Sim

}  // namespace

TEST_CASE_TEMPLATE("one way: a flood waits for its callee, whose link is not paused, and calls go by", Kind,
                   TROUPE_ONE_WAY_TRANSPORTS) {
  constexpr std::size_t kWindow = 1024 * kKiB;
  constexpr std::int64_t kMessages = 64;
  Duo<Kind> duo(windowed(1, "alice", kWindow), windowed(2, "bob", kWindow));
  Slow slow(duo.b);
  duo.connect();
  for (std::int64_t i = 0; i < kMessages; ++i) REQUIRE(tell(*duo.a.endpoint, duo.ab, i, 100 * kKiB).ok());
  REQUIRE(duo.until([&] { return slow.kept.size() >= 8; }));
  duo.settle();
  CHECK(slow.bytes <= kWindow);
  CHECK(duo.a.endpoint->waiting().calls > 0);
  Answer& answer = duo.answer();
  start_call(*duo.a.endpoint, {duo.ab, 1}, "short", 30s, answer);
  REQUIRE(duo.until([&] { return answer.count == 1; }));
  CHECK(answer.code() == Code::kOk);
  REQUIRE(duo.until([&] {
    CHECK(slow.bytes <= kWindow);
    slow.let_go();
    return slow.seen.size() == static_cast<std::size_t>(kMessages);
  }));
  CHECK(std::is_sorted(slow.seen.begin(), slow.seen.end()));
  CHECK(duo.b.endpoint->stats().pauses == 0);
}

TEST_CASE_TEMPLATE("one way: a message longer than the window goes alone, though others go on", Kind,
                   TROUPE_ONE_WAY_TRANSPORTS) {
  constexpr std::size_t kWindow = 256 * kKiB;
  constexpr std::int64_t kLong = -7;
  Duo<Kind> duo(windowed(1, "alice", kWindow), windowed(2, "bob", kWindow));
  Slow slow(duo.b);
  duo.connect();
  // So little that nobody has asked for anything yet.
  REQUIRE(tell(*duo.a.endpoint, duo.ab, 0, 10).ok());
  REQUIRE(duo.until([&] { return slow.kept.size() == 1; }));
  REQUIRE(tell(*duo.a.endpoint, duo.ab, kLong, 4 * kWindow).ok());
  duo.settle();
  CHECK(slow.seen == std::vector<std::int64_t>{0});
  slow.keeps = false;
  slow.let_go();
  std::int64_t sent = 0;
  const auto long_one_came = [&] {
    return std::find(slow.seen.begin(), slow.seen.end(), kLong) != slow.seen.end();
  };
  REQUIRE(duo.until([&] {
    if (duo.a.endpoint->waiting().calls < 100) REQUIRE(tell(*duo.a.endpoint, duo.ab, ++sent, 10).ok());
    return long_one_came();
  }));
  REQUIRE(duo.until([&] { return slow.seen.size() == static_cast<std::size_t>(sent) + 2; }));
}

TEST_CASE_TEMPLATE("one way: what waits for long is overtaken by calls and answers, not by its kind", Kind,
                   TROUPE_ONE_WAY_TRANSPORTS) {
  constexpr std::size_t kWindow = 256 * kKiB;
  Duo<Kind> duo(windowed(1, "alice", kWindow), windowed(2, "bob", kWindow));
  Slow slow(duo.b);
  duo.connect();
  for (std::int64_t i = 0; i < 2; ++i) REQUIRE(tell(*duo.a.endpoint, duo.ab, i, 100 * kKiB).ok());
  REQUIRE(duo.until([&] { return slow.kept.size() == 2; }));
  REQUIRE(tell(*duo.a.endpoint, duo.ab, 2, 100 * kKiB).ok());  // for which there is no room
  Answer& before = duo.answer();
  start_call(*duo.a.endpoint, {duo.ab, 1}, "short", 30s, before);
  REQUIRE(tell(*duo.a.endpoint, duo.ab, 3, 10).ok());  // for which there would be
  Answer& behind = duo.answer();
  start_call(*duo.a.endpoint, {duo.ab, 1}, "short", 30s, behind);
  Answer& other_way = duo.answer();
  start_call(*duo.b.endpoint, {duo.ba, 1}, "echo", 30s, other_way, std::string_view("text"));
  REQUIRE(duo.until([&] { return before.count == 1 && other_way.count == 1; }));
  CHECK(before.code() == Code::kOk);
  CHECK(other_way.code() == Code::kOk);
  duo.settle();
  CHECK(slow.seen == std::vector<std::int64_t>{0, 1});
  CHECK(behind.count == 0);  // short messages stay in their order
  slow.kept.erase(slow.kept.begin());
  REQUIRE(duo.until([&] { return slow.seen.size() == 4 && behind.count == 1; }));
  CHECK(behind.code() == Code::kOk);
  std::ranges::sort(slow.seen);  // on the wire a long one may be overtaken
  CHECK(slow.seen == std::vector<std::int64_t>{0, 1, 2, 3});
}

TEST_CASE_TEMPLATE("one way: of a peer that heeds no window no more is read than its bytes allow", Kind,
                   TROUPE_ONE_WAY_TRANSPORTS) {
  constexpr std::size_t kWindow = 4 * kKiB * kKiB;
  // Alice believes that bob takes everything.
  Duo<Kind> duo(windowed(1, "alice", std::size_t{1} << 40), windowed(2, "bob", kWindow));
  Slow slow(duo.b);
  duo.connect();
  constexpr std::int64_t kMessages = 256;
  for (std::int64_t i = 0; i < kMessages; ++i) REQUIRE(tell(*duo.a.endpoint, duo.ab, i, kKiB * kKiB).ok());
  REQUIRE(duo.until([&] { return duo.b.endpoint->stats().pauses > 0; }));
  duo.settle(100ms);
  CHECK(slow.bytes < 64 * kKiB * kKiB);  // the bound, and what was on its way
  CHECK(duo.b.endpoint->ready(duo.ba));
  const bool all = duo.until([&] {
    slow.let_go();
    return slow.seen.size() == static_cast<std::size_t>(kMessages);
  });
  CAPTURE(slow.seen.size());
  CAPTURE(duo.a.endpoint->waiting().calls);
  CAPTURE(duo.b.closed.size());
  REQUIRE(all);
  CHECK(std::ranges::is_sorted(slow.seen));
}

TEST_CASE_TEMPLATE("one way: short messages count for what they take at their callee", Kind,
                   TROUPE_ONE_WAY_TRANSPORTS) {
  constexpr std::size_t kWindow = 128 * kKiB;
  constexpr std::int64_t kMessages = 2'000;
  bool heeds_windows = true;
  SUBCASE("where both keep to their windows") {}
  SUBCASE("where the sender knows of none") {
    heeds_windows = false;
  }
  Duo<Kind> duo(windowed(1, "alice", heeds_windows ? kWindow : std::size_t{1} << 40),
                windowed(2, "bob", kWindow));
  Slow slow(duo.b);
  duo.connect();
  for (std::int64_t i = 0; i < kMessages; ++i) REQUIRE(tell(*duo.a.endpoint, duo.ab, i, 0).ok());
  if (!heeds_windows) REQUIRE(duo.until([&] { return duo.b.endpoint->stats().pauses > 0; }));
  duo.settle(100ms);
  CHECK(slow.kept.size() > 32);
  CHECK(slow.kept.size() <= (heeds_windows ? 128 : 3 * 128 + 64));  // 64: a round's, which are on their way
  REQUIRE(duo.until([&] {
    slow.let_go();
    return slow.seen.size() == static_cast<std::size_t>(kMessages);
  }));
  CHECK(std::ranges::is_sorted(slow.seen));
  if (heeds_windows) CHECK(duo.b.endpoint->stats().pauses == 0);
}

TEST_CASE("one way: whoever has little under way sends nothing but its messages") {
  Duo<Sim> duo;
  Slow slow(duo.b);
  slow.keeps = false;
  duo.connect();
  duo.settle(10s);
  const std::uint64_t before = duo.world.world.messages();
  constexpr int kMessages = 1000;
  for (int i = 0; i < kMessages; ++i) REQUIRE(tell(*duo.a.endpoint, duo.ab, i, 0).ok());
  REQUIRE(duo.until([&] { return slow.seen.size() == kMessages; }));
  CHECK(duo.world.world.messages() - before == kMessages);
}

TEST_CASE("one way: those too late to be begun are done") {
  constexpr std::size_t kWindow = 100'000;
  contract::Sim world;
  Side a, b;
  Slow slow(b);
  bool is_late = false;
  const auto meddle = [&](OutFrame& frame) {
    if (std::exchange(is_late, false)) patch_remaining(frame.head, Duration{0});
  };
  a.endpoint = std::make_unique<Endpoint>(world.a, std::make_unique<Forger>(world.make(world.a, "a"), meddle),
                                          windowed(1, "alice", kWindow), a);
  b.endpoint = std::make_unique<Endpoint>(world.b, world.make(world.b, "b"), windowed(2, "bob", kWindow), b);
  const SessionId ab = a.endpoint->connect(b.endpoint->listen("b:0").value()).value();
  REQUIRE(world.run_until([&] { return a.endpoint->ready(ab) && !b.sessions.empty(); }, 5s));
  is_late = true;
  REQUIRE(tell(*a.endpoint, ab, 1, 80'000).ok());
  REQUIRE(tell(*a.endpoint, ab, 2, 80'000).ok());
  REQUIRE(world.run_until([&] { return slow.seen.size() == 1; }, 30s));
  CHECK(slow.seen[0] == 2);
  // One that waits until it is too late does not keep back those that come after it.
  REQUIRE(tell(*a.endpoint, ab, 3, 200'000, 5ms).ok());
  (void)world.run_until([] { return false; }, 1ms);
  REQUIRE(tell(*a.endpoint, ab, 4, 100).ok());
  (void)world.run_until([] { return false; }, 1ms);
  CHECK(slow.seen.size() == 1);
  REQUIRE(world.run_until([&] { return slow.seen.size() == 2; }, 30s));
  CHECK(slow.seen[1] == 4);
}

TEST_CASE("one way: who says that more is done than was sent loses its link") {
  contract::Sim world;
  Side a, b;
  bool lies = false;
  const auto meddle = [&](OutFrame& frame) {
    if (!lies) return;
    MemoryPool pool;
    OutMessage out(pool, {MessageKind::kDone, 0, UINT64_MAX, 0, 0, Duration{0}});
    out.values(0);
    frame = out.finish(4096).value();
  };
  a.endpoint = std::make_unique<Endpoint>(world.a, std::make_unique<Forger>(world.make(world.a, "a"), meddle),
                                          options_of(1, "alice"), a);
  b.endpoint = std::make_unique<Endpoint>(world.b, world.make(world.b, "b"), options_of(2, "bob"), b);
  const SessionId ab = a.endpoint->connect(b.endpoint->listen("b:0").value()).value();
  REQUIRE(world.run_until([&] { return a.endpoint->ready(ab) && !b.sessions.empty(); }, 5s));
  lies = true;
  REQUIRE(tell(*a.endpoint, ab, 1, 10).ok());
  REQUIRE(world.run_until([&] { return b.closed.size() == 1; }, 5s));
  CHECK(b.closed[0].second.code == Code::kDataLoss);
}

TEST_CASE("one way: a sender asks once half of its window is used, and again for a message that waits") {
  OneWayBytes bytes;
  constexpr std::size_t kWindow = 1000;
  CHECK(bytes.may_send(5000, kWindow));  // as the only one
  bytes.note_sent(500);
  CHECK_FALSE(bytes.due(kWindow));
  CHECK_FALSE(bytes.may_send(501, kWindow));
  bytes.note_sent(1);
  CHECK(bytes.due(kWindow) == 251);
  bytes.note_asked(251);
  CHECK_FALSE(bytes.due(kWindow));
  CHECK_FALSE(bytes.due_for(499, kWindow));   // it need not wait
  CHECK(bytes.due_for(600, kWindow) == 101);  // sooner than what was asked for
  bytes.note_asked(101);
  CHECK_FALSE(bytes.due_for(600, kWindow));
  CHECK_FALSE(bytes.may_send(10, kWindow));  // the longer one would wait for ever
  CHECK_FALSE(bytes.note_told(502));
  CHECK(bytes.note_told(120));
  CHECK(bytes.may_send(600, kWindow));
  bytes.note_sent(600);
  CHECK(bytes.may_send(10, kWindow));
  CHECK(bytes.due_for(5000, kWindow) == 1101);  // all
}

TEST_CASE("one way: a receiver tells of each sum once") {
  OneWayBytes bytes;
  bytes.note_done(10);
  CHECK_FALSE(bytes.must_tell());
  bytes.ask(30);
  bytes.ask(20);
  bytes.ask(25);
  bytes.note_done(9);
  CHECK_FALSE(bytes.must_tell());
  bytes.note_done(1);
  CHECK(bytes.must_tell());
  bytes.note_answered();
  CHECK_FALSE(bytes.must_tell());
  bytes.ask(20);
  CHECK_FALSE(bytes.must_tell());
  bytes.ask(21);
  bytes.note_done(1);
  CHECK(bytes.must_tell());
}

}  // namespace troupe::rpc::testing
