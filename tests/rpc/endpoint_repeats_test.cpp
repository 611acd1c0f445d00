// Repeats of calls that were refused, and the ends of calls that are repeated, when those who are told of
// them do what they like.
#include "endpoint_support.hpp"

namespace troupe::rpc::testing {

namespace {

using SimDuo = Duo<contract::Sim>;

std::uint64_t call_with_token(Endpoint& endpoint, CallTarget target, std::uint64_t token, ReplySink& sink) {
  return endpoint.call(target, {fnv1a("m"), 0}, {.timeout = 10s, .token = token}, detail::arguments_writer(),
                       sink);
}

std::int64_t value_of(const Answer& answer) {
  std::int64_t value = -1;
  if (answer.message) CHECK(answer.message->value(0).read_integer(value));
  return value;
}

}  // namespace

TEST_CASE_TEMPLATE("repeats: of a call that was refused the latest runs, and the others get its answer", Kind,
                   TROUPE_ENDPOINT_TRANSPORTS) {
  Duo<Kind> duo;
  duo.connect();
  auto& answers = duo.answers(4);
  for (Answer& answer : answers) call_with_token(*duo.a.endpoint, {duo.ab, Side::kKeeper}, 5, answer);
  REQUIRE(duo.until([&] { return duo.b.endpoint->stats().calls_received == 4; }));
  auto& kept = duo.b.service.kept;
  REQUIRE(kept.size() == 1);
  // Not from the vector, into which the next one goes.
  const InboundCallPtr first = std::move(kept[0]);
  first->refuse({Code::kUnavailable, "not now"});
  REQUIRE(duo.until([&] { return answers[0].count == 1; }));
  CHECK(answers[0].code() == Code::kUnavailable);
  CHECK(duo.b.service.begun == 2);
  REQUIRE(kept.size() == 2);
  CHECK(answers[1].count + answers[2].count + answers[3].count == 0);
  kept[1]->reply(std::int64_t{9});
  REQUIRE(duo.until([&] { return duo.a.endpoint->open_calls() == 0; }));
  for (std::size_t i = 1; i < 4; ++i) CHECK(value_of(answers[i]) == 9);
  CHECK(duo.b.service.begun == 2);
  CHECK(duo.b.endpoint->inbound_calls() == 0);
}

TEST_CASE_TEMPLATE("repeats: of a call that was refused none runs twice, though the session ends meanwhile",
                   Kind, TROUPE_ENDPOINT_TRANSPORTS) {
  Duo<Kind> duo;
  duo.connect();
  auto& answers = duo.answers(4);
  for (Answer& answer : answers) call_with_token(*duo.a.endpoint, {duo.ab, Side::kKeeper}, 5, answer);
  REQUIRE(duo.until([&] { return duo.b.endpoint->stats().calls_received == 4; }));
  REQUIRE(duo.b.service.kept.size() == 1);
  const InboundCallPtr first = std::move(duo.b.service.kept[0]);
  int ran = 0;
  duo.b.handler = [&](InboundCallPtr call) {
    ++ran;
    duo.b.endpoint->close(duo.ba, {Code::kCancelled, "enough"});
    duo.b.service.kept.push_back(std::move(call));
  };
  first->refuse({Code::kUnavailable, "not now"});
  CHECK(ran == 1);
  duo.b.service.kept.clear();
  CHECK(duo.b.endpoint->inbound_calls() == 0);
  REQUIRE(duo.until([&] { return duo.a.endpoint->open_calls() == 0; }));
  for (const Answer& answer : answers) CHECK(answer.count == 1);
}

TEST_CASE("repeats: who hears that the last attempt is given up may cancel the call, or end the endpoint") {
  for (const bool ends : {false, true}) {
    CAPTURE(ends);
    SimDuo duo;
    duo.connect();
    Answer& answer = duo.answer();
    std::uint64_t id = 0;
    int told = 0;
    // A callee of the same node: it is told within the caller's own work.
    duo.b.handler = [&](InboundCallPtr call) {
      CallContext(*call).on_cancel([&] {
        ++told;
        if (ends)
          duo.b.endpoint->shut_down();
        else
          duo.b.endpoint->cancel(id);
      });
      duo.b.service.kept.push_back(std::move(call));
    };
    id = duo.b.endpoint->call_with_retries(
        []() -> Result<CallTarget> {
          return CallTarget{kLocal, 1};
        },
        {fnv1a("m"), 0}, {.timeout = 3s, .token = 9, .retry = {.max_attempts = 2, .attempt_timeout = 1s}},
        detail::arguments_writer(), answer);
    REQUIRE(duo.until([&] { return told == 1; }));
    CHECK(answer.count == 1);
    CHECK(answer.code() == Code::kDeadlineExceeded);
    CHECK_FALSE(duo.b.endpoint->is_open(id));
    duo.b.service.kept.clear();
  }
}

}  // namespace troupe::rpc::testing
