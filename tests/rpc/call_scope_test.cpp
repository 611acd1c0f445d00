// Calls within calls: deadlines, traces and cancellation pass from the call that a handler answers to those
// that it makes, and to nobody else.
#include <thread>

#include "endpoint_support.hpp"

namespace troupe::rpc::testing {

namespace {

/// The actor at b: its methods call on, usually an actor that answers nothing by itself.
struct Middle {
  Endpoint* endpoint = nullptr;
  CallTarget keeper;
  CallTarget service;  // answers at once
  int told = 0;
  std::optional<CallContext> context;
  std::vector<Result<std::int64_t>> outcomes;
  std::vector<Promise<std::int64_t>> promises;
  std::function<void()> at_once;  // run first in every method

  Future<std::int64_t> keep(Duration timeout, bool detached = false) {
    return call_async<std::int64_t>(*endpoint, keeper, "keep", "keeper.keep",
                                    {.timeout = timeout, .trace = {}, .detached = detached});
  }
  Future<std::int64_t> ask(const CallContext& asked, std::int64_t timeout_ms) {
    if (at_once) at_once();
    context = asked;
    asked.on_cancel([this] { ++told; });
    return keep(std::chrono::milliseconds(timeout_ms)).then([this](Result<std::int64_t> value) {
      outcomes.push_back(value);
      return value;
    });
  }
  std::int64_t wait(std::int64_t timeout_ms) {
    if (at_once) at_once();
    outcomes.push_back(keep(std::chrono::milliseconds(timeout_ms)).get());
    return 1;
  }

  static void methods(Methods<Middle>& methods) {
    methods.add("ask", &Middle::ask)
        .add("wait", &Middle::wait)
        .add("ask_then_keep",
             [](Middle& self) {
               return call_async<std::int64_t>(*self.endpoint, self.service, "add", "add", {}, 1, 2)
                   .then([&self](const Result<std::int64_t>&) { return self.keep(kDefaultTimeout); });
             })
        .add("keep_detached",
             [](Middle& self) {
               self.keep(kDefaultTimeout, true);
               {
                 const Detached none(self.endpoint->loop());
                 self.keep(kDefaultTimeout);
               }
               self.promises.emplace_back(self.endpoint->loop());
               return self.promises.back().future();
             })
        .add("linger",
             [](Middle& self, const CallContext& asked) {
               asked.on_cancel([&self] { ++self.told; });
               self.promises.emplace_back(self.endpoint->loop());
               return self.promises.back().future();
             })
        .add("ask_after_the_end", [](Middle& self) {
          Promise<std::int64_t> promise(self.endpoint->loop());
          auto end = promise.future();
          return end.then([&self, promise = std::move(promise)](Result<std::int64_t> value) {
            self.outcomes.push_back(value);
            self.keep(kDefaultTimeout).then([&self](Result<std::int64_t> refused) {
              self.outcomes.push_back(std::move(refused));
            });
            return value;
          });
        });
  }
};

/// a calls b's Middle, which calls the keeper: actor 99 of a, or of b itself.
template <class Kind>
struct Chain {
  explicit Chain(bool local = false) {
    duo.connect();
    Methods<Middle> methods;
    Middle::methods(methods);
    middle.endpoint = duo.b.endpoint.get();
    middle.keeper = {local ? kLocal : duo.ba, Side::kKeeper};
    middle.service = {duo.ba, 5};
    duo.b.handler = [this, table = methods.table()](InboundCallPtr call) {
      if (call->header().target == Side::kKeeper) return duo.b.service.kept.push_back(std::move(call));
      table->invoke(&middle, std::move(call));
    };
  }
  template <class... Args>
  std::uint64_t begin(std::string_view method, Duration timeout, const Args&... args) {
    return start_call(*duo.a.endpoint, {duo.ab, 5}, method, timeout, answer, args...);
  }
  std::vector<InboundCallPtr>& kept(bool local = false) {
    return local ? duo.b.service.kept : duo.a.service.kept;
  }

  Middle middle;
  Duo<Kind> duo;
  Answer& answer = duo.answer();
};

}  // namespace

TEST_CASE_TEMPLATE("nested: a cancelled call cancels what its handler has called, and tells the handler",
                   Kind, TROUPE_ENDPOINT_TRANSPORTS) {
  Chain<Kind> chain;
  const auto id = chain.begin("ask", 20s, 10'000);
  REQUIRE(chain.duo.until([&] { return chain.kept().size() == 1; }));
  CHECK_FALSE(chain.middle.context->cancelled());
  chain.duo.a.endpoint->cancel(id);
  CHECK(chain.answer.code() == Code::kCancelled);
  REQUIRE(chain.duo.until([&] { return chain.kept()[0]->cancelled(); }));
  CHECK(chain.middle.context->cancelled());
  CHECK(chain.middle.told == 1);
  REQUIRE(chain.middle.outcomes.size() == 1);
  CHECK(chain.middle.outcomes[0].error().code == Code::kCancelled);
  CHECK(chain.duo.b.endpoint->open_calls() == 0);
}

TEST_CASE_TEMPLATE("nested: the nearer of the two deadlines holds, and the trace passes on", Kind,
                   TROUPE_ENDPOINT_TRANSPORTS) {
  Chain<Kind> chain;
  chain.duo.a.endpoint->call({chain.duo.ab, 5}, {fnv1a("ask"), 0}, {.timeout = 5s, .trace = {1, 2, 3, 1}},
                             detail::arguments_writer(8'000), chain.answer);
  Answer& second = chain.duo.answer();
  start_call(*chain.duo.a.endpoint, {chain.duo.ab, 5}, "ask", 5s, second, 1'000);
  REQUIRE(chain.duo.until([&] { return chain.kept().size() == 2; }));
  CHECK(chain.kept()[0]->header().remaining <= Duration(5s));
  CHECK(chain.kept()[0]->header().remaining > Duration(1s));
  CHECK(chain.kept()[0]->header().trace.trace_high == 1);
  CHECK(chain.kept()[0]->header().trace.span_id == 3);
  CHECK(chain.kept()[1]->header().remaining <= Duration(1s));
}

TEST_CASE_TEMPLATE("nested: an expired call ends what was called in its name, and the handler sees it", Kind,
                   TROUPE_ENDPOINT_TRANSPORTS) {
  Chain<Kind> chain;
  chain.begin("ask", 100ms, 10'000);
  Answer& lingering = chain.duo.answer();
  start_call(*chain.duo.a.endpoint, {chain.duo.ab, 5}, "linger", 100ms, lingering);
  REQUIRE(chain.duo.until([&] { return chain.answer.count == 1 && chain.middle.outcomes.size() == 1; }));
  CHECK(chain.answer.code() == Code::kDeadlineExceeded);
  CHECK(chain.middle.context->cancelled());
  // The handler that waited for a call may have answered, in vain, before it could be told.
  REQUIRE(chain.duo.until([&] { return chain.middle.told >= 1 && lingering.count == 1; }));
  REQUIRE(chain.kept().size() == 1);
  REQUIRE(chain.duo.until([&] { return chain.kept()[0]->cancelled(); }));
}

TEST_CASE_TEMPLATE("nested: the caller's death cancels what was called in its name", Kind,
                   TROUPE_ENDPOINT_TRANSPORTS) {
  Chain<Kind> chain(true);
  chain.begin("ask", 20s, 10'000);
  REQUIRE(chain.duo.until([&] { return chain.kept(true).size() == 1; }));
  chain.duo.a.endpoint->close(chain.duo.ab, {Code::kUnavailable, "over"});
  REQUIRE(chain.duo.until([&] { return chain.kept(true)[0]->cancelled(); }));
  CHECK(chain.middle.told == 1);
  CHECK(chain.middle.outcomes.at(0).error().code == Code::kCancelled);
}

TEST_CASE("nested: a handler that waits has its wait ended") {
  Chain<contract::Sim> chain;  // in whose waits both loops go on
  const auto id = chain.begin("wait", 20s, 10'000);
  chain.duo.a.handler = [&](InboundCallPtr call) {
    chain.duo.a.service.kept.push_back(std::move(call));
    chain.duo.a.endpoint->cancel(id);
  };
  REQUIRE(chain.duo.until([&] { return chain.middle.outcomes.size() == 1; }));
  CHECK(chain.middle.outcomes[0].error().code == Code::kCancelled);
}

TEST_CASE_TEMPLATE("nested: what a continuation calls is part of the call too", Kind,
                   TROUPE_ENDPOINT_TRANSPORTS) {
  Chain<Kind> chain;
  const auto id = chain.begin("ask_then_keep", 7s);
  chain.duo.a.handler = nullptr;
  REQUIRE(chain.duo.until([&] { return chain.kept().size() == 1; }));
  CHECK(chain.kept()[0]->header().remaining <= Duration(7s));
  chain.duo.a.endpoint->cancel(id);
  REQUIRE(chain.duo.until([&] { return chain.kept()[0]->cancelled(); }));
}

TEST_CASE_TEMPLATE("nested: a detached call goes on", Kind, TROUPE_ENDPOINT_TRANSPORTS) {
  Chain<Kind> chain;
  const auto id = chain.begin("keep_detached", 7s);
  REQUIRE(chain.duo.until([&] { return chain.kept().size() == 2; }));
  for (const auto& call : chain.kept()) CHECK(call->header().remaining > Duration(7s));
  chain.duo.a.endpoint->cancel(id);
  chain.duo.settle();
  for (const auto& call : chain.kept()) CHECK_FALSE(call->cancelled());
  CHECK(chain.duo.b.endpoint->open_calls() == 2);
}

TEST_CASE_TEMPLATE("nested: a call made in the name of a cancelled one is refused", Kind,
                   TROUPE_ENDPOINT_TRANSPORTS) {
  Chain<Kind> chain;
  const auto id = chain.begin("ask_after_the_end", 7s);
  chain.duo.settle();
  chain.duo.a.endpoint->cancel(id);
  REQUIRE(chain.duo.until([&] { return chain.middle.outcomes.size() == 2; }));
  CHECK(chain.middle.outcomes[0].error().code == Code::kCancelled);
  CHECK(chain.middle.outcomes[1].error().code == Code::kCancelled);
  CHECK(chain.kept().empty());
}

TEST_CASE_TEMPLATE("nested: what others do on the loop while a handler waits is not part of its call", Kind,
                   TROUPE_ENDPOINT_TRANSPORTS) {
  Chain<Kind> chain;
  Loop& loop = chain.duo.world.b;
  std::vector<Future<std::int64_t>> others;
  Timer timer([&] {
    CHECK(loop.context() == nullptr);
    others.push_back(chain.middle.keep(kDefaultTimeout));
  });
  chain.middle.at_once = [&] {
    CHECK(loop.context() != nullptr);
    loop.schedule_after(timer, 1ms);
    loop.defer([&] { others.push_back(chain.middle.keep(kDefaultTimeout)); });
    // Another endpoint's call is not part of it either, though it is made on this thread.
    others.push_back(
        call_async<std::int64_t>(*chain.duo.a.endpoint, {kLocal, Side::kKeeper}, "keep", "keep", {}));
  };
  chain.begin("wait", 2s, 500);
  REQUIRE(chain.duo.until([&] { return chain.middle.outcomes.size() == 1 && chain.kept().size() == 4; }));
  int own = 0;
  for (const auto& call : chain.kept()) own += call->header().remaining <= Duration(2s) ? 1 : 0;
  CHECK(own == 1);
  CHECK(loop.context() == nullptr);
}

TEST_CASE("nested: a thread to which a waiting handler's loop is lent sees no call") {
  RealClock clock;
  Loop loop(clock);
  int mine = 0;
  std::atomic<bool> seen{false};
  void* theirs = &mine;
  std::thread other;
  {
    const Loop::Turn turn(loop);
    const Loop::Context within(loop, &mine);
    other = std::thread([&] {
      const Loop::Turn lent(loop);
      theirs = loop.context();
      seen = true;
    });
    const TimePoint begun = clock.now();
    CHECK(loop.wait_until([&] { return seen.load(); }, begun + Duration(30s)));
    CHECK(clock.now() - begun < Duration(15s));  // what another thread did with the turn is seen at once
    CHECK(loop.context() == &mine);
  }
  other.join();
  CHECK(theirs == nullptr);
}

TEST_CASE("nested: one-way calls are cut short by the deadline but not cancelled by their caller's death") {
  Chain<contract::Sim> chain;
  REQUIRE(chain.duo.a.endpoint
              ->send({chain.duo.ab, Side::kKeeper}, {fnv1a("x"), 0}, {.timeout = 3s},
                     [](OutMessage& out) { out.values(0); })
              .ok());
  REQUIRE(chain.duo.until([&] { return chain.kept(true).size() == 1; }));
  chain.duo.a.endpoint->close(chain.duo.ab, {Code::kUnavailable, "over"});
  REQUIRE(chain.duo.until([&] { return chain.duo.b.closed.size() == 1; }));
  CHECK_FALSE(chain.kept(true)[0]->cancelled());
  const CallContext context(*chain.kept(true)[0]);
  CHECK_FALSE(context.cancelled());
  int told = 0;
  context.on_cancel([&] { ++told; });
  REQUIRE(chain.duo.until([&] { return told == 1; }));
  CHECK(context.cancelled());
}

TEST_CASE("nested: thousands of calls made one after the other in one name leave nothing behind") {
  Chain<contract::Sim> chain;
  chain.begin("ask", 60s, 50'000);
  REQUIRE(chain.duo.until([&] { return chain.kept().size() == 1; }));
  auto scope = chain.middle.context->active()->scope;
  REQUIRE(scope);
  detail::ActiveCall active{nullptr, scope};
  const Loop::Turn turn(chain.duo.world.b);
  for (int i = 0; i < 5000; ++i) {
    Answer answer;
    {
      const Loop::Context within(chain.duo.world.b, &active);
      start_call(*chain.duo.b.endpoint, {kLocal, 7}, "none", 1s, answer);
    }
    CHECK(answer.count == 1);
  }
  CHECK(chain.duo.b.endpoint->open_calls() == 1);
}

}  // namespace troupe::rpc::testing
