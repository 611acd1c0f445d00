// What is thrown by what an endpoint calls ends there: the call gets its error, others go on.
#include <stdexcept>

#include <troupe/rpc/stream.hpp>

#include "endpoint_support.hpp"

namespace troupe::rpc {

namespace {
/// A type that cannot be read.
struct Unreadable {
  std::int64_t value = 0;
};
}  // namespace

template <>
struct Codec<Unreadable> {
  static std::string name() { return "int64"; }
  static constexpr std::uint64_t fingerprint() { return Codec<std::int64_t>::fingerprint(); }
  static void encode(ValueWriter out, const Unreadable& value) { out.integer(value.value, DType::kInt64); }
  static bool decode(ValueReader, Unreadable&) { throw std::runtime_error("cannot be read"); }
};

namespace testing {

namespace {
using SimDuo = Duo<contract::Sim>;

template <class D>
void check_goes_on(D& duo) {
  CHECK(duo.template call<std::int64_t>("add", std::int64_t{1}, std::int64_t{2}).value() == 3);
}
}  // namespace

TEST_CASE_TEMPLATE("exceptions: who waits for an answer throws", Kind, TROUPE_ENDPOINT_TRANSPORTS) {
  Duo<Kind> duo;
  duo.connect();
  Answer& answer = duo.answer();
  answer.hook = [] { throw std::runtime_error("the sink"); };
  start_call(*duo.a.endpoint, {duo.ab, 1}, "add", 10s, answer, std::int64_t{1}, std::int64_t{2});
  REQUIRE(duo.until([&] { return answer.count == 1; }));
  CHECK(duo.a.endpoint->stats().exceptions == 1);
  check_goes_on(duo);
  // Also if the answer is an error of this side, at its deadline or at once.
  Answer& late = duo.answer();
  late.hook = answer.hook;
  start_call(*duo.a.endpoint, {duo.ab, Side::kKeeper}, "k", 5ms, late);
  REQUIRE(duo.until([&] { return late.count == 1; }));
  CHECK(duo.a.endpoint->stats().exceptions == 2);
  check_goes_on(duo);
}

TEST_CASE_TEMPLATE("exceptions: who takes calls throws", Kind, TROUPE_ENDPOINT_TRANSPORTS) {
  Duo<Kind> duo;
  duo.connect();
  duo.b.handler = [](const InboundCallPtr&) { throw std::runtime_error("the handler"); };
  Answer& answer = duo.answer();
  start_call(*duo.a.endpoint, {duo.ab, 1}, "add", 10s, answer, std::int64_t{1}, std::int64_t{2});
  REQUIRE(duo.until([&] { return answer.count == 1; }));
  CHECK(answer.code() == Code::kInternal);
  CHECK(duo.b.endpoint->stats().exceptions == 1);
  duo.b.handler = nullptr;
  check_goes_on(duo);
}

TEST_CASE("exceptions: who is told of a session's end throws") {
  SimDuo duo;
  duo.connect();
  duo.b.closed_hook = [](SessionId) { throw std::runtime_error("the watcher"); };
  duo.a.endpoint->close(duo.ab, {Code::kCancelled, "enough"});
  REQUIRE(duo.until([&] { return duo.b.closed.size() == 1; }));
  CHECK(duo.b.endpoint->stats().exceptions == 1);
  duo.b.closed_hook = nullptr;
  duo.ab = duo.a.endpoint->connect(duo.address).value();
  check_goes_on(duo);
}

TEST_CASE("exceptions: who is told of a cancellation throws, and the others are told") {
  SimDuo duo;
  duo.connect();
  int told = 0;
  InboundCallPtr kept;
  duo.b.handler = [&](InboundCallPtr call) {
    const CallContext context(*call);
    context.on_cancel([&] { ++told, throw std::runtime_error("the watcher"); });
    context.on_cancel([&] { ++told; });
    kept = std::move(call);
  };
  Answer& answer = duo.answer();
  const auto id = start_call(*duo.a.endpoint, {duo.ab, 1}, "k", 10s, answer);
  REQUIRE(duo.until([&] { return kept != nullptr; }));
  duo.a.endpoint->cancel(id);
  REQUIRE(duo.until([&] { return told == 2; }));
  CHECK(duo.b.endpoint->stats().exceptions == 1);
  duo.b.handler = nullptr;
  kept.reset();
  check_goes_on(duo);
}

TEST_CASE("exceptions: finding the callee throws") {
  SimDuo duo;
  duo.connect();
  Answer& answer = duo.answer();
  duo.a.endpoint->call_with_retries(
      []() -> Result<CallTarget> { throw std::runtime_error("no idea"); }, {fnv1a("add"), 0},
      {.timeout = 1s, .token = 5, .retry = {.max_attempts = 2}}, detail::arguments_writer(), answer);
  REQUIRE(duo.until([&] { return answer.count == 1; }));
  CHECK(answer.code() == Code::kInternal);
  CHECK(answer.error->message.find("no idea") != std::string::npos);
  check_goes_on(duo);
}

TEST_CASE("exceptions: decoding the arguments of a stream throws, and its reader has the error") {
  SimDuo duo;
  duo.connect();
  struct Nothing {};
  Methods<Nothing> methods;
  methods.add("open", [](Nothing&, StreamWriter<std::int64_t>, Unreadable) {});
  Nothing state;
  duo.b.handler = [&, table = methods.table()](InboundCallPtr call) {
    table->invoke(&state, std::move(call));
  };
  auto reader = open_stream<std::int64_t>(*duo.a.endpoint, {duo.ab, 1}, "open", "open", {}, Unreadable{});
  auto next = reader.next_async(5s);
  REQUIRE(duo.until([&] { return next.ready(); }));
  const auto item = next.get();
  REQUIRE_FALSE(item.ok());
  CHECK(item.error().code == Code::kInternal);
  CHECK(item.error().message.find("cannot be read") != std::string::npos);
  CHECK(duo.b.endpoint->stats().exceptions == 0);
  duo.b.handler = nullptr;
  check_goes_on(duo);
}

TEST_CASE_TEMPLATE("exceptions: who is told of failures throws, and the caller is answered", Kind,
                   TROUPE_ENDPOINT_TRANSPORTS) {
  Duo<Kind> duo;
  duo.connect();
  duo.b.failure_hook = [] { throw std::runtime_error("the log"); };
  const auto failed = duo.template call<int>("fail", std::string("on purpose"));
  REQUIRE_FALSE(failed.ok());
  CHECK(failed.error().code == Code::kAborted);
  CHECK(failed.error().cause == "the cause");
  // Also of a call that its handler drops.
  duo.b.handler = [](const InboundCallPtr&) {};
  const auto dropped = duo.template call<std::int64_t>("add", std::int64_t{1}, std::int64_t{2});
  REQUIRE_FALSE(dropped.ok());
  CHECK(dropped.error().message.find("dropped") != std::string::npos);
  CHECK(duo.b.endpoint->stats().exceptions == 2);
  CHECK(duo.b.endpoint->inbound_calls() == 0);
  duo.b.handler = nullptr;
  duo.b.failure_hook = nullptr;
  check_goes_on(duo);
}

TEST_CASE_TEMPLATE("exceptions: decoding an answer throws, and the future has the error", Kind,
                   TROUPE_ENDPOINT_TRANSPORTS) {
  Duo<Kind> duo;
  duo.connect();
  auto future = call_async<Unreadable>(*duo.a.endpoint, {duo.ab, 1}, "add", "add", {}, std::int64_t{1},
                                       std::int64_t{2});
  REQUIRE(duo.until([&] { return future.ready(); }, 5s));
  const auto result = future.get();
  REQUIRE_FALSE(result.ok());
  CHECK(result.error().code == Code::kInternal);
  CHECK(result.error().message.find("cannot be read") != std::string::npos);
  check_goes_on(duo);
}

}  // namespace testing

}  // namespace troupe::rpc
