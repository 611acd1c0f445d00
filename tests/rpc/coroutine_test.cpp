// Futures that are cancelled, chained, raced, and awaited in coroutines.
#include <stdexcept>

#include "endpoint_support.hpp"

namespace troupe::rpc::testing {

namespace {

/// Counts what is alive, to see that frames end.
struct Alive {
  explicit Alive(int& counted) : count(counted) { ++count; }
  ~Alive() { --count; }
  Alive(const Alive&) = delete;
  Alive& operator=(const Alive&) = delete;
  int& count;
};

Future<int> sum_of(Future<int> first, Future<int> second, int& alive) {
  const Alive here(alive);
  auto a = co_await std::move(first);
  if (!a) co_return a.error();
  const int b = (co_await std::move(second)).value();
  co_return *a + b;
}

Future<void> throws_after(Future<int> first) {
  (void)co_await std::move(first);
  throw std::runtime_error("oh");
}

Future<std::string> no_wait(std::string text) {
  co_return text + "!";
}

struct RealLoop {
  RealClock clock;
  Loop loop{clock};
};

/// The actor at b of the coroutine tests.
struct Weaver {
  Endpoint* endpoint = nullptr;
  SessionId back = 0;
  int alive = 0;
  std::vector<Code> seen;

  /// References to arguments hold across waits.
  Future<std::string> twice(const CallContext& context, const std::string& text, std::string_view more) {
    const Alive here(alive);
    auto first = co_await call_async<std::string>(*endpoint, {back, 5}, "echo", "echo", {}, text);
    auto second = co_await call_async<std::string>(*endpoint, {back, 5}, "echo", "echo", {}, more);
    if (!first || !second) co_return Error{Code::kInternal, "no echo"};
    if (context.cancelled()) co_return Error{Code::kInternal, "cancelled"};
    co_return *first + text + *second + std::string(more);
  }
  Future<void> wait_for_ever(const std::string& text) {
    const Alive here(alive);
    auto kept = co_await call_async<int>(*endpoint, {back, Side::kKeeper}, "keep", "keep", {});
    seen.push_back(kept ? Code::kOk : kept.error().code);
    auto again = co_await call_async<int>(*endpoint, {back, Side::kKeeper}, "keep", "keep", {});
    seen.push_back(again ? Code::kOk : again.error().code);
    if (text != "a text that is longer than a short string") seen.push_back(Code::kDataLoss);
  }
  Future<int> wait_for_promise() {
    const Alive here(alive);
    promises.emplace_back(endpoint->loop());
    auto value = co_await promises.back().future();
    seen.push_back(value ? Code::kOk : value.error().code);
    co_return value;
  }
  std::vector<Promise<int>> promises;

  static void methods(Methods<Weaver>& methods) {
    methods.add("twice", &Weaver::twice)
        .add("wait_for_ever", &Weaver::wait_for_ever)
        .add("wait_for_promise", &Weaver::wait_for_promise);
  }
};

template <class Kind>
struct Loom {
  Loom() {
    duo.connect();
    weaver->endpoint = duo.b.endpoint.get();
    weaver->back = duo.ba;
    Methods<Weaver> methods;
    Weaver::methods(methods);
    duo.b.handler = [weaver = weaver, table = methods.table()](InboundCallPtr call) {
      table->invoke(weaver, std::move(call));
    };
  }
  Duo<Kind> duo;
  std::shared_ptr<Weaver> weaver = std::make_shared<Weaver>();
};

}  // namespace

TEST_CASE("future: then of a continuation that returns something is the next future") {
  RealLoop real;
  const Loop::Turn turn(real.loop);
  Promise<int> promise(real.loop), inner(real.loop);
  auto text = promise.future()
                  .then([](Result<int> value) { return value.value() * 2; })
                  .then([](Result<int> value) -> Result<std::string> { return std::to_string(*value); })
                  .then([&](Result<std::string> value) {
                    return inner.future().then(
                        [first = *value](Result<int> second) { return first + std::to_string(*second); });
                  });
  promise.set(21);
  CHECK_FALSE(text.ready());
  inner.set(7);
  CHECK(text.get().value() == "427");

  Promise<int> failing(real.loop);
  auto thrown = failing.future().then([](Result<int> value) { return value.value(); });
  failing.set(Error{Code::kNotFound, "a row"});
  CHECK(thrown.get().error().code == Code::kNotFound);
}

TEST_CASE("future: cancelling ends it, tells the promise, and goes back along a chain") {
  RealLoop real;
  const Loop::Turn turn(real.loop);
  int told = 0;
  Promise<int> plain(real.loop), source(real.loop), inner(real.loop);
  plain.on_cancel([&] { ++told; });
  auto future = plain.future();
  future.cancel();
  CHECK(told == 1);
  plain.set(1);
  CHECK(future.get().error().code == Code::kCancelled);
  future.cancel();  // ready: nothing happens
  CHECK(told == 1);

  source.on_cancel([&] { ++told; });
  inner.on_cancel([&] { ++told; });
  Code seen = Code::kOk;
  auto chained = source.future().then([&](Result<int> value) {
    seen = value.error().code;
    return value;
  });
  chained.cancel();
  CHECK(told == 2);
  CHECK(seen == Code::kCancelled);
  CHECK(chained.get().error().code == Code::kCancelled);

  Promise<int> quick(real.loop);
  auto nested = quick.future().then([&](const Result<int>&) { return inner.future(); });
  quick.set(1);
  nested.cancel();
  CHECK(told == 3);
  CHECK(nested.get().error().code == Code::kCancelled);
}

TEST_CASE("future: when_any gives the first, and cancelling it cancels all") {
  RealLoop real;
  const Loop::Turn turn(real.loop);
  Promise<int> a(real.loop), b(real.loop), c(real.loop), d(real.loop);
  auto first = when_any(real.loop, std::vector{a.future(), b.future()});
  b.set(Error{Code::kAborted, "b"});
  a.set(1);
  auto any = first.get();
  CHECK(any->index == 1);
  CHECK(any->result.error().code == Code::kAborted);

  int told = 0;
  c.on_cancel([&] { ++told; });
  d.on_cancel([&] { ++told; });
  auto never = when_any(real.loop, std::vector{c.future(), d.future()});
  never.cancel();
  CHECK(told == 2);
  CHECK(never.get().error().code == Code::kCancelled);
}

TEST_CASE_TEMPLATE("future: cancelling that of a call tells the callee", Kind, TROUPE_ENDPOINT_TRANSPORTS) {
  Duo<Kind> duo;
  duo.connect();
  auto future = call_async<int>(*duo.a.endpoint, {duo.ab, Side::kKeeper}, "keep", "keeper.keep", {});
  REQUIRE(duo.until([&] { return duo.b.service.kept.size() == 1; }));
  future.cancel();
  REQUIRE(duo.until([&] { return duo.b.service.kept[0]->cancelled(); }));
  CHECK(future.get().error().code == Code::kCancelled);
  CHECK(duo.a.endpoint->open_calls() == 0);
}

TEST_CASE("coroutine: waits for futures in turn, and ends with a value or an error") {
  RealLoop real;
  const Loop::Turn turn(real.loop);
  int alive = 0;
  Promise<int> a(real.loop), b(real.loop), c(real.loop), d(real.loop), e(real.loop);
  auto sum = sum_of(a.future(), b.future(), alive);
  auto failing = sum_of(c.future(), d.future(), alive);
  auto thrown = sum_of(e.future(), d.future(), alive);
  CHECK(alive == 3);
  b.set(2);
  CHECK_FALSE(sum.ready());
  a.set(1);
  CHECK(sum.get().value() == 3);
  c.set(Error{Code::kNotFound, "c"});
  CHECK(failing.get().error().code == Code::kNotFound);
  e.set(1);
  d.set(Error{Code::kAborted, "d"});
  CHECK(thrown.get().error().code == Code::kAborted);  // of BadResult
  CHECK(alive == 0);
  Promise<int> f(real.loop);
  auto oh = throws_after(f.future());
  f.set(1);
  CHECK(oh.get().error().message == "the coroutine threw: oh");
}

TEST_CASE("coroutine: one that need not wait has its value at once, also for then") {
  CHECK(no_wait("a").get().value() == "a!");
  std::string seen;
  no_wait("b").then([&](Result<std::string> value) { seen = value.value(); });
  CHECK(seen == "b!");
  CHECK(no_wait("c").then([](Result<std::string> value) { return value->size(); }).get().value() == 2);
}

TEST_CASE("coroutine: cancelling its future cancels what it waits for") {
  RealLoop real;
  const Loop::Turn turn(real.loop);
  int alive = 0, told = 0;
  Promise<int> a(real.loop), b(real.loop);
  a.on_cancel([&] { ++told; });
  auto sum = sum_of(a.future(), b.future(), alive);
  sum.cancel();
  CHECK(told == 1);
  CHECK(alive == 0);
  CHECK(sum.get().error().code == Code::kCancelled);
}

TEST_CASE("coroutine: one whose loop ends before it goes on is ended, not leaked") {
  int alive = 0;
  Future<int> sum;
  {
    RealLoop real;
    std::optional<Promise<int>> a;
    const Loop::Turn turn(real.loop);
    a.emplace(real.loop);
    sum = sum_of(a->future(), a->future(), alive);
    CHECK(alive == 1);
    a.reset();
  }
  CHECK(alive == 0);
  CHECK(sum.get().error().code == Code::kCancelled);
}

TEST_CASE_TEMPLATE("coroutine: a handler may be one; its arguments live until it has answered", Kind,
                   TROUPE_ENDPOINT_TRANSPORTS) {
  Loom<Kind> loom;
  const std::string text(100, 'x');
  CHECK(loom.duo.template call<std::string>("twice", text, std::string_view("yy")).value() ==
        text + text + "yyyy");
  CHECK(loom.weaver->alive == 0);
}

TEST_CASE_TEMPLATE("coroutine: a handler whose call is cancelled gets kCancelled from all it waits for", Kind,
                   TROUPE_ENDPOINT_TRANSPORTS) {
  Loom<Kind> loom;
  auto future = call_async<void>(*loom.duo.a.endpoint, {loom.duo.ab, 5}, "wait_for_ever", "w", {},
                                 "a text that is longer than a short string");
  auto promise = call_async<int>(*loom.duo.a.endpoint, {loom.duo.ab, 5}, "wait_for_promise", "p", {});
  REQUIRE(loom.duo.until(
      [&] { return loom.duo.a.service.kept.size() == 1 && loom.weaver->promises.size() == 1; }));
  CHECK(loom.weaver->alive == 2);
  future.cancel();
  REQUIRE(loom.duo.until([&] { return loom.weaver->alive == 1; }));
  CHECK(loom.weaver->seen == std::vector<Code>{Code::kCancelled, Code::kCancelled});
  promise.cancel();
  REQUIRE(loom.duo.until([&] { return loom.weaver->alive == 0; }));
  CHECK(loom.weaver->seen.back() == Code::kCancelled);
  CHECK(loom.duo.a.service.kept.size() == 1);
}

TEST_CASE_TEMPLATE("coroutine: handlers that wait when their endpoint ends are ended", Kind,
                   TROUPE_ENDPOINT_TRANSPORTS) {
  std::shared_ptr<Weaver> weaver;
  {
    Loom<Kind> loom;
    weaver = loom.weaver;
    auto future = call_async<void>(*loom.duo.a.endpoint, {loom.duo.ab, 5}, "wait_for_ever", "w", {}, "x");
    REQUIRE(loom.duo.until([&] { return loom.duo.a.service.kept.size() == 1; }));
    CHECK(weaver->alive == 1);
  }
  CHECK(weaver->alive == 0);
}

}  // namespace troupe::rpc::testing
