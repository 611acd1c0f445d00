#include <atomic>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "endpoint_support.hpp"

namespace troupe::rpc::testing {

namespace {
/// A loop that another thread runs.
class RunningLoop {
 public:
  RunningLoop() : thread_([this] { loop.run(); }) {}
  ~RunningLoop() {
    loop.stop();
    thread_.join();
  }
  RunningLoop(const RunningLoop&) = delete;
  RunningLoop& operator=(const RunningLoop&) = delete;

 private:
  RealClock clock_;

 public:
  Loop loop{clock_};

 private:
  std::thread thread_;
};
}  // namespace

TEST_CASE("future: the value comes once, by get or then") {
  RealClock clock;
  Loop loop(clock);
  const Loop::Turn turn(loop);
  Promise<std::string> promise(loop);
  Future<std::string> future = promise.future();
  CHECK(future.valid());
  CHECK_FALSE(future.ready());
  promise.set(std::string("first"));
  promise.set(std::string("second"));
  CHECK(future.ready());
  CHECK(future.get().value() == "first");
  CHECK(future.get().error().code == Code::kFailedPrecondition);
  CHECK_FALSE(Future<int>().valid());
}

TEST_CASE("future: then runs at once or when the value comes") {
  RealClock clock;
  Loop loop(clock);
  const Loop::Turn turn(loop);
  Promise<int> early(loop), late(loop);
  int sum = 0;
  early.set(1);
  early.future().then([&](Result<int> value) { sum += value.value(); });
  CHECK(sum == 1);
  late.future().then([&](Result<int> value) { sum += value.value(); });
  CHECK(sum == 1);
  late.set(10);
  CHECK(sum == 11);
}

TEST_CASE("future: what a continuation throws is not for who gives the value") {
  RealClock clock;
  std::vector<std::string> told;
  Loop loop(clock, {.on_exception = [&](const std::string& what) { told.push_back(what); }});
  const Loop::Turn turn(loop);
  std::vector<Promise<int>> promises;
  promises.reserve(3);
  for (int i = 0; i < 3; ++i) promises.emplace_back(loop);
  int came = 0;
  for (Promise<int>& promise : promises)
    promise.future().then([&](Result<int> value) {
      came += value.value();
      if (came == 1) throw std::runtime_error("the first");
    });
  for (Promise<int>& promise : promises) CHECK_NOTHROW(promise.set(1));
  CHECK(came == 3);
  Promise<int> cancelled(loop);
  cancelled.on_cancel([] { throw std::runtime_error("told"); });
  CHECK_NOTHROW(cancelled.future().cancel());
  CHECK(told == std::vector<std::string>{"a continuation threw: the first",
                                         "who is told of a cancellation threw: told"});
}

TEST_CASE("future: a dropped promise cancels, a moved one does not") {
  RealClock clock;
  Loop loop(clock);
  const Loop::Turn turn(loop);
  Future<int> future;
  {
    Promise<int> promise(loop);
    future = promise.future();
    Promise<int> moved(std::move(promise));
    CHECK_FALSE(future.ready());
  }
  CHECK(future.get().error().code == Code::kCancelled);
}

TEST_CASE("future: a continuation may end its promise") {
  RealClock clock;
  Loop loop(clock);
  const Loop::Turn turn(loop);
  auto promise = std::make_unique<Promise<int>>(loop);
  int seen = 0;
  promise->future().then([&](Result<int> value) {
    promise.reset();
    seen = value.value();
  });
  promise->set(3);
  CHECK(seen == 3);
}

TEST_CASE("future: get ends soon after the deadline though nothing comes") {
  RealClock clock;
  Loop loop(clock);
  Future<int> future;
  std::optional<Promise<int>> promise;
  {
    const Loop::Turn turn(loop);
    promise.emplace(loop, TimePoint{clock.now().ns - 10'000'000'000});
    future = promise->future();
  }
  CHECK(future.get().error().code == Code::kDeadlineExceeded);
  const Loop::Turn turn(loop);
  promise.reset();
}

TEST_CASE("future: of several threads that wait one gets each value") {
  RunningLoop running;
  for (int round = 0; round < 50; ++round) {
    std::optional<Promise<int>> promise;
    Future<int> future;
    {
      const Loop::Turn turn(running.loop);
      promise.emplace(running.loop, running.loop.clock().now() + Duration(20s));
      future = promise->future();
    }
    std::atomic<int> got{0}, missed{0};
    std::vector<std::thread> threads;
    threads.reserve(4);
    for (int i = 0; i < 4; ++i)
      threads.emplace_back([&, copy = future]() mutable {
        const auto value = copy.get();
        ++(value.ok() ? got : missed);
        if (!value) CHECK(value.error().code == Code::kFailedPrecondition);
      });
    {
      const Loop::Turn turn(running.loop);
      promise->set(round);
      promise.reset();
    }
    for (auto& thread : threads) thread.join();
    CHECK(got == 1);
    CHECK(missed == 3);
  }
}

TEST_CASE("future: continuations set by other threads run on the loop") {
  RunningLoop running;
  std::atomic<int> sum{0}, astray{0};
  std::vector<std::thread> threads;
  threads.reserve(4);
  for (int i = 0; i < 4; ++i)
    threads.emplace_back([&] {
      for (int k = 0; k < 100; ++k) {
        std::optional<Promise<int>> promise;
        {
          const Loop::Turn turn(running.loop);
          promise.emplace(running.loop);
        }
        promise->future().then([&](Result<int> value) {
          if (!running.loop.in_turn()) ++astray;
          sum += value.value();
        });
        const Loop::Turn turn(running.loop);
        promise->set(1);
        promise.reset();
      }
    });
  for (auto& thread : threads) thread.join();
  running.loop.wait_until([&] { return sum == 400; }, running.loop.clock().now() + Duration(20s));
  CHECK(sum == 400);
  CHECK(astray == 0);
}

TEST_CASE("future: when_all gives all values in order, or the first error at once, and cancels the rest") {
  RealClock clock;
  Loop loop(clock);
  const Loop::Turn turn(loop);
  CHECK(when_all(loop, std::vector<Future<int>>{}).get().value().empty());
  Promise<int> a(loop), b(loop), c(loop);
  auto all = when_all(loop, std::vector{a.future(), b.future(), c.future()});
  c.set(3);
  a.set(1);
  CHECK_FALSE(all.ready());
  b.set(2);
  CHECK(all.get().value() == std::vector{1, 2, 3});
  CHECK(when_all(loop, std::vector<Future<void>>{}).get().ok());
  Promise<void> d(loop), e(loop), f(loop), g(loop);
  int told = 0;
  bool was_told_first = false;
  for (Promise<void>* other : {&d, &g}) other->on_cancel([&] { ++told; });
  auto failing = when_all(loop, std::vector{d.future(), e.future(), f.future(), g.future()});
  e.set({});
  CHECK_FALSE(failing.ready());
  auto seen = failing.then([&](const Result<void>& result) {
    was_told_first = told == 2;
    return Result<std::string>(result.error().message);
  });
  f.set(Error{Code::kAborted, "third"});
  CHECK(told == 2);
  CHECK(was_told_first);
  d.set({});  // too late
  CHECK(seen.get().value() == "third");
}

TEST_CASE("future: when_all of what has failed already, and of what is cancelled from outside") {
  RealClock clock;
  Loop loop(clock);
  const Loop::Turn turn(loop);
  Promise<int> a(loop), b(loop);
  int told = 0;
  b.on_cancel([&] { ++told; });
  a.set(Error{Code::kNotFound, "first"});
  CHECK(when_all(loop, std::vector{a.future(), b.future()}).get().error().message == "first");
  CHECK(told == 1);
  Promise<int> c(loop), d(loop);
  for (Promise<int>* each : {&c, &d}) each->on_cancel([&] { ++told; });
  auto both = when_all(loop, std::vector{c.future(), d.future()});
  both.cancel();
  CHECK(both.get().error().code == Code::kCancelled);
  CHECK(told == 3);
}

TEST_CASE("future: of a call whose loop ends before it began is cancelled") {
  Future<int> future;
  {
    RealClock clock;
    Loop loop(clock);
    Side side;
    {
      const Loop::Turn turn(loop);
      side.endpoint = std::make_unique<Endpoint>(
          loop, std::move(make_process_transport(loop, {"tcp", ""})).value(), options_of(1, "alice"), side);
    }
    std::atomic<int> stage{0};
    std::thread other([&] {  // holds the turn, so that the call is posted
      const Loop::Turn turn(loop);
      stage = 1;
      while (stage != 2) std::this_thread::yield();
      side.endpoint.reset();
    });
    while (stage != 1) std::this_thread::yield();
    future = call_async<int>(*side.endpoint, {kLocal, 1}, "add", "add", {.timeout = 100s}, 1, 2);
    CHECK_FALSE(future.ready());
    stage = 2;
    other.join();
  }
  CHECK(future.ready());
  CHECK(future.get().error().code == Code::kCancelled);
}

TEST_CASE("future: one that nobody keeps does not end its call") {
  Duo<contract::Shm> duo;
  duo.connect();
  int seen = 0;
  call_async<std::int64_t>(*duo.a.endpoint, {duo.ab, 1}, "add", "add", {}, 1, 2)
      .then([&](Result<std::int64_t> v) { seen = static_cast<int>(v.value()); });
  (void)call_async<std::int64_t>(*duo.a.endpoint, {duo.ab, 1}, "add", "add", {}, 1, 2);
  REQUIRE(duo.until([&] { return duo.a.endpoint->open_calls() == 0; }));
  CHECK(seen == 3);
}

TEST_CASE("future: calls from many threads, synchronous and not, all come back") {
  RunningLoop running;
  Side side;
  {
    const Loop::Turn turn(running.loop);
    side.endpoint = std::make_unique<Endpoint>(
        running.loop, std::move(make_process_transport(running.loop, {"tcp", ""})).value(),
        options_of(1, "alice"), side);
  }
  std::vector<std::thread> threads;
  threads.reserve(4);
  std::atomic<int> right{0};
  for (int t = 0; t < 3; ++t)
    threads.emplace_back([&, t] {
      for (int i = 0; i < 200; ++i) {
        auto later = call_async<std::int64_t>(*side.endpoint, {kLocal, 1}, "add", "add", {}, t, i);
        const auto now = call_sync<std::int64_t>(*side.endpoint, {kLocal, 1}, "add", "add", {}, t, i);
        right += now.ok() && *now == t + i;
        const auto then = later.get();
        right += then.ok() && *then == t + i;
        // Dropped: the call goes on without it.
        (void)call_async<std::string>(*side.endpoint, {kLocal, 1}, "echo", "echo", {}, "text");
      }
    });
  for (auto& thread : threads) thread.join();
  CHECK(right == 3 * 400);
  const Loop::Turn turn(running.loop);
  side.endpoint.reset();
}

}  // namespace troupe::rpc::testing
