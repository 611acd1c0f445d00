// What handlers throw ends at the loop, whoever drives it, and the turn is free afterwards.
#include <troupe/runtime/loop.hpp>

#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <atomic>
#include <functional>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include <doctest/doctest.h>

using namespace troupe;
using namespace std::chrono_literals;

namespace {

/// A loop whose exceptions are kept; with `with_home` a thread is in run().
struct ToldLoop {
  explicit ToldLoop(bool with_home) {
    if (with_home) home = std::thread([this] { loop.run(); });
  }
  ~ToldLoop() {
    if (!home.joinable()) return;
    loop.stop();
    home.join();
  }
  TimePoint soon() const { return clock.now() + 10s; }
  /// Whether another thread can have the turn, and wait for its own work.
  bool is_free() {
    bool ran = false;
    std::thread other([&] {
      const Loop::Turn turn(loop);
      ran = loop.wait_until([] { return true; }, soon());
    });
    other.join();
    return ran;
  }

  RealClock clock;
  std::vector<std::string> told;  // with the turn only
  Loop loop{clock, {.on_exception = [this](const std::string& what) { told.push_back(what); }}};
  std::thread home;
};

struct ThrowingSource final : Source {
  int left = 1;
  bool in_arm = false;
  int poll() override {
    if (in_arm || left == 0) return 0;
    --left;
    throw std::runtime_error("no poll");
  }
  bool arm() override {
    if (in_arm && left > 0) {
      --left;
      throw std::runtime_error("no arm");
    }
    return true;
  }
};

struct ThrowingHandler final : FdHandler {
  explicit ThrowingHandler(Loop& owner) : loop(owner) {
    const std::uint64_t one = 1;
    REQUIRE(write(fd, &one, sizeof one) == sizeof one);
  }
  ~ThrowingHandler() override { close(fd); }
  void on_ready(std::uint32_t) override {
    loop.unwatch(fd);
    throw std::runtime_error("no descriptor");
  }
  Loop& loop;
  int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
};

/// What can throw, set up with the turn; kept until the loop has told of it.
struct Thrower {
  std::string what;
  std::function<void(ToldLoop&)> set_up;
};

}  // namespace

TEST_CASE("what a task, timer, source or descriptor throws ends there, whoever drives") {
  for (const bool with_home : {false, true}) {
    for (const std::string kind : {"task", "deferred", "timer", "source", "arm", "descriptor"}) {
      CAPTURE(with_home);
      CAPTURE(kind);
      ToldLoop told(with_home);
      Loop& loop = told.loop;
      Timer timer([] { throw std::runtime_error("no timer"); });
      ThrowingSource source;
      source.in_arm = kind == "arm";
      ThrowingHandler handler(loop);
      {
        const Loop::Turn turn(loop);
        if (kind == "timer") loop.schedule(timer, loop.now());
        if (kind == "source" || kind == "arm") loop.add_source(source);
        if (kind == "descriptor") REQUIRE(loop.watch(handler.fd, EPOLLIN, handler));
        if (kind == "deferred") loop.defer([] { throw 7; });
      }
      if (kind == "task") loop.post([] { throw std::runtime_error("no task"); });
      // This thread helps, and has nothing to do with it.
      CHECK(loop.wait_until([&] { return !told.told.empty(); }, told.soon()));
      CHECK_FALSE(loop.in_turn());
      CHECK(told.is_free());
      const Loop::Turn turn(loop);
      REQUIRE(told.told.size() == 1);
      const std::string text = kind == "deferred" ? "something that is no std::exception"
                               : kind == "source" ? "no poll"
                                                  : "no " + kind;
      CHECK(told.told[0].find(text) != std::string::npos);
      CHECK(loop.stats().exceptions == 1);
      if (source.left == 0) loop.remove_source(source);
    }
  }
}

TEST_CASE("timers behind one that throws still fire") {
  ToldLoop told(false);
  int fired = 0;
  Timer first([] { throw std::runtime_error("first"); });
  Timer second([&] { ++fired; });
  {
    const Loop::Turn turn(told.loop);
    told.loop.schedule(first, told.loop.now());
    told.loop.schedule(second, told.loop.now());
  }
  CHECK(told.loop.wait_until([&] { return fired == 1; }, told.soon()));
}

TEST_CASE("what the caller's own functions throw is the caller's, and the turn is free") {
  for (const bool with_home : {false, true}) {
    CAPTURE(with_home);
    ToldLoop told(with_home);
    Loop& loop = told.loop;
    const auto fail = [] { throw std::invalid_argument("mine"); };
    const auto never = [] { return false; };
    CHECK_THROWS_AS(loop.begin_and_wait(fail, never, 10s), std::invalid_argument);
    CHECK_FALSE(loop.in_turn());
    CHECK_THROWS_AS(loop.wait_until([&]() -> bool { throw std::invalid_argument("mine"); }, told.soon()),
                    std::invalid_argument);
    CHECK_FALSE(loop.in_turn());
    const Loop::Turn turn(loop);
    CHECK_THROWS_AS((void)loop.run_if_free(fail), std::invalid_argument);
    CHECK(loop.in_turn());
    CHECK_THROWS_AS(loop.wait_until([&]() -> bool { throw std::invalid_argument("mine"); }, told.soon()),
                    std::invalid_argument);
    CHECK(loop.in_turn());
    CHECK(told.told.empty());
  }
  ToldLoop told(false);
  CHECK_THROWS_AS((void)told.loop.run_if_free([] { throw std::invalid_argument("mine"); }),
                  std::invalid_argument);
  CHECK_FALSE(told.loop.in_turn());
  told.loop.run_or_post([] { throw std::runtime_error("as if posted"); });
  CHECK_FALSE(told.loop.in_turn());
  CHECK(told.is_free());
  CHECK(told.told.size() == 1);
}

TEST_CASE("what is waited for throws where it is waited for, also when another thread asks") {
  ToldLoop told(false);
  Loop& loop = told.loop;
  std::atomic<bool> waits{false}, thrown{false};
  std::atomic<std::thread::id> asked_by{};
  std::thread waiter;
  // This thread drives; the other one's `done` throws when it is asked from here.
  const std::thread::id self = std::this_thread::get_id();
  bool begun = false;
  const bool finished = loop.wait_until(
      [&] {
        if (!begun) {
          begun = true;
          waiter = std::thread([&] {
            try {
              (void)loop.wait_until(
                  [&]() -> bool {
                    waits = true;
                    if (std::this_thread::get_id() != self) return false;
                    asked_by = self;
                    throw std::runtime_error("asked");
                  },
                  told.soon());
            } catch (const std::runtime_error&) {
              thrown = true;
            }
          });
        }
        return thrown.load();
      },
      told.soon());
  waiter.join();
  CHECK(finished);
  CHECK(asked_by.load() == self);
  CHECK(told.is_free());
}

TEST_CASE("of a handler that throws without end some are told of, and others are served") {
  ToldLoop told(true);
  Loop& loop = told.loop;
  struct Always final : Source {
    int poll() override { throw std::runtime_error("always"); }
  } source;
  {
    const Loop::Turn turn(loop);
    loop.add_source(source);
  }
  for (int i = 0; i < 100; ++i) {
    bool ran = false;
    loop.post([&] { ran = true; });
    REQUIRE(loop.wait_until([&] { return ran; }, told.soon()));
  }
  const Loop::Turn turn(loop);
  loop.remove_source(source);
  CHECK(loop.stats().exceptions >= 100);
  CHECK(told.told.size() < 50);
}
