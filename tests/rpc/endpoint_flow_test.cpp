// What is on its way to one peer is bounded: past the bound calls wait, past a second one they are refused.
#include <memory>

#include "endpoint_support.hpp"

namespace troupe::rpc::testing {

namespace {

EndpointOptions narrow(std::uint32_t in_flight, std::uint32_t waiting = 100) {
  auto options = options_of(1, "alice");
  options.limits.max_calls_in_flight = in_flight;
  options.limits.max_calls_waiting = waiting;
  return options;
}

std::int64_t first_argument(const InboundCall& call) {
  std::int64_t value = -1;
  CHECK(call.message().value(0).read_integer(value));
  return value;
}

Tensor bytes_tensor(std::int64_t size) {
  return Tensor::zeros(DType::kUInt8, Shape({size}));
}

}  // namespace

TEST_CASE_TEMPLATE("flow: calls past the bound wait, and go in order as answers come", Kind,
                   TROUPE_ENDPOINT_TRANSPORTS) {
  Duo<Kind> duo(narrow(2));
  duo.connect();
  auto& answers = duo.answers(6);
  for (std::size_t i = 0; i < answers.size(); ++i)
    start_call(*duo.a.endpoint, {duo.ab, Side::kKeeper}, "k", 10s, answers[i], static_cast<std::int64_t>(i));
  CHECK(duo.a.endpoint->waiting().calls == 4);
  auto& kept = duo.b.service.kept;
  REQUIRE(duo.until([&] { return kept.size() == 2; }));
  duo.settle();
  CHECK(kept.size() == 2);
  for (std::size_t answered = 0; answered < answers.size(); ++answered) {
    const std::size_t sent = std::min(answered + 2, answers.size());
    REQUIRE(duo.until([&] { return kept.size() == sent; }));
    CHECK(first_argument(*kept[sent - 1]) == static_cast<std::int64_t>(sent - 1));
    CHECK(duo.a.endpoint->waiting().calls == answers.size() - sent);
    kept[answered]->reply_void();
  }
  REQUIRE(duo.until([&] { return duo.a.endpoint->open_calls() == 0; }));
  for (const Answer& answer : answers) CHECK((answer.count == 1 && answer.code() == Code::kOk));
  CHECK(duo.a.endpoint->stats().messages_waited == 4);
  CHECK(duo.a.endpoint->stats().calls_refused == 0);
}

TEST_CASE_TEMPLATE("flow: past the second bound calls are refused at once", Kind,
                   TROUPE_ENDPOINT_TRANSPORTS) {
  Duo<Kind> duo(narrow(1, 2));
  duo.connect();
  auto& answers = duo.answers(4);
  for (Answer& answer : answers) start_call(*duo.a.endpoint, {duo.ab, Side::kKeeper}, "k", 10s, answer);
  CHECK(answers[3].code() == Code::kResourceExhausted);
  CHECK(answers[3].error->message.find("bob") != std::string::npos);
  CHECK(duo.a.endpoint->stats().calls_refused == 1);
  for (std::size_t i = 0; i < 3; ++i) {
    CHECK(answers[i].count == 0);
    REQUIRE(duo.until([&] { return duo.b.service.kept.size() == i + 1; }));
    duo.b.service.kept[i]->reply_void();
  }
  REQUIRE(duo.until([&] { return duo.a.endpoint->open_calls() == 0; }));
  for (std::size_t i = 0; i < 3; ++i) CHECK(answers[i].code() == Code::kOk);
}

TEST_CASE_TEMPLATE("flow: a call that ends while it waits is never sent", Kind, TROUPE_ENDPOINT_TRANSPORTS) {
  Duo<Kind> duo(narrow(1));
  duo.connect();
  auto& answers = duo.answers(4);
  start_call(*duo.a.endpoint, {duo.ab, Side::kKeeper}, "k", 10s, answers[0], std::int64_t{0});
  start_call(*duo.a.endpoint, {duo.ab, Side::kKeeper}, "k", 5ms, answers[1], std::int64_t{1});
  const auto cancelled =
      start_call(*duo.a.endpoint, {duo.ab, Side::kKeeper}, "k", 10s, answers[2], std::int64_t{2});
  start_call(*duo.a.endpoint, {duo.ab, Side::kKeeper}, "k", 10s, answers[3], std::int64_t{3});
  duo.a.endpoint->cancel(cancelled);
  CHECK(answers[2].code() == Code::kCancelled);
  REQUIRE(duo.until([&] { return answers[1].count == 1 && duo.b.service.kept.size() == 1; }));
  CHECK(answers[1].code() == Code::kDeadlineExceeded);
  CHECK(duo.a.endpoint->waiting().calls == 1);
  duo.b.service.kept[0]->reply_void();
  REQUIRE(duo.until([&] { return duo.b.service.kept.size() == 2; }));
  CHECK(first_argument(*duo.b.service.kept[1]) == 3);
  duo.b.service.kept[1]->reply_void();
  REQUIRE(duo.until([&] { return duo.a.endpoint->open_calls() == 0; }));
  CHECK(duo.b.service.begun == 2);
  CHECK(duo.a.endpoint->waiting().bytes == 0);
}

TEST_CASE("flow: the time left that a call carries has shrunk by its wait") {
  Duo<contract::Sim> duo(narrow(1));
  duo.connect();
  auto& answers = duo.answers(2);
  for (Answer& answer : answers) start_call(*duo.a.endpoint, {duo.ab, Side::kKeeper}, "k", 10s, answer);
  duo.settle(4s);
  duo.b.service.kept.at(0)->reply_void();
  REQUIRE(duo.until([&] { return duo.b.service.kept.size() == 2; }));
  CHECK(duo.b.service.kept[1]->header().remaining <= 6s);
  CHECK(duo.b.service.kept[1]->header().remaining >= Duration(5900ms));
  duo.settle(6s);
  CHECK(answers[1].code() == Code::kDeadlineExceeded);
}

TEST_CASE_TEMPLATE("flow: long messages wait for bytes to leave, short calls go before them", Kind,
                   TROUPE_ENDPOINT_TRANSPORTS) {
  auto options = options_of(1, "alice");
  options.limits.max_bytes_in_flight = 1 << 20;
  Duo<Kind> duo(options);
  duo.connect();
  CHECK(duo.template call<std::int64_t>("add", 1, 1).value() == 2);
  auto& answers = duo.answers(8);
  for (Answer& answer : answers)
    start_call(*duo.a.endpoint, {duo.ab, 1}, "tensor", 10s, answer, bytes_tensor(700'000));
  CHECK(duo.a.endpoint->waiting().calls == 7);
  CHECK(duo.a.endpoint->waiting().bytes >= 7 * 700'000);
  std::vector<std::size_t> order;
  for (std::size_t i = 0; i < answers.size(); ++i) answers[i].hook = [&order, i] { order.push_back(i); };
  CHECK(duo.template call<std::int64_t>("add", 1, 2).value() == 3);
  CHECK(order.size() < answers.size());
  REQUIRE(duo.until([&] { return duo.a.endpoint->open_calls() == 0; }));
  for (std::size_t i = 0; i < answers.size(); ++i) {
    CHECK(answers[i].code() == Code::kOk);
    CHECK(order[i] == i);
  }
  // One that is longer than the bound goes alone.
  CHECK(duo.template call<Tensor>("tensor", bytes_tensor(3'000'000)).value().bytes() == 3'000'000);
}

TEST_CASE_TEMPLATE("flow: what waits is bounded in bytes, too", Kind, TROUPE_ENDPOINT_TRANSPORTS) {
  auto options = options_of(1, "alice");
  options.limits.max_bytes_in_flight = 1 << 20;
  options.limits.max_bytes_waiting = 2 << 20;
  Duo<Kind> duo(options);
  duo.connect();
  auto& answers = duo.answers(5);
  for (Answer& answer : answers)
    start_call(*duo.a.endpoint, {duo.ab, 1}, "tensor", 10s, answer, bytes_tensor(900'000));
  CHECK(answers[2].count == 0);
  CHECK(answers[3].code() == Code::kResourceExhausted);
  CHECK(answers[4].code() == Code::kResourceExhausted);
  REQUIRE(duo.until([&] { return duo.a.endpoint->open_calls() == 0; }));
  for (std::size_t i = 0; i < 3; ++i) CHECK(answers[i].code() == Code::kOk);
}

TEST_CASE_TEMPLATE("flow: answers wait for room and are never refused", Kind, TROUPE_ENDPOINT_TRANSPORTS) {
  auto for_b = options_of(2, "bob");
  for_b.limits.max_bytes_in_flight = 100'000;
  for_b.limits.max_calls_waiting = 1;
  for_b.limits.max_bytes_waiting = 1;
  Duo<Kind> duo(options_of(1, "alice"), for_b);
  duo.connect();
  auto& answers = duo.answers(20);
  for (Answer& answer : answers)
    start_call(*duo.a.endpoint, {duo.ab, 1}, "tensor", 10s, answer, bytes_tensor(300'000));
  REQUIRE(duo.until([&] { return duo.a.endpoint->open_calls() == 0; }));
  for (const Answer& answer : answers) CHECK(answer.code() == Code::kOk);
  CHECK(duo.b.endpoint->stats().calls_refused == 0);
}

TEST_CASE("flow: one-way messages wait behind calls, in order, and those too late are dropped") {
  Duo<contract::Sim> duo(narrow(1));
  duo.connect();
  std::vector<std::int64_t> seen;
  InboundCallPtr first;
  duo.b.handler = [&](InboundCallPtr call) {
    seen.push_back(first_argument(*call));
    if (!first) first = std::move(call);
  };
  auto& answers = duo.answers(2);
  const auto tell = [&](std::int64_t value, Duration timeout) {
    const auto argument = [&](OutMessage& out) {
      out.values(1);
      out.value(0).integer(value, DType::kInt64);
    };
    return duo.a.endpoint->send({duo.ab, 1}, {1, 0}, {.timeout = timeout}, argument);
  };
  start_call(*duo.a.endpoint, {duo.ab, 1}, "x", 10s, answers[0], std::int64_t{0});
  start_call(*duo.a.endpoint, {duo.ab, 1}, "x", 10s, answers[1], std::int64_t{1});
  CHECK(tell(2, 10s).ok());
  CHECK(tell(3, 1s).ok());
  CHECK(tell(4, 10s).ok());
  duo.settle(2s);
  REQUIRE(first);
  CHECK(seen == std::vector<std::int64_t>{0});
  first->reply_void();
  duo.settle(1s);
  CHECK(seen == std::vector<std::int64_t>{0, 1, 2, 4});
}

TEST_CASE("flow: the queue of a peer that stands still harms nobody else") {
  Duo<contract::Sim> duo(narrow(4, 8));
  duo.connect();
  Side c;
  c.endpoint =
      std::make_unique<Endpoint>(duo.world.b, duo.world.make(duo.world.b, "c"), options_of(3, "carol"), c);
  const auto address = c.endpoint->listen("c:0").value();
  const SessionId ac = duo.a.endpoint->connect(address).value();
  duo.world.world.stop("b");
  auto& stuck = duo.answers(20);
  for (Answer& answer : stuck) start_call(*duo.a.endpoint, {duo.ab, Side::kKeeper}, "k", 60s, answer);
  CHECK(duo.a.endpoint->waiting().calls == 8);
  CHECK(duo.a.endpoint->stats().calls_refused == 8);
  auto& answers = duo.answers(8);
  for (Answer& answer : answers) start_call(*duo.a.endpoint, {ac, 1}, "add", 1s, answer, 1, 2);
  REQUIRE(duo.until([&] { return answers.back().count == 1; }, 1s));
  for (const Answer& answer : answers) CHECK(answer.code() == Code::kOk);
  // It is given up, and with it all that waited for it.
  REQUIRE(duo.until([&] { return duo.a.endpoint->open_calls() == 0; }));
  for (std::size_t i = 0; i < 12; ++i) CHECK(stuck[i].code() == Code::kUnavailable);
  CHECK(duo.a.endpoint->waiting().calls == 0);
  duo.world.world.resume("b");
  c.endpoint.reset();
}

TEST_CASE_TEMPLATE("flow: calls that wait end with the endpoint", Kind, TROUPE_ENDPOINT_TRANSPORTS) {
  Duo<Kind> duo(narrow(1));
  duo.connect();
  auto& answers = duo.answers(3);
  for (Answer& answer : answers) start_call(*duo.a.endpoint, {duo.ab, Side::kKeeper}, "k", 10s, answer);
  duo.a.endpoint->shut_down();
  for (const Answer& answer : answers) CHECK(answer.code() == Code::kCancelled);
  duo.settle();
  CHECK(duo.b.service.begun <= 1);
}

}  // namespace troupe::rpc::testing
