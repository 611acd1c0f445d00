// Calls with a token: run once, answered as often as they come, and repeated when an answer is lost.
#include <algorithm>
#include <map>
#include <random>

#include "calls/answers.hpp"
#include "endpoint_support.hpp"
#include "support/seed.hpp"

namespace troupe::rpc::testing {

namespace {

using SimDuo = Duo<contract::Sim>;

std::uint64_t call_with_token(Endpoint& endpoint, CallTarget target, std::string_view method,
                              std::uint64_t token, ReplySink& sink, Duration timeout = 10s) {
  return endpoint.call(target, {fnv1a(method), 0}, {.timeout = timeout, .token = token},
                       detail::arguments_writer(), sink);
}

std::int64_t value_of(const Answer& answer) {
  std::int64_t value = -1;
  if (answer.message) CHECK(answer.message->value(0).read_integer(value));
  return value;
}

/// Answers each call with how many calls it has seen.
std::function<void(InboundCallPtr)> counter(std::int64_t& count) {
  return [&count](InboundCallPtr call) { call->reply(++count); };
}

EndpointOptions watchful(std::uint64_t id, const std::string& name) {
  auto options = options_of(id, name);
  options.heartbeat_interval = 100ms;
  options.silence_limit = 500ms;
  return options;
}

}  // namespace

TEST_CASE_TEMPLATE("tokens: a repeat gets the first answer and does not run", Kind,
                   TROUPE_ENDPOINT_TRANSPORTS) {
  Duo<Kind> duo;
  duo.connect();
  std::int64_t count = 0;
  duo.b.handler = counter(count);
  auto& answers = duo.answers(4);
  for (std::size_t i = 0; i < 3; ++i) {
    call_with_token(*duo.a.endpoint, {duo.ab, 1}, "m", 77, answers[i]);
    REQUIRE(duo.until([&] { return answers[i].count == 1; }));
    CHECK(value_of(answers[i]) == 1);
  }
  call_with_token(*duo.a.endpoint, {duo.ab, 1}, "m", 78, answers[3]);
  REQUIRE(duo.until([&] { return answers[3].count == 1; }));
  CHECK(value_of(answers[3]) == 2);
  CHECK(duo.b.endpoint->stats().repeats_answered == 2);
  Answer& misused = duo.answer();
  call_with_token(*duo.a.endpoint, {duo.ab, 1}, "other", 78, misused);
  REQUIRE(duo.until([&] { return misused.count == 1; }));
  CHECK(misused.code() == Code::kInvalidArgument);
}

TEST_CASE_TEMPLATE("tokens: a repeat while the first runs gets its answer with it", Kind,
                   TROUPE_ENDPOINT_TRANSPORTS) {
  Duo<Kind> duo;
  duo.connect();
  auto& answers = duo.answers(3);
  for (Answer& answer : answers) call_with_token(*duo.a.endpoint, {duo.ab, Side::kKeeper}, "k", 5, answer);
  REQUIRE(duo.until([&] { return duo.b.endpoint->stats().calls_received == 3; }));
  REQUIRE(duo.b.service.kept.size() == 1);
  duo.b.service.kept[0]->reply(std::int64_t{9});
  REQUIRE(duo.until([&] { return duo.a.endpoint->open_calls() == 0; }));
  for (const Answer& answer : answers) CHECK(value_of(answer) == 9);
}

TEST_CASE_TEMPLATE("tokens: the same token at another actor is another call", Kind,
                   TROUPE_ENDPOINT_TRANSPORTS) {
  Duo<Kind> duo;
  duo.connect();
  std::map<std::uint64_t, std::int64_t> runs;
  duo.b.handler = [&](InboundCallPtr call) {
    const std::uint64_t actor = call->header().target;
    if (actor == Side::kKeeper) return duo.b.service.kept.push_back(std::move(call));
    call->reply(static_cast<std::int64_t>(actor) * 10 + ++runs[actor]);
  };
  Answer& held = duo.answer();
  call_with_token(*duo.a.endpoint, {duo.ab, Side::kKeeper}, "m", 5, held);
  for (int round = 0; round < 2; ++round)
    for (const std::uint64_t actor : {1, 2}) {
      Answer& answer = duo.answer();
      call_with_token(*duo.a.endpoint, {duo.ab, actor}, "m", 5, answer);
      REQUIRE(duo.until([&] { return answer.count == 1; }));
      CHECK(value_of(answer) == static_cast<std::int64_t>(actor) * 10 + 1);
    }
  CHECK(duo.b.endpoint->stats().repeats_answered == 2);
  // The one that still runs was neither answered nor forgotten meanwhile.
  CHECK(held.count == 0);
  Answer& again = duo.answer();
  call_with_token(*duo.a.endpoint, {duo.ab, Side::kKeeper}, "m", 5, again);
  REQUIRE(duo.until([&] { return duo.b.endpoint->stats().repeats_answered == 3; }));
  REQUIRE(duo.b.service.kept.size() == 1);
  duo.b.service.kept[0]->reply(std::int64_t{9});
  REQUIRE(duo.until([&] { return held.count + again.count == 2; }));
  CHECK(value_of(held) == 9);
  CHECK(value_of(again) == 9);
}

TEST_CASE_TEMPLATE("tokens: a call of a node to itself runs once, too", Kind, TROUPE_ENDPOINT_TRANSPORTS) {
  Duo<Kind> duo;
  duo.connect();
  std::int64_t count = 0;
  duo.b.handler = counter(count);
  auto& answers = duo.answers(3);
  for (std::size_t i = 0; i < 2; ++i) {
    call_with_token(*duo.b.endpoint, {kLocal, 1}, "m", 77, answers[i]);
    REQUIRE(duo.until([&] { return answers[i].count == 1; }));
    CHECK(value_of(answers[i]) == 1);
  }
  // Another node's token of the same number is another one.
  call_with_token(*duo.a.endpoint, {duo.ab, 1}, "m", 77, answers[2]);
  REQUIRE(duo.until([&] { return answers[2].count == 1; }));
  CHECK(value_of(answers[2]) == 2);
}

TEST_CASE("tokens: a repeat runs again when the window of its answer is over, and not before") {
  auto options = options_of(2, "bob");
  options.answers.time = 10s;
  SimDuo duo(options_of(1, "alice"), options);
  duo.connect();
  std::int64_t count = 0;
  duo.b.handler = counter(count);
  const auto call = [&] {
    Answer& answer = duo.answer();
    call_with_token(*duo.a.endpoint, {duo.ab, 1}, "m", 5, answer);
    REQUIRE(duo.until([&] { return answer.count == 1; }));
    return value_of(answer);
  };
  CHECK(call() == 1);
  duo.settle(9s);
  CHECK(call() == 1);  // a repeat does not make the window longer
  duo.settle(3s);      // they are looked through with each heartbeat
  CHECK(call() == 2);
  CHECK(call() == 2);
}

TEST_CASE("tokens: an error is an answer, a refusal is none") {
  SimDuo duo;
  duo.connect();
  int calls = 0;
  duo.b.handler = [&](InboundCallPtr call) {
    if (++calls == 1) return call->refuse({Code::kUnavailable, "not begun"});
    call->reply_error({Code::kAborted, "begun"});
  };
  auto& answers = duo.answers(3);
  for (Answer& answer : answers) {
    call_with_token(*duo.a.endpoint, {duo.ab, 1}, "m", 5, answer);
    REQUIRE(duo.until([&] { return answer.count == 1; }));
  }
  CHECK(answers[0].code() == Code::kUnavailable);
  CHECK(answers[1].code() == Code::kAborted);
  CHECK(answers[2].code() == Code::kAborted);
  CHECK(calls == 2);
}

TEST_CASE("tokens: each caller has its own") {
  SimDuo duo;
  duo.connect();
  Side c;
  c.endpoint =
      std::make_unique<Endpoint>(duo.world.a, duo.world.make(duo.world.a, "c"), options_of(3, "carol"), c);
  const SessionId cb = c.endpoint->connect(duo.address).value();
  std::int64_t count = 0;
  duo.b.handler = counter(count);
  auto& answers = duo.answers(2);
  call_with_token(*duo.a.endpoint, {duo.ab, 1}, "m", 5, answers[0]);
  call_with_token(*c.endpoint, {cb, 1}, "m", 5, answers[1]);
  REQUIRE(duo.until([&] { return answers[0].count + answers[1].count == 2; }));
  CHECK(count == 2);
  c.endpoint.reset();
}

TEST_CASE("tokens: a kept tensor is as it was when it was the answer") {
  SimDuo duo;
  duo.connect();
  Tensor state = Tensor::zeros(DType::kUInt8, Shape({1000}));
  duo.b.handler = [&](InboundCallPtr call) { call->reply(state); };
  auto& answers = duo.answers(2);
  for (Answer& answer : answers) {
    call_with_token(*duo.a.endpoint, {duo.ab, 1}, "m", 5, answer);
    REQUIRE(duo.until([&] { return answer.count == 1; }));
    Tensor tensor;
    REQUIRE(Codec<Tensor>::decode(answer.message->value(0), tensor));
    CHECK(tensor.as<std::uint8_t>()[999] == 0);
    state.as<std::uint8_t>()[999] = 1;
  }
}

TEST_CASE("tokens: an answer too long to be kept says so to a repeat") {
  auto options = options_of(2, "bob");
  options.answers.bytes = 10'000;
  SimDuo duo(options_of(1, "alice"), options);
  duo.connect();
  std::int64_t count = 0;
  duo.b.handler = [&](InboundCallPtr call) {
    ++count;
    call->reply(Tensor::zeros(DType::kUInt8, Shape({9'000})));
  };
  auto& answers = duo.answers(2);
  for (Answer& answer : answers) {
    call_with_token(*duo.a.endpoint, {duo.ab, 1}, "m", 5, answer);
    REQUIRE(duo.until([&] { return answer.count == 1; }));
  }
  CHECK(answers[0].code() == Code::kOk);
  CHECK(answers[1].code() == Code::kDataLoss);
  CHECK(count == 1);
}

TEST_CASE("tokens: what is kept is bounded in number, bytes, callers and time") {
  const auto frame = [](std::size_t bytes) { return OutFrame{Buffer::allocate(bytes), {}}; };
  const TimePoint start{};
  Answers answers({.answers = 3, .bytes = 1000, .time = 10s, .callers = 2});
  for (std::uint64_t token = 1; token <= 5; ++token) {
    REQUIRE(answers.begin(1, {token, 7}));
    CHECK_FALSE(answers.find(1, {token, 7})->answer);
    answers.keep(1, {token, 7}, frame(8), start + Duration(token));
  }
  CHECK(answers.kept_answers() == 3);
  CHECK_FALSE(answers.find(1, {2, 7}));
  CHECK(answers.find(1, {3, 7}));
  CHECK_FALSE(answers.find(1, {3, 8}));
  REQUIRE(answers.begin(1, {6, 7}));
  answers.keep(1, {6, 7}, frame(990), start + 1s);
  CHECK(answers.kept_answers() == 2);  // 8 and 990 bytes
  CHECK(answers.kept_bytes() == 998);
  // A third caller takes the place of one of whom nothing runs.
  REQUIRE(answers.begin(2, {1, 7}));
  REQUIRE(answers.begin(3, {1, 7}));
  CHECK_FALSE(answers.find(1, {6, 7}));
  CHECK_FALSE(answers.begin(4, {1, 7}));
  answers.forget(2, {1, 7});
  CHECK(answers.begin(4, {1, 7}));
  answers.keep(3, {1, 7}, frame(8), start + 2s);
  answers.expire(start + 11s);
  CHECK(answers.kept_answers() == 1);
  answers.expire(start + 12s);
  CHECK(answers.kept_answers() == 0);
  CHECK(answers.find(4, {1, 7}));  // it runs
}

TEST_CASE("tokens: nothing is kept for a caller that will not come back") {
  Answers answers({});
  for (const std::uint64_t token : {1, 2, 3}) REQUIRE(answers.begin(1, {token, 7}));
  REQUIRE(answers.begin(2, {1, 7}));
  for (const std::uint64_t token : {1, 2})
    answers.keep(1, {token, 7}, OutFrame{Buffer::allocate(8), {}}, TimePoint{});
  answers.keep(2, {1, 7}, OutFrame{Buffer::allocate(8), {}}, TimePoint{});
  answers.caller_gone(1);
  CHECK(answers.is_due(TimePoint{}));
  CHECK(answers.expire(TimePoint{}) == 2);
  CHECK_FALSE(answers.is_due(TimePoint{}));
  CHECK(answers.kept_answers() == 1);
  CHECK_FALSE(answers.find(1, {1, 7}));
  CHECK(answers.find(1, {3, 7}));  // it runs
  answers.keep(1, {3, 7}, OutFrame{Buffer::allocate(8), {}}, TimePoint{});
  CHECK_FALSE(answers.find(1, {3, 7}));
  CHECK(answers.kept_bytes() == 8);
  CHECK(answers.find(2, {1, 7}));
}

TEST_CASE("tokens: answers are given up in slices, whose they are and whatever ended them") {
  Answers answers({.bytes = 30'000, .time = 10s, .callers = 3, .total_bytes = 60'000});
  const auto keep = [&](std::uint64_t caller, std::uint64_t token, std::size_t bytes, Duration at) {
    REQUIRE(answers.begin(caller, {token, 7}));
    answers.keep(caller, {token, 7}, OutFrame{Buffer::allocate(bytes), {}}, TimePoint{} + at);
  };
  for (std::uint64_t token = 1; token <= 900; ++token) keep(1 + token % 3, token, 10, Duration(token));
  CHECK_FALSE(answers.is_due(TimePoint{} + 10s));
  CHECK(answers.is_due(TimePoint{} + 10s + Duration(300)));
  CHECK(answers.expire(TimePoint{} + 10s + Duration(300), 200) == 200);
  CHECK(answers.expire(TimePoint{} + 10s + Duration(300), 200) == 100);
  CHECK(answers.kept_answers() == 600);
  // The one that has been silent for longest makes room at once, its answers later.
  keep(4, 1, 10, 1s);
  CHECK_FALSE(answers.find(2, {901 - 3, 7}));
  CHECK(answers.kept_answers() == 601);
  CHECK(answers.expire(TimePoint{} + 1s, 150) == 150);
  CHECK(answers.is_due(TimePoint{} + 1s));
  CHECK(answers.expire(TimePoint{} + 1s, 150) == 50);
  answers.caller_gone(3);
  CHECK(answers.expire(TimePoint{} + 1s, 150) == 150);
  CHECK(answers.expire(TimePoint{} + 1s, 150) == 50);
  CHECK_FALSE(answers.is_due(TimePoint{} + 1s));
  CHECK(answers.kept_answers() == 201);
  // Who has most gives up its oldest, and no more of them than it must.
  for (std::uint64_t token = 1; token <= 40; ++token) keep(5, token, 700, 2s);
  for (std::uint64_t token = 2; token <= 43; ++token) keep(4, token, 700, 3s);
  CHECK(answers.kept_bytes() <= 60'000);
  CHECK(answers.kept_bytes() > 59'300);
  CHECK(answers.find(1, {900, 7}));
  CHECK(answers.expire(TimePoint{} + 20s) == answers.kept_answers() + 0);
}

// ---- Retries ------------------------------------------------------------------------------------

TEST_CASE("retries: each token runs once though requests and answers are lost and repeated") {
  const std::uint64_t seed = test::test_seed();
  SimDuo duo(options_of(1, "alice"), options_of(2, "bob"), SimOptions{.seed = seed});
  duo.connect();
  duo.world.world.options().loss = 0.25;
  duo.world.world.options().duplication = 0.25;
  duo.world.world.options().reordering = 0.25;
  std::map<std::uint64_t, int> runs;
  std::vector<InboundCallPtr> later;
  duo.b.handler = [&](InboundCallPtr call) {
    ++runs[call->header().token];
    if (call->header().token % 3 == 0) return later.push_back(std::move(call));
    call->reply(static_cast<std::int64_t>(call->header().token));
  };
  constexpr std::size_t kCalls = 500;
  auto& answers = duo.answers(kCalls);
  for (std::size_t i = 0; i < kCalls; ++i) {
    const CallOptions options{
        .timeout = 60s, .token = i + 1, .retry = {.max_attempts = 40, .attempt_timeout = 50ms}};
    duo.a.endpoint->call_with_retries(
        [&] {
          return CallTarget{duo.ab, 1};
        },
        {fnv1a("m"), 0}, options, detail::arguments_writer(), answers[i]);
    duo.settle(2ms);
    if (i % 20 == 0)
      for (auto& call : std::exchange(later, {}))
        call->reply(static_cast<std::int64_t>(call->header().token));
  }
  REQUIRE(duo.until(
      [&] {
        for (auto& call : std::exchange(later, {}))
          call->reply(static_cast<std::int64_t>(call->header().token));
        return std::all_of(answers.begin(), answers.end(),
                           [](const Answer& answer) { return answer.count == 1; });
      },
      200s));
  duo.settle(5s);
  for (std::size_t i = 0; i < kCalls; ++i) {
    CAPTURE(i);
    CHECK(answers[i].count == 1);
    CHECK(answers[i].code() == Code::kOk);
    CHECK(value_of(answers[i]) == static_cast<std::int64_t>(i + 1));
    CHECK(runs[i + 1] == 1);
  }
  CHECK(duo.a.endpoint->stats().calls_retried > 0);
  CHECK(duo.b.endpoint->stats().repeats_answered > 0);
}

TEST_CASE("retries: a call outlives a cut way, over a new session, and runs once") {
  SimDuo duo(watchful(1, "alice"), watchful(2, "bob"));
  duo.connect();
  const auto find = [&]() -> Result<CallTarget> {
    if (!duo.a.endpoint->peer(duo.ab)) duo.ab = duo.a.endpoint->connect(duo.address).value();
    return CallTarget{duo.ab, Side::kKeeper};
  };
  auto& answers = duo.answers(20);
  for (std::size_t i = 0; i < answers.size(); ++i) {
    const CallOptions options{.timeout = 60s, .token = i + 1, .retry = {.max_attempts = 30}};
    duo.a.endpoint->call_with_retries(find, {fnv1a("k"), 0}, options, detail::arguments_writer(), answers[i]);
  }
  REQUIRE(duo.until([&] { return duo.b.service.kept.size() == 20; }));
  // The way is cut while they run; half of the answers are given while nobody hears them.
  // b, which waits for nothing on it, does not see it end.
  duo.world.world.set_partition("a", "b", true);
  REQUIRE(duo.until([&] { return duo.a.closed.size() == 1; }));
  for (std::size_t i = 0; i < 10; ++i) duo.b.service.kept[i]->reply(static_cast<std::int64_t>(i));
  duo.settle(3s);
  duo.world.world.set_partition("a", "b", false);
  REQUIRE(duo.until([&] { return answers[9].count == 1; }));
  for (std::size_t i = 10; i < 20; ++i) duo.b.service.kept[i]->reply(static_cast<std::int64_t>(i));
  REQUIRE(duo.until([&] {
    return std::all_of(answers.begin(), answers.end(),
                       [](const Answer& answer) { return answer.count == 1; });
  }));
  for (std::size_t i = 0; i < answers.size(); ++i) {
    CAPTURE(i);
    CHECK(answers[i].count == 1);
    CHECK(value_of(answers[i]) >= 0);
  }
  CHECK(duo.b.service.begun == 20);
}

TEST_CASE("retries: a callee that comes back under its node id is found again") {
  SimDuo duo(watchful(1, "alice"), watchful(2, "bob"));
  duo.connect();
  const auto find = [&]() -> Result<CallTarget> {
    if (!duo.a.endpoint->peer(duo.ab)) {
      auto session = duo.a.endpoint->connect(duo.address);
      if (!session) return session.error();
      duo.ab = *session;
    }
    return CallTarget{duo.ab, 1};
  };
  duo.world.world.kill("b");
  Answer& answer = duo.answer();
  const CallOptions options{.timeout = 30s, .token = 1, .retry = {.max_attempts = 100}};
  duo.a.endpoint->call_with_retries(find, {fnv1a("add"), 0}, options, detail::arguments_writer(2, 3), answer);
  duo.settle(2s);
  CHECK(answer.count == 0);
  Side again;
  again.endpoint =
      std::make_unique<Endpoint>(duo.world.b, duo.world.make(duo.world.b, "b2"), watchful(2, "bob"), again);
  duo.address = again.endpoint->listen("b2:0").value();
  REQUIRE(duo.until([&] { return answer.count == 1; }));
  CHECK(value_of(answer) == 5);
  again.endpoint.reset();
}

TEST_CASE("retries: those that pause between two attempts are bounded as open calls are") {
  auto for_a = watchful(1, "alice");
  for_a.limits.max_open_calls = 4;
  SimDuo duo(for_a, watchful(2, "bob"));
  const auto nowhere = []() -> Result<CallTarget> { return Error{Code::kUnavailable, "gone"}; };
  auto& answers = duo.answers(7);
  for (std::uint64_t i = 0; i < 7; ++i)
    duo.a.endpoint->call_with_retries(nowhere, {fnv1a("k"), 0},
                                      {.timeout = 5s, .token = i + 1, .retry = {.max_attempts = 100}},
                                      detail::arguments_writer(), answers[i]);
  for (std::size_t i = 0; i < 4; ++i) CHECK(answers[i].count == 0);
  for (std::size_t i = 4; i < 7; ++i) CHECK(answers[i].code() == Code::kResourceExhausted);
  REQUIRE(duo.until([&] { return answers[3].count == 1; }));
  CHECK(answers[3].code() == Code::kUnavailable);
}

TEST_CASE("retries: they end after the last attempt, at the deadline, by cancel and with the endpoint") {
  SimDuo duo(watchful(1, "alice"), watchful(2, "bob"));
  duo.connect();
  const auto nowhere = []() -> Result<CallTarget> { return Error{Code::kUnavailable, "gone"}; };
  const auto keeper = [&]() -> Result<CallTarget> { return CallTarget{duo.ab, Side::kKeeper}; };
  Endpoint& alice = *duo.a.endpoint;
  Clock& clock = duo.world.world.clock();
  const auto call = [&](Endpoint::FindTarget find, const CallOptions& options, Answer& answer) {
    return alice.call_with_retries(std::move(find), {fnv1a("k"), 0}, options, detail::arguments_writer(),
                                   answer);
  };
  auto& answers = duo.answers(6);
  call(nowhere, {.retry = {.max_attempts = 3}}, answers[0]);
  CHECK(answers[0].code() == Code::kInvalidArgument);

  call(nowhere, {.timeout = 10s, .token = 1, .retry = {.max_attempts = 3}}, answers[1]);
  const TimePoint begun = clock.now();
  REQUIRE(duo.until([&] { return answers[1].count == 1; }));
  CHECK(answers[1].code() == Code::kUnavailable);
  CHECK(answers[1].error->message.find("after 3 attempts") != std::string::npos);
  CHECK(clock.now() - begun >= Duration(15ms));  // half of 10 and 20 ms at least
  CHECK(clock.now() - begun <= Duration(31ms));

  call(keeper, {.timeout = 1s, .token = 2, .retry = {.max_attempts = 4}}, answers[2]);
  const TimePoint second = clock.now();
  REQUIRE(duo.until([&] { return answers[2].count == 1; }));
  CHECK(answers[2].code() == Code::kDeadlineExceeded);
  CHECK(clock.now() - second <= Duration(1001ms));
  duo.settle(10ms);
  CHECK(duo.b.service.begun == 1);
  CHECK(duo.b.service.kept[0]->cancelled());  // nobody waits any more

  const auto trying = call(keeper, {.timeout = 10s, .token = 3, .retry = {.max_attempts = 4}}, answers[3]);
  const auto pausing = call(
      nowhere, {.timeout = 10s, .token = 4, .retry = {.max_attempts = 4, .first_backoff = 1s}}, answers[4]);
  duo.settle(100ms);
  alice.cancel(trying);
  alice.cancel(pausing);
  CHECK(answers[3].code() == Code::kCancelled);
  CHECK(answers[4].code() == Code::kCancelled);
  duo.settle(100ms);
  CHECK(duo.b.service.kept.at(1)->cancelled());

  call(nowhere, {.timeout = 10s, .token = 5, .retry = {.max_attempts = 4, .first_backoff = 1s}}, answers[5]);
  alice.shut_down();
  CHECK(answers[5].code() == Code::kCancelled);
  duo.b.service.kept.clear();
}

}  // namespace troupe::rpc::testing
