// What a caller says with a call, and what comes with its errors: time, metadata, the type of an exception.
#include <stdexcept>

#include "endpoint_support.hpp"

namespace troupe::rpc::testing {

namespace {

struct Curious {
  Endpoint* endpoint = nullptr;
  CallTarget keeper;
  std::optional<CallContext> context;

  static void methods(Methods<Curious>& methods) {
    methods.add("look", [](Curious& self, const CallContext& context) { self.context = context; })
        .add("call_on",
             [](Curious& self, const CallContext& context) {
               self.context = context;
               return call_async<std::int64_t>(*self.endpoint, self.keeper, "keep", "keep",
                                               {.metadata = {{"own", "1"}, {"tenant", "inner"}}});
             })
        .add("call_detached",
             [](Curious& self) {
               return call_async<std::int64_t>(*self.endpoint, self.keeper, "keep", "keep",
                                               {.detached = true});
             })
        .add("throws", [](Curious&) -> std::int64_t { throw std::out_of_range("too far"); })
        .add("throws_text", [](Curious&) -> std::int64_t { throw std::string("oh"); })
        .add("no_memory", [](Curious&) -> std::int64_t { throw std::bad_alloc(); })
        .add("fails",
             [](Curious&) -> Result<std::int64_t> {
               return Error{Code::kAborted, "no"};
             })
        .add("passes_on", [](Curious& self) {
          return call_async<std::int64_t>(*self.endpoint, {self.keeper.session, 5}, "throws", "throws", {});
        });
  }
};

/// b's actor 5 is a Curious, and so is a's; each one's keeper is at the other.
template <class Kind>
struct Lookers {
  Lookers() {
    duo.connect();
    Methods<Curious> methods;
    Curious::methods(methods);
    const auto serve = [table = methods.table()](Side& side, Curious& state, SessionId other) {
      state.endpoint = side.endpoint.get();
      state.keeper = {other, Side::kKeeper};
      side.handler = [&side, &state, table](InboundCallPtr call) {
        if (call->header().target == Side::kKeeper) return side.service.kept.push_back(std::move(call));
        table->invoke(&state, std::move(call));
      };
    };
    serve(duo.a, at_a, duo.ab);
    serve(duo.b, at_b, duo.ba);
  }

  Curious at_a, at_b;
  Duo<Kind> duo;
};

#define TROUPE_CALL_KINDS ::troupe::rpc::contract::Shm, ::troupe::rpc::contract::Sim

}  // namespace

// ---- Time ---------------------------------------------------------------------------------------

TEST_CASE("time: what is left of a computed timeout may be nothing, and is then too late") {
  Duo<contract::Sim> duo;
  duo.connect();
  for (const Duration left : {Duration(0), Duration(-1), Duration(-5s)}) {
    CAPTURE(left.count());
    CHECK(duo.call_with<std::string>({.timeout = left}, "echo", "x").error().code == Code::kDeadlineExceeded);
    auto retried = duo.a.endpoint->call_with_retries(
        [&]() -> Result<CallTarget> {
          return CallTarget{duo.ab, 5};
        },
        {fnv1a("echo"), 0}, {.timeout = left, .token = 1, .retry = {.max_attempts = 3}},
        detail::arguments_writer("x"), duo.answer());
    CHECK(retried == 0);
    CHECK(duo.a.endpoint
              ->send({duo.ab, 5}, {fnv1a("echo"), 0}, {.timeout = left}, detail::arguments_writer("x"))
              .error()
              .code == Code::kDeadlineExceeded);
  }
  CHECK(duo.b.service.begun == 0);
  CHECK(duo.call_with<std::string>({.timeout = kDefaultTimeout}, "echo", "x").value() == "x");
}

TEST_CASE("time: the default timeout can be changed while calls are made") {
  Duo<contract::Sim> duo;
  duo.connect();
  Endpoint& endpoint = *duo.a.endpoint;
  const auto takes = [&] {
    Answer& answer = duo.answer();
    const TimePoint begun = duo.world.world.clock().now();
    start_call(endpoint, {duo.ab, Side::kKeeper}, "keep", kDefaultTimeout, answer);
    REQUIRE(duo.until([&] { return answer.count == 1; }, 100s));
    CHECK(answer.code() == Code::kDeadlineExceeded);
    return duo.world.world.clock().now() - begun;
  };
  CHECK(takes() >= Duration(10s));
  REQUIRE(endpoint.set_default_timeout(2s).ok());
  CHECK(endpoint.default_timeout() == Duration(2s));
  const Duration shorter = takes();
  CHECK(shorter >= Duration(2s));
  CHECK(shorter < Duration(3s));
  CHECK(endpoint.set_default_timeout(Duration(0)).error().code == Code::kInvalidArgument);
  CHECK(endpoint.set_default_timeout(kDefaultTimeout).error().code == Code::kInvalidArgument);
  CHECK(endpoint.default_timeout() == Duration(2s));
}

TEST_CASE("time: a call without a deadline waits as long as its peer lives") {
  for (const bool stopped : {true, false}) {
    CAPTURE(stopped);
    Duo<contract::Sim> duo;
    duo.connect();
    Answer& answer = duo.answer();
    start_call(*duo.a.endpoint, {duo.ab, Side::kKeeper}, "keep", kNoDeadline, answer);
    REQUIRE(duo.until([&] { return duo.b.service.kept.size() == 1; }));
    CHECK(duo.b.service.kept[0]->deadline() == TimePoint::never());
    CHECK(CallContext(*duo.b.service.kept[0]).time_left() == kNoDeadline);
    duo.settle(std::chrono::hours(3));
    CHECK(answer.count == 0);
    CHECK_FALSE(duo.b.service.kept[0]->expired());
    if (stopped)
      duo.world.world.stop("b");
    else
      duo.world.world.kill("b");
    REQUIRE(duo.until([&] { return answer.count == 1; }, 10s));
    CHECK(answer.code() == Code::kUnavailable);
  }
}

TEST_CASE("time: a call without a deadline that waits for the meeting is sent, and has none when it comes") {
  Duo<contract::Sim> duo;
  const SessionId session = duo.a.endpoint->connect(duo.address).value();
  start_call(*duo.a.endpoint, {session, Side::kKeeper}, "keep", kNoDeadline, duo.answer());
  CHECK_FALSE(duo.a.endpoint->ready(session));
  REQUIRE(duo.until([&] { return duo.b.service.kept.size() == 1; }));
  CHECK(duo.b.service.kept[0]->deadline() == TimePoint::never());
}

TEST_CASE("time: within a call that has a deadline a call without one ends with that, else never") {
  Lookers<contract::Sim> lookers;
  for (const Duration timeout : {Duration(5s), kNoDeadline}) {
    start_call(*lookers.duo.a.endpoint, {lookers.duo.ab, 5}, "call_on", timeout, lookers.duo.answer());
    auto& kept = lookers.duo.a.service.kept;
    REQUIRE(lookers.duo.until([&] { return kept.size() == 1; }));
    CHECK(lookers.at_b.context->time_left() <= timeout);
    CHECK(kept[0]->header().remaining <= Duration(10s));  // the default of b
    kept.clear();
  }
  REQUIRE(lookers.duo.b.endpoint->set_default_timeout(kNoDeadline).ok());
  start_call(*lookers.duo.a.endpoint, {lookers.duo.ab, 5}, "call_on", kNoDeadline, lookers.duo.answer());
  REQUIRE(lookers.duo.until([&] { return lookers.duo.a.service.kept.size() == 1; }));
  CHECK(lookers.duo.a.service.kept[0]->deadline() == TimePoint::never());
}

TEST_CASE("time: a call that is repeated and has no deadline waits the default for each answer") {
  Duo<contract::Sim> duo;
  duo.connect();
  Answer& answer = duo.answer();
  duo.a.endpoint->call_with_retries(
      [&]() -> Result<CallTarget> {
        return CallTarget{duo.ab, Side::kKeeper};
      },
      {fnv1a("keep"), 0}, {.timeout = kNoDeadline, .token = 1, .retry = {.max_attempts = 2}},
      detail::arguments_writer(), answer);
  REQUIRE(duo.until([&] { return answer.count == 1; }, 100s));
  CHECK(answer.code() == Code::kDeadlineExceeded);
  CHECK(duo.a.endpoint->stats().calls_retried == 1);
}

// ---- Metadata -----------------------------------------------------------------------------------

TEST_CASE_TEMPLATE("metadata: come with a call; those marked so go on with the calls within it", Kind,
                   TROUPE_CALL_KINDS) {
  Lookers<Kind> lookers;
  auto& duo = lookers.duo;
  const Metadata sent{{"tenant", "a", kPassOn}, {"request", "7", kPassOn}, {"try", "2"}};
  for (const SessionId to : {duo.ab, kLocal}) {
    CAPTURE(to);
    Curious& looker = to == kLocal ? lookers.at_a : lookers.at_b;
    auto& kept = to == kLocal ? duo.b.service.kept : duo.a.service.kept;
    duo.a.endpoint->call({to, 5}, {fnv1a("call_on"), 0}, {.metadata = sent}, detail::arguments_writer(),
                         duo.answer());
    REQUIRE(duo.until([&] { return kept.size() == 1; }));
    std::string came;
    for (const MetadataPair& pair : looker.context->metadata.pairs())
      came += pair.key + "=" + pair.value + (pair.pass_on ? "+ " : " ");
    CHECK(came == "tenant=a+ request=7+ try=2 ");
    CHECK(*looker.context->metadata.find("try") == "2");
    CHECK(looker.context->metadata.find("other") == nullptr);
    const Metadata& inner = kept[0]->header().metadata;
    CHECK(inner.pairs() ==
          std::vector<MetadataPair>{{"own", "1"}, {"tenant", "inner"}, {"request", "7", true}});
    kept.clear();
    duo.a.endpoint->call({to, 5}, {fnv1a("call_detached"), 0}, {.metadata = sent}, detail::arguments_writer(),
                         duo.answer());
    REQUIRE(duo.until([&] { return kept.size() == 1; }));
    CHECK(kept[0]->header().metadata.empty());
    kept.clear();
  }
}

TEST_CASE_TEMPLATE("metadata: as much as may be goes with any call, also a repeated and a one-way one", Kind,
                   TROUPE_CALL_KINDS) {
  Lookers<Kind> lookers;
  auto& duo = lookers.duo;
  std::vector<MetadataPair> most;
  for (std::size_t i = 0; i < Metadata::kMaxPairs; ++i)
    most.push_back({std::to_string(i), std::string(Metadata::kMaxBytes / Metadata::kMaxPairs - 2, 'x')});
  const Metadata full(most);
  REQUIRE(full.check().ok());
  const auto came = [&] {
    return duo.until([&] { return lookers.at_b.context.has_value(); }) &&
           std::exchange(lookers.at_b.context, std::nullopt)->metadata.pairs() == most;
  };
  const MethodId look{fnv1a("look"), 0};
  duo.a.endpoint->call({duo.ab, 5}, look, {.metadata = full}, detail::arguments_writer(), duo.answer());
  CHECK(came());
  REQUIRE(duo.a.endpoint->send({duo.ab, 5}, look, {.metadata = full}, detail::arguments_writer()).ok());
  CHECK(came());
  duo.a.endpoint->call_with_retries(
      [&]() -> Result<CallTarget> {
        return CallTarget{duo.ab, 5};
      },
      look, {.token = 5, .retry = {.max_attempts = 2}, .metadata = full}, detail::arguments_writer(),
      duo.answer());
  CHECK(came());
  // With arguments that go beside the envelope, too.
  CHECK(duo.template call_with<void>({.metadata = full}, "look", std::string(100'000, 'y')).error().code ==
        Code::kInvalidArgument);
}

TEST_CASE("metadata: more than may be is refused where the call is made") {
  Duo<contract::Sim> duo;
  duo.connect();
  std::vector<MetadataPair> many(Metadata::kMaxPairs + 1, {"key", "value"});
  const Metadata wrong[] = {Metadata(many), Metadata{{"key", std::string(Metadata::kMaxBytes, 'x')}},
                            Metadata{{"", "value"}}};
  for (const Metadata& each : wrong) {
    CHECK(duo.call_with<std::string>({.metadata = each}, "echo", "x").error().code == Code::kInvalidArgument);
    CHECK(duo.a.endpoint->send({duo.ab, 5}, {1, 0}, {.metadata = each}, detail::arguments_writer())
              .error()
              .code == Code::kInvalidArgument);
  }
  CHECK(duo.b.service.begun == 0);
}

TEST_CASE("metadata: more than may be from the wire ends the link") {
  MemoryPool pool;
  for (const bool long_one : {false, true}) {
    MessageHeader header{MessageKind::kRequest, 1, 2, 3, 4, Duration(5)};
    header.metadata = long_one ? Metadata{{"key", std::string(Metadata::kMaxBytes, 'x')}}
                               : Metadata(std::vector<MetadataPair>(Metadata::kMaxPairs + 1, {"k", "v"}));
    OutMessage out(pool, header);
    out.values(0);
    auto frame = out.finish(SIZE_MAX).value();
    auto read = InMessage::parse(std::move(frame.head), std::move(frame.parts));
    REQUIRE_FALSE(read.ok());
    CHECK(read.error().code == Code::kDataLoss);
  }
}

// ---- Errors -------------------------------------------------------------------------------------

TEST_CASE_TEMPLATE("errors: an exception's type comes with its error, and the callee hears of it once", Kind,
                   TROUPE_CALL_KINDS) {
  Lookers<Kind> lookers;
  auto& duo = lookers.duo;
  const std::tuple<const char*, const char*, Code> all[] = {
      {"throws", "std::out_of_range", Code::kInternal},
      {"throws_text", "std::basic_string<char, std::char_traits<char>, std::allocator<char> >",
       Code::kInternal},
      {"no_memory", "std::bad_alloc", Code::kResourceExhausted},
      {"fails", "", Code::kAborted}};
  for (const auto& [name, type, code] : all) {
    const char* const method = name;
    CAPTURE(method);
    duo.b.failures.clear();
    const auto failed = duo.template call<std::int64_t>(method);
    REQUIRE_FALSE(failed.ok());
    CHECK(failed.error().code == code);
    CHECK(failed.error().exception == type);
    CHECK(failed.error().node == "bob");
    REQUIRE(duo.b.failures.size() == 1);
    CHECK(duo.b.failures[0].exception == type);
  }
  CHECK(duo.template call<std::int64_t>("throws").error().to_string() ==
        "INTERNAL: throws: the handler threw: too far (at bob; thrown as std::out_of_range)");
}

TEST_CASE_TEMPLATE("errors: who only passes an error on is not told of it as its own", Kind,
                   TROUPE_CALL_KINDS) {
  Lookers<Kind> lookers;
  const auto passed = lookers.duo.template call<std::int64_t>("passes_on");  // of a by b to a
  CHECK(passed.error().exception == "std::out_of_range");
  CHECK(passed.error().node == "alice");
  CHECK(lookers.duo.a.failures.size() == 1);
  CHECK(lookers.duo.b.failures.empty());
}

}  // namespace troupe::rpc::testing
