// Without memory a call ends in an error, and nothing is left of it: each allocation that a call makes, on
// either side, is made to fail, once.
#include <sys/socket.h>

#include <cstring>
#include <functional>
#include <memory>
#include <new>
#include <optional>
#include <string>
#include <vector>

#include <troupe/rpc/stream.hpp>

#include "calls/held_requests.hpp"
#include "control/control_sockets.hpp"
#include "endpoint/core.hpp"
#include "rpc/endpoint_support.hpp"
#include "support/own_new.hpp"

namespace {
/// How many allocations succeed before one fails; below 0: all do.
thread_local long until_failure = -1;
}  // namespace

void troupe::test::before_allocation(std::size_t) {
  if (until_failure >= 0 && until_failure-- == 0) throw std::bad_alloc();
}

namespace troupe::rpc::testing {

namespace {

constexpr Duration kTimeout = 100ms;

/// What a test does again and again, each time with another allocation that fails.
template <class Kind>
struct Trial {
  explicit Trial(Duo<Kind>& own_duo) : duo(own_duo) {}
  virtual ~Trial() = default;
  /// With memory enough.
  virtual void prepare() {}
  /// What is tried. May throw std::bad_alloc: then it has not begun.
  virtual void begin(std::uint64_t round) = 0;
  virtual bool done() = 0;
  virtual void clean_up() {}

  Endpoint& a() { return *duo.a.endpoint; }
  Duo<Kind>& duo;
};

template <class Kind>
void check_goes_on(Duo<Kind>& duo) {
  if (!duo.a.endpoint->peer(duo.ab)) {  // it was ended for want of memory
    duo.ab = duo.a.endpoint->connect(duo.address).value();
    REQUIRE(duo.until([&] { return duo.a.endpoint->ready(duo.ab); }));
  }
  const auto sum = duo.template call<std::int64_t>("add", std::int64_t{1}, std::int64_t{2});
  REQUIRE_MESSAGE(sum.ok(), (sum.ok() ? "" : sum.error().to_string()));
  CHECK(*sum == 3);
}

/// Until so few allocations succeed that the trial needs no more. `anew`: each time with two endpoints that
/// have done next to nothing, and so have kept no memory.
template <template <class> class What, class Kind>
void try_all(const EndpointOptions& for_a = options_of(1, "alice"), bool anew = false) {
  std::optional<Duo<Kind>> both;
  long round = 0;
  for (bool failed = true; failed; ++round) {
    if (anew || !both) {
      both.emplace(for_a);
      both->connect();
      check_goes_on(*both);
    }
    Duo<Kind>& duo = *both;
    CAPTURE(round);
    REQUIRE(round < 2'000);
    What<Kind> trial(duo);
    trial.prepare();
    bool begun = true;
    const std::function<bool()> done = [&trial] { return trial.done(); };
    until_failure = round;
    try {
      trial.begin(static_cast<std::uint64_t>(round) + 1);
    } catch (const std::bad_alloc&) {
      begun = false;
    }
    const bool ended = !begun || duo.until(done, 20s);
    failed = until_failure < 0;
    until_failure = -1;
    REQUIRE(ended);
    if (!begun) CHECK(duo.a.endpoint->open_calls() == 0);
    trial.clean_up();
    check_goes_on(duo);
    REQUIRE(duo.until([&] { return duo.b.endpoint->inbound_calls() == 0; }, 5s));
    CHECK(duo.a.endpoint->open_calls() == 0);
    CHECK(duo.a.endpoint->inbound_calls() == 0);
  }
  CHECK(round > 1);  // something was allocated at all
}

template <class Kind>
struct PlainCall : Trial<Kind> {
  using Trial<Kind>::Trial;
  void begin(std::uint64_t) override {
    start_call(this->a(), {this->duo.ab, 1}, "echo", kTimeout, answer, std::string_view("some text"));
  }
  bool done() override { return answer.count == 1; }
  Answer answer;
};

template <class Kind>
struct LocalCall : PlainCall<Kind> {
  using PlainCall<Kind>::PlainCall;
  void begin(std::uint64_t) override {
    start_call(this->a(), {kLocal, 1}, "echo", kTimeout, this->answer, std::string_view("some text"));
  }
};

template <class Kind>
struct FutureCall : Trial<Kind> {
  using Trial<Kind>::Trial;
  void begin(std::uint64_t) override {
    future = call_async<std::string>(this->a(), {this->duo.ab, 1}, "echo", "echo", {.timeout = kTimeout},
                                     std::string("a text that is too long to lie within a string"));
  }
  bool done() override { return future.ready(); }
  Future<std::string> future;
};

template <class Kind>
struct FailedCall : PlainCall<Kind> {
  using PlainCall<Kind>::PlainCall;
  void begin(std::uint64_t) override {
    start_call(this->a(), {this->duo.ab, 1}, "fail", kTimeout, this->answer, std::string("on purpose"));
  }
};

template <class Kind>
struct TokenCall : PlainCall<Kind> {
  using PlainCall<Kind>::PlainCall;
  void begin(std::uint64_t round) override {
    this->a().call({this->duo.ab, 1}, {fnv1a("echo"), 0}, {.timeout = kTimeout, .token = round},
                   detail::arguments_writer(std::string_view("some text")), this->answer);
  }
};

template <class Kind>
struct RepeatedCall : PlainCall<Kind> {
  using PlainCall<Kind>::PlainCall;
  void begin(std::uint64_t round) override {
    this->a().call_with_retries(
        [duo = &this->duo]() -> Result<CallTarget> {
          return CallTarget{duo->ab, 1};
        },
        {fnv1a("echo"), 0}, {.timeout = 3 * kTimeout, .token = round, .retry = {.max_attempts = 3}},
        detail::arguments_writer(std::string_view("some text")), this->answer);
  }
};

/// A call at both ends of which others wait: it is cancelled.
template <class Kind>
struct Cancelled : PlainCall<Kind> {
  using PlainCall<Kind>::PlainCall;
  void prepare() override {
    id = start_call(this->a(), {this->duo.ab, Side::kKeeper}, "k", 10s, this->answer);
    REQUIRE(this->duo.until([&] { return this->duo.b.service.kept.size() == 1; }));
    CallContext(*this->duo.b.service.kept[0]).on_cancel([] {});
  }
  void begin(std::uint64_t) override { this->a().cancel(id); }
  void clean_up() override { this->duo.b.service.kept.clear(); }
  std::uint64_t id = 0;
};

/// One of two calls waits until the other is answered.
template <class Kind>
struct CallThatWaits : PlainCall<Kind> {
  using PlainCall<Kind>::PlainCall;
  void start(Answer& first, Answer& other) {
    for (Answer* each : {&first, &other}) {
      ++begun;
      try {
        start_call(this->a(), {this->duo.ab, 1}, "echo", kTimeout, *each, std::string_view("some text"));
      } catch (const std::bad_alloc&) {
        --begun;
      }
    }
  }
  void begin(std::uint64_t) override { start(this->answer, second); }
  bool done() override { return this->answer.count + second.count == begun; }
  /// With memory enough again the next one that waits is sent.
  void clean_up() override {
    if (!this->a().ready(this->duo.ab)) return;
    Answer one, other;
    start(one, other);
    REQUIRE(this->duo.until([&] { return one.count == 1 && other.count == 1; }));
    CHECK(one.code() == Code::kOk);
    CHECK(other.code() == Code::kOk);
  }
  Answer second;
  int begun = 0;
};

/// Calls of both sides are open when their session ends.
template <class Kind>
struct SessionsEnd : Trial<Kind> {
  using Trial<Kind>::Trial;
  void prepare() override {
    for (Answer& answer : answers)
      start_call(this->a(), {this->duo.ab, Side::kKeeper}, "k", 10s, answer, std::string_view("text"));
    start_call(*this->duo.b.endpoint, {this->duo.ba, Side::kKeeper}, "k", kTimeout, other);
    REQUIRE(this->duo.until(
        [&] { return this->duo.b.service.kept.size() == 3 && this->duo.a.service.kept.size() == 1; }));
    CallContext(*this->duo.a.service.kept[0]).on_cancel([] {});
  }
  void begin(std::uint64_t) override { this->a().close(this->duo.ab, why); }
  bool done() override { return answers[0].count + answers[1].count + answers[2].count + other.count == 4; }
  void clean_up() override {
    this->duo.a.service.kept.clear();
    this->duo.b.service.kept.clear();
    REQUIRE(this->duo.until([&] { return !this->duo.b.endpoint->peer(this->duo.ba); }));
    const std::size_t before = this->duo.b.sessions.size();
    this->duo.ab = this->a().connect(this->duo.address).value();
    REQUIRE(this->duo.until([&] { return this->duo.b.sessions.size() > before; }));
    this->duo.ba = this->duo.b.sessions.back().first;
  }
  const Error why{Code::kCancelled, "a reason that is too long to lie within a string"};
  std::vector<Answer> answers{3};
  Answer other;
};

}  // namespace

#define TROUPE_SCARCITY_TRANSPORTS ::troupe::rpc::contract::Shm, ::troupe::rpc::contract::Tcp

TEST_CASE_TEMPLATE("scarcity: a call ends", Kind, TROUPE_SCARCITY_TRANSPORTS) {
  try_all<PlainCall, Kind>();
}
TEST_CASE_TEMPLATE("scarcity: a call to oneself ends", Kind, contract::Shm) {
  try_all<LocalCall, Kind>();
}
TEST_CASE_TEMPLATE("scarcity: a call's future has an answer", Kind, TROUPE_SCARCITY_TRANSPORTS) {
  try_all<FutureCall, Kind>();
}
TEST_CASE_TEMPLATE("scarcity: a call that fails ends", Kind, TROUPE_SCARCITY_TRANSPORTS) {
  try_all<FailedCall, Kind>();
}
TEST_CASE_TEMPLATE("scarcity: a call with a token ends", Kind, TROUPE_SCARCITY_TRANSPORTS) {
  try_all<TokenCall, Kind>();
}
TEST_CASE_TEMPLATE("scarcity: a call that is repeated ends", Kind, TROUPE_SCARCITY_TRANSPORTS) {
  try_all<RepeatedCall, Kind>();
}
TEST_CASE_TEMPLATE("scarcity: a call that is cancelled ends", Kind, TROUPE_SCARCITY_TRANSPORTS) {
  try_all<Cancelled, Kind>();
}
TEST_CASE_TEMPLATE("scarcity: a call that waits for others ends, and later ones are sent", Kind,
                   TROUPE_SCARCITY_TRANSPORTS) {
  auto one_at_once = options_of(1, "alice");
  one_at_once.limits.max_calls_in_flight = 1;
  try_all<CallThatWaits, Kind>(one_at_once, true);
}
TEST_CASE("scarcity: a request for which there is no place among the held leaves the others in theirs") {
  contract::Sim world;
  Side side;
  EndpointCore core(world.a, world.make(world.a, "a"), options_of(1, "alice"), side);
  MemoryPool pool;
  std::uint64_t next = 1;
  const auto request = [&] {
    OutMessage out(pool, {MessageKind::kRequest, next++, 1, 1, 0, 10s, {}});
    out.values(0);
    auto message = InMessage::parse(std::move(out.finish(4096)->head), {});
    return std::make_unique<InboundCall>(core, 77, std::move(*message), TimePoint::never());
  };
  HeldRequests held;
  std::vector<const InboundCall*> in_order;
  int refused = 0;
  for (int i = 0; i < 40; ++i) {
    InboundCallPtr call = request();
    const InboundCall* const known = call.get();
    until_failure = i % 2 == 0 ? 0 : -1;
    try {
      held.push(std::move(call));
    } catch (const std::bad_alloc&) {
      ++refused;
    }
    until_failure = -1;
    CHECK((call != nullptr) == (held.count() == in_order.size()));
    if (!call) in_order.push_back(known);
  }
  CHECK(refused > 2);
  REQUIRE(held.count() == in_order.size());
  CHECK(held.take(*in_order[3]).get() == in_order[3]);
  in_order.erase(in_order.begin() + 3);
  for (const InboundCall* call : in_order) CHECK(held.pop().get() == call);
}
TEST_CASE("scarcity: what a newcomer says first is not lost") {
  struct Events final : ControlEvents {
    void on_met(LinkId, std::string_view, bool) override { ++met; }
    void on_message(LinkId, std::span<const std::byte>) override {}
    void on_stream(std::span<const std::byte> preamble, UniqueFd) override {
      streams.emplace_back(preamble.begin(), preamble.end());
    }
    void on_parted(LinkId, Error) override {}
    int met = 0;
    std::vector<std::vector<std::byte>> streams;
  } events;
  RealClock clock;
  LoopOptions quiet;
  quiet.on_exception = [](const std::string&) {};
  Loop loop(clock, quiet);
  const Loop::Turn turn(loop);
  ControlSockets sockets(loop, 1024, events);
  constexpr std::uint32_t kMark = 0x31535554;
  constexpr std::size_t kPreamble = 40;
  sockets.expect_streams(kMark, kPreamble);
  const std::string address = sockets.listen(SocketAddress::parse("127.0.0.1:0").value()).value();
  const auto parsed = SocketAddress::parse(address).value();
  const UniqueFd fd(::socket(parsed.family(), SOCK_STREAM | SOCK_CLOEXEC, 0));
  REQUIRE(::connect(fd.get(), parsed.get(), parsed.size()) == 0);
  const auto poll_until = [&](const std::function<bool()>& done, Duration most) {
    const TimePoint end = clock.now() + most;
    while (!done() && clock.now() < end) loop.poll();
    return done();
  };
  (void)poll_until([] { return false; }, 50ms);  // it is accepted
  std::vector<std::byte> said(kPreamble, std::byte{7});
  std::memcpy(said.data(), &kMark, sizeof kMark);
  REQUIRE(::send(fd.get(), said.data(), said.size(), MSG_NOSIGNAL) == static_cast<ssize_t>(kPreamble));
  const std::function<bool()> failed = [] { return until_failure < 0; };
  until_failure = 0;
  CHECK(poll_until(failed, 10s));
  until_failure = -1;
  REQUIRE(poll_until([&] { return events.streams.size() == 1; }, 10s));
  CHECK(events.streams[0] == said);
  CHECK(events.met == 0);
}
TEST_CASE_TEMPLATE("scarcity: what is open ends with its session", Kind, TROUPE_SCARCITY_TRANSPORTS) {
  try_all<SessionsEnd, Kind>();
}

}  // namespace troupe::rpc::testing
