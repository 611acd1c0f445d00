#include <cstring>

#include "endpoint_support.hpp"

namespace troupe::rpc::testing {

TEST_CASE_TEMPLATE("endpoint: calls go both ways", Kind, TROUPE_ENDPOINT_TRANSPORTS) {
  Duo<Kind> duo;
  duo.connect();
  CHECK(duo.a.sessions[0].second.node_name == "bob");
  CHECK(duo.b.sessions[0].second.node_name == "alice");
  CHECK(duo.b.sessions[0].second.node_id == 1);
  CHECK(duo.b.sessions[0].second.incoming);
  CHECK(duo.template call<std::int64_t>("add", 2, 3).value() == 5);
  auto back = call_async<std::int64_t>(*duo.b.endpoint, {duo.ba, 1}, "add", "add", {}, 4, 5);
  REQUIRE(duo.until([&] { return back.ready(); }));
  CHECK(back.get().value() == 9);
  CHECK(duo.a.endpoint->open_calls() == 0);
  CHECK(duo.b.endpoint->open_calls() == 0);
}

TEST_CASE_TEMPLATE("endpoint: values and tensors of every size arrive", Kind, TROUPE_ENDPOINT_TRANSPORTS) {
  Duo<Kind> duo;
  duo.connect();
  for (const std::size_t size : {0, 1, 64, 300, 3000, 5000, 100'000, 3'000'000}) {
    CAPTURE(size);
    const std::string text(size, 'q');
    CHECK(duo.template call<std::string>("echo", text).value() == text);
    Tensor tensor = Tensor::empty(DType::kUInt8, Shape({static_cast<std::int64_t>(size)}));
    std::memset(tensor.data(), 7, size);
    const Tensor back = duo.template call<Tensor>("tensor", tensor).value();
    REQUIRE(back.bytes() == size);
    CHECK((size == 0 || std::memcmp(back.data(), tensor.data(), size) == 0));
  }
}

TEST_CASE_TEMPLATE("endpoint: an error comes with code, message, node and cause", Kind,
                   TROUPE_ENDPOINT_TRANSPORTS) {
  Duo<Kind> duo;
  duo.connect();
  const auto failed = duo.template call<int>("fail", std::string("it broke"));
  REQUIRE_FALSE(failed.ok());
  CHECK(failed.error().code == Code::kAborted);
  CHECK(failed.error().message == "fail: it broke");
  CHECK(failed.error().node == "bob");
  CHECK(failed.error().cause == "the cause");
  CHECK(failed.error().trace_id == 42);
  const auto unknown = duo.template call<int>("nonsense");
  CHECK(unknown.error().code == Code::kUnimplemented);
  CHECK(unknown.error().message == "nonsense: there is no such method; there are: add, echo, fail, tensor");
  const auto wrong = duo.template call<std::int64_t>("add", std::string("x"), std::string("y"));
  CHECK(wrong.error().code == Code::kInvalidArgument);
  CHECK(wrong.error().message.find("(int64, int64) -> int64") != std::string::npos);
}

TEST_CASE_TEMPLATE("endpoint: calls made before the meeting wait for it", Kind, TROUPE_ENDPOINT_TRANSPORTS) {
  Duo<Kind> duo;
  const SessionId session = duo.a.endpoint->connect(duo.address).value();
  auto& answers = duo.answers(20);
  for (std::size_t i = 0; i < answers.size(); ++i)
    start_call(*duo.a.endpoint, {session, 1}, "add", 10s, answers[i], i, 1);
  CHECK_FALSE(duo.a.endpoint->ready(session));
  REQUIRE(duo.until([&] { return duo.a.endpoint->open_calls() == 0; }));
  for (const Answer& answer : answers) CHECK((answer.count == 1 && answer.code() == Code::kOk));
}

TEST_CASE_TEMPLATE("endpoint: many calls in flight each get their own answer", Kind,
                   TROUPE_ENDPOINT_TRANSPORTS) {
  Duo<Kind> duo;
  duo.connect();
  auto& answers = duo.answers(5000);
  for (std::size_t i = 0; i < answers.size(); ++i)
    start_call(*duo.a.endpoint, {duo.ab, 1}, "add", 30s, answers[i], i, 1);
  REQUIRE(duo.until([&] { return duo.a.endpoint->open_calls() == 0; }));
  for (std::size_t i = 0; i < answers.size(); ++i) {
    std::uint64_t sum = 0;
    REQUIRE(answers[i].message);
    REQUIRE(answers[i].message->value(0).read_unsigned(sum));
    REQUIRE(sum == i + 1);
  }
}

TEST_CASE_TEMPLATE("endpoint: a call to itself needs no link", Kind, TROUPE_ENDPOINT_TRANSPORTS) {
  Duo<Kind> duo;
  Answer& answer = duo.answer();
  start_call(*duo.a.endpoint, {kLocal, 1}, "add", 1s, answer, 1, 2);
  CHECK(answer.count == 1);
  CHECK(answer.code() == Code::kOk);
  Answer& failed = duo.answer();
  start_call(*duo.a.endpoint, {kLocal, 1}, "fail", 1s, failed, std::string("here"));
  CHECK(failed.error->node == "alice");
}

TEST_CASE("endpoint: a chain of calls to itself may have any length") {
  Duo<contract::Sim> duo;
  int left = 200'000;
  struct Chain final : ReplySink {
    void on_reply(Result<std::unique_ptr<InMessage>> reply) override {
      ok = ok && reply.ok();
      if (--*left > 0) next();
    }
    void next() { start_call(*endpoint, {kLocal, 1}, "add", 10s, *this, 1, 2); }
    Endpoint* endpoint = nullptr;
    int* left = nullptr;
    bool ok = true;
  } chain;
  chain.endpoint = duo.a.endpoint.get();
  chain.left = &left;
  chain.next();
  REQUIRE(duo.until([&] { return left == 0; }));
  CHECK(chain.ok);
}

TEST_CASE_TEMPLATE("endpoint: a call ends at its deadline and the callee hears of it", Kind,
                   TROUPE_ENDPOINT_TRANSPORTS) {
  Duo<Kind> duo;
  duo.connect();
  Clock& clock = duo.world.a.clock();
  Answer& answer = duo.answer();
  const TimePoint begun = clock.now();
  start_call(*duo.a.endpoint, {duo.ab, Side::kKeeper}, "keep", 50ms, answer);
  REQUIRE(duo.until([&] { return answer.count == 1; }));
  CHECK(answer.code() == Code::kDeadlineExceeded);
  CHECK(clock.now() - begun >= Duration(50ms));
  REQUIRE(duo.b.service.kept.size() == 1);
  REQUIRE(duo.until([&] { return duo.b.service.kept[0]->cancelled(); }));
  duo.b.service.kept[0]->reply(1);  // does nothing
  CHECK(duo.template call<std::int64_t>("add", 1, 1).value() == 2);
  CHECK(duo.a.endpoint->stats().deadlines_exceeded == 1);
  CHECK(answer.count == 1);
}

TEST_CASE_TEMPLATE("endpoint: the callee knows the caller's deadline", Kind, TROUPE_ENDPOINT_TRANSPORTS) {
  Duo<Kind> duo;
  duo.connect();
  Answer& answer = duo.answer();
  start_call(*duo.a.endpoint, {duo.ab, Side::kKeeper}, "keep", 5s, answer);
  REQUIRE(duo.until([&] { return duo.b.service.kept.size() == 1; }));
  const Duration left = duo.b.service.kept[0]->deadline() - duo.world.b.clock().now();
  CHECK(left <= Duration(5s));
  CHECK(left > Duration(3s));
  duo.b.service.kept[0]->reply_void();
  REQUIRE(duo.until([&] { return answer.count == 1; }));
}

TEST_CASE_TEMPLATE("endpoint: unusual timeouts", Kind, TROUPE_ENDPOINT_TRANSPORTS) {
  Duo<Kind> duo;
  duo.connect();
  Answer& negative = duo.answer();
  Answer& nothing_left = duo.answer();
  Answer& lowest = duo.answer();
  Answer& longest = duo.answer();
  Answer& normal = duo.answer();
  start_call(*duo.a.endpoint, {duo.ab, 1}, "add", -1ns, negative, 1, 2);
  start_call(*duo.a.endpoint, {duo.ab, 1}, "add", 0ns, nothing_left, 1, 2);
  start_call(*duo.a.endpoint, {duo.ab, 1}, "add", Duration(INT64_MIN + 1), lowest, 1, 2);
  CHECK(negative.code() == Code::kDeadlineExceeded);
  CHECK(nothing_left.code() == Code::kDeadlineExceeded);
  CHECK(lowest.code() == Code::kDeadlineExceeded);
  start_call(*duo.a.endpoint, {duo.ab, 1}, "add", kNoDeadline, longest, 1, 2);
  start_call(*duo.a.endpoint, {duo.ab, 1}, "add", kDefaultTimeout, normal, 1, 2);
  REQUIRE(duo.until([&] { return longest.count + normal.count == 2; }));
  CHECK(longest.code() == Code::kOk);
  CHECK(normal.code() == Code::kOk);
  CHECK(duo.b.service.begun == 2);
}

TEST_CASE_TEMPLATE("endpoint: cancel answers the caller and reaches the callee", Kind,
                   TROUPE_ENDPOINT_TRANSPORTS) {
  Duo<Kind> duo;
  duo.connect();
  Answer& answer = duo.answer();
  const auto id = start_call(*duo.a.endpoint, {duo.ab, Side::kKeeper}, "keep", 10s, answer);
  REQUIRE(duo.until([&] { return duo.b.service.kept.size() == 1; }));
  duo.a.endpoint->cancel(id);
  duo.a.endpoint->cancel(id);
  duo.a.endpoint->cancel(0);
  CHECK(answer.count == 1);
  CHECK(answer.code() == Code::kCancelled);
  REQUIRE(duo.until([&] { return duo.b.service.kept[0]->cancelled(); }));
}

TEST_CASE_TEMPLATE("endpoint: a call given up before the meeting is never sent", Kind,
                   TROUPE_ENDPOINT_TRANSPORTS) {
  Duo<Kind> duo;
  const SessionId session = duo.a.endpoint->connect(duo.address).value();
  Answer& answer = duo.answer();
  Answer& second = duo.answer();
  duo.a.endpoint->cancel(start_call(*duo.a.endpoint, {session, 1}, "add", 10s, answer, 1, 2));
  CHECK(answer.code() == Code::kCancelled);
  start_call(*duo.a.endpoint, {session, 1}, "add", 10s, second, 1, 2);
  REQUIRE(duo.until([&] { return second.count == 1; }));
  CHECK(duo.b.service.begun == 1);
}

TEST_CASE_TEMPLATE("endpoint: a dropped call is answered, an exception too", Kind,
                   TROUPE_ENDPOINT_TRANSPORTS) {
  Duo<Kind> duo;
  duo.connect();
  duo.b.handler = [](InboundCallPtr) {};
  const auto dropped = duo.template call<int>("any");
  CHECK(dropped.error().code == Code::kInternal);
  CHECK(dropped.error().node == "bob");
  duo.b.handler = [](InboundCallPtr call) {
    call->reply_with([](OutMessage&) { throw std::runtime_error("in the encoder"); });
  };
  const auto thrown = duo.template call<int>("any");
  CHECK(thrown.error().code == Code::kInternal);
  CHECK(thrown.error().message.find("in the encoder") != std::string::npos);
}

TEST_CASE_TEMPLATE("endpoint: an encoder that throws ends its call only", Kind, TROUPE_ENDPOINT_TRANSPORTS) {
  Duo<Kind> duo;
  duo.connect();
  Answer& answer = duo.answer();
  duo.a.endpoint->call(
      {duo.ab, 1}, {1, 0}, {}, [](OutMessage&) { throw std::runtime_error("no such argument"); }, answer);
  CHECK(answer.count == 1);
  CHECK(answer.error->message.find("no such argument") != std::string::npos);
  CHECK(duo.a.endpoint->open_calls() == 0);
  CHECK(duo.template call<std::int64_t>("add", 1, 1).value() == 2);
}

TEST_CASE_TEMPLATE("endpoint: handlers may call back while they are called", Kind,
                   TROUPE_ENDPOINT_TRANSPORTS) {
  Duo<Kind> duo;
  duo.connect();
  // Each side halves and passes on: twenty calls are open at the end, ten each way.
  std::vector<std::unique_ptr<Answer>> inner;
  const auto handler = [&](Side& self, SessionId other) {
    return [&inner, &self, other](InboundCallPtr call) {
      std::int64_t left = 0;
      REQUIRE(call->message().value(0).read_integer(left));
      if (left == 0) return call->reply(std::int64_t{0});
      inner.push_back(std::make_unique<Answer>());
      Answer& answer = *inner.back();
      std::shared_ptr<InboundCall> outer = std::move(call);
      answer.hook = [outer, &answer] {
        std::int64_t below = 0;
        if (!answer.message || !answer.message->value(0).read_integer(below))
          return outer->reply_error(*answer.error);
        outer->reply(below + 1);
      };
      start_call(*self.endpoint, {other, 1}, "count", 10s, answer, left - 1);
    };
  };
  duo.a.handler = handler(duo.a, duo.ab);
  duo.b.handler = handler(duo.b, duo.ba);
  CHECK(duo.template call<std::int64_t>("count", std::int64_t{20}).value() == 20);
}

TEST_CASE_TEMPLATE("endpoint: too many open calls are refused, not queued", Kind,
                   TROUPE_ENDPOINT_TRANSPORTS) {
  auto options = options_of(1, "alice");
  options.limits.max_open_calls = 3;
  Duo<Kind> duo(options);
  duo.connect();
  auto& answers = duo.answers(4);
  for (Answer& answer : answers) start_call(*duo.a.endpoint, {duo.ab, Side::kKeeper}, "k", 10s, answer);
  CHECK(answers[3].code() == Code::kResourceExhausted);
  REQUIRE(duo.until([&] { return duo.b.service.kept.size() == 3; }));
  for (auto& call : duo.b.service.kept) call->reply_void();
  REQUIRE(duo.until([&] { return duo.a.endpoint->open_calls() == 0; }));
  for (int i = 0; i < 3; ++i) CHECK(answers[static_cast<std::size_t>(i)].code() == Code::kOk);
}

TEST_CASE_TEMPLATE("endpoint: a callee takes so many calls and no more", Kind, TROUPE_ENDPOINT_TRANSPORTS) {
  auto options = options_of(2, "bob");
  options.limits.max_inbound_calls = 2;
  Duo<Kind> duo(options_of(1, "alice"), options);
  duo.connect();
  auto& answers = duo.answers(3);
  for (Answer& answer : answers) start_call(*duo.a.endpoint, {duo.ab, Side::kKeeper}, "k", 10s, answer);
  REQUIRE(duo.until([&] { return answers[2].count == 1; }));
  CHECK(answers[2].code() == Code::kResourceExhausted);
  CHECK(answers[2].error->node == "bob");
  CHECK(duo.b.service.kept.size() == 2);
}

TEST_CASE_TEMPLATE("endpoint: what waits for a meeting is bounded", Kind, TROUPE_ENDPOINT_TRANSPORTS) {
  auto options = options_of(1, "alice");
  options.limits.max_bytes_waiting = 1 << 20;
  Duo<Kind> duo(options);
  const SessionId session = duo.a.endpoint->connect(duo.address).value();
  const Tensor tensor = Tensor::zeros(DType::kUInt8, Shape({300'000}));
  auto& answers = duo.answers(6);
  for (Answer& answer : answers) start_call(*duo.a.endpoint, {session, 1}, "tensor", 10s, answer, tensor);
  CHECK(answers[2].count == 0);
  CHECK(answers[3].code() == Code::kResourceExhausted);
  CHECK(answers[5].code() == Code::kResourceExhausted);
  REQUIRE(duo.until([&] { return duo.a.endpoint->open_calls() == 0; }));
  CHECK(answers[2].code() == Code::kOk);
}

TEST_CASE_TEMPLATE("endpoint: messages longer than allowed are refused on both ways", Kind,
                   TROUPE_ENDPOINT_TRANSPORTS) {
  auto options = options_of(1, "alice"), for_b = options_of(2, "bob");
  options.limits.max_message_bytes = 100'000;
  for_b.limits.max_message_bytes = 50'000;
  Duo<Kind> duo(options, for_b);
  duo.connect();
  const Tensor long_one = Tensor::zeros(DType::kUInt8, Shape({200'000}));
  CHECK(duo.template call<Tensor>("tensor", long_one).error().code == Code::kResourceExhausted);
  CHECK(duo.template call<std::int64_t>("add", 1, 1).value() == 2);
  // An answer that the callee must not send becomes an error, and the session lives.
  duo.b.handler = [&](InboundCallPtr call) { call->reply(long_one); };
  const auto refused = duo.template call<Tensor>("any");
  CHECK(refused.error().code == Code::kResourceExhausted);
  CHECK(refused.error().message.find("the answer could not be sent") != std::string::npos);
  duo.b.handler = nullptr;
  CHECK(duo.template call<std::int64_t>("add", 1, 1).value() == 2);
  // One that the callee does not take ends the session, and the call with it.
  const auto ended = duo.template call<Tensor>("tensor", Tensor::zeros(DType::kUInt8, Shape({70'000})));
  CHECK(ended.error().code == Code::kUnavailable);
}

TEST_CASE_TEMPLATE("endpoint: one-way messages arrive and are never answered", Kind,
                   TROUPE_ENDPOINT_TRANSPORTS) {
  Duo<Kind> duo;
  duo.connect();
  int seen = 0;
  duo.b.handler = [&](InboundCallPtr call) {
    ++seen;
    call->reply(seen);
  };
  for (int i = 0; i < 100; ++i)
    REQUIRE(duo.a.endpoint->send({duo.ab, 1}, {1, 0}, {}, [](OutMessage& out) { out.values(0); }).ok());
  REQUIRE(duo.until([&] { return seen == 100; }));
  CHECK(duo.a.endpoint->stats().replies_late == 0);
  CHECK(duo.a.endpoint->send({12345, 1}, {1, 0}, {}, [](OutMessage& out) { out.values(0); }).error().code ==
        Code::kUnavailable);
}

}  // namespace troupe::rpc::testing
