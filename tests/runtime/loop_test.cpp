// One thread, or one thread and run(): what a loop does. Threads against each other: loop_stress_test.cpp.
#include <troupe/runtime/loop.hpp>

#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <atomic>
#include <functional>
#include <memory>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include <doctest/doctest.h>

using namespace troupe;
using namespace std::chrono_literals;

namespace {

/// A loop in virtual time whose idling advances the clock.
struct SimLoop {
  SimClock clock;
  int idles = 0;
  Loop loop{clock, {.idle = [this](TimePoint until) {
              ++idles;
              clock.advance_to(until);
            }}};
};

/// A loop on real time with a thread in run().
struct RunningLoop {
  explicit RunningLoop(LoopOptions options = {})
      : loop(clock, std::move(options)), thread([this] { loop.run(); }) {}
  ~RunningLoop() {
    loop.stop();
    thread.join();
  }
  TimePoint in(Duration d) const { return clock.now() + d; }

  RealClock clock;
  Loop loop;
  std::thread thread;
};

struct EventFd {
  int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  ~EventFd() { close(fd); }
  void raise() const {
    const std::uint64_t one = 1;
    REQUIRE(write(fd, &one, sizeof one) == sizeof one);
  }
  void lower() const { REQUIRE(lower_if_raised()); }
  bool lower_if_raised() const {
    std::uint64_t value = 0;
    return read(fd, &value, sizeof value) == sizeof value;
  }
};

struct Handler final : FdHandler {
  explicit Handler(std::function<void(std::uint32_t)> f) : function(std::move(f)) {}
  void on_ready(std::uint32_t events) override { function(events); }
  std::function<void(std::uint32_t)> function;
};

struct PollSource final : Source {
  explicit PollSource(std::function<int()> f) : function(std::move(f)) {}
  int poll() override { return function(); }
  std::function<int()> function;
};

/// A source with an event descriptor: what a transport looks like to the loop.
struct QueueSource final : Source {
  int poll() override {
    const int got = waiting.exchange(0);
    // Who has added one may not have raised the event yet.
    if (armed && events.lower_if_raised()) armed = false;
    received += got;
    return got;
  }
  int event_fd() const override { return events.fd; }
  bool arm() override {
    armed = true;
    return waiting.load() == 0;
  }
  void send() {
    waiting.fetch_add(1);
    events.raise();
  }
  EventFd events;
  std::atomic<int> waiting{0};
  std::atomic<int> received{0};
  bool armed = true;
};

}  // namespace

TEST_CASE("tasks posted and deferred run in order, deferred ones after what is ready") {
  SimLoop sim;
  std::vector<int> order;
  sim.loop.post([&] {
    order.push_back(1);
    sim.loop.defer([&] { order.push_back(3); });
  });
  sim.loop.post([&] { order.push_back(2); });
  CHECK(sim.loop.wait_until([&] { return order.size() == 3; }, TimePoint{100}));
  CHECK(order == std::vector<int>{1, 2, 3});
}

TEST_CASE("a recent time is never far behind the clock, and in virtual time never behind it at all") {
  RealClock real;
  Loop loop(real);
  const Loop::Turn turn(loop);
  Duration furthest{0};
  for (int i = 0; i < 100'000; ++i) {
    const TimePoint before = real.now();
    furthest = std::max(furthest, before - loop.recent_now());
  }
  CHECK(furthest <= 20us);  // the processor's counter makes at least one step in 5 ns
  const TimePoint later = real.now() + 1ms;
  while (real.now() < later) continue;
  CHECK(loop.recent_now() >= later);

  SimLoop sim;
  const Loop::Turn sim_turn(sim.loop);
  for (std::int64_t ns = 1; ns < 100; ++ns) {
    sim.clock.advance_to(TimePoint{ns});
    CHECK(sim.loop.recent_now() == TimePoint{ns});
  }
}

TEST_CASE("a task that defers itself does not starve timers and sources") {
  SimLoop sim;
  int tasks = 0;
  int polls = 0;
  PollSource source([&] { return ++polls, 0; });
  std::function<void()> again = [&] {
    ++tasks;
    sim.loop.defer([&] { again(); });
  };
  const Loop::Turn turn(sim.loop);
  sim.loop.add_source(source);
  sim.loop.defer([&] { again(); });
  for (int i = 0; i < 5; ++i) sim.loop.poll();
  CHECK(tasks == 5);
  CHECK(polls == 5);
}

TEST_CASE("in virtual time idling goes straight to the next timer and to the deadline") {
  SimLoop sim;
  bool fired = false;
  Timer timer([&] { fired = true; });
  {
    const Loop::Turn turn(sim.loop);
    sim.loop.schedule_after(timer, 1h);
  }
  CHECK(sim.loop.wait_until([&] { return fired; }, TimePoint{0} + 2h));
  CHECK(sim.clock.now() == TimePoint{0} + 1h);
  CHECK_FALSE(sim.loop.wait_until([] { return false; }, TimePoint{0} + 2h));
  CHECK(sim.clock.now() == TimePoint{0} + 2h);
  CHECK(sim.idles <= 4);
  CHECK(sim.loop.stats().sleeps == 0);
}

TEST_CASE("run() in virtual time goes on until stop()") {
  SimLoop sim;
  int fired = 0;
  Timer timer;
  timer.set([&] {
    if (++fired == 100) return sim.loop.stop();
    sim.loop.schedule(timer, timer.due() + 1ms);
  });
  {
    const Loop::Turn turn(sim.loop);
    sim.loop.schedule_after(timer, 1ms);
  }
  sim.loop.run();
  CHECK(fired == 100);
  CHECK(sim.clock.now() == TimePoint{0} + 100ms);
}

TEST_CASE("a wait inside a task drives the loop from inside") {
  SimLoop sim;
  bool inner = false;
  bool outer = false;
  sim.loop.post([&] {
    sim.loop.post([&] { inner = true; });
    CHECK(sim.loop.wait_until([&] { return inner; }, TimePoint{1000}));
    CHECK(sim.loop.in_turn());
    outer = true;
  });
  CHECK(sim.loop.wait_until([&] { return outer; }, TimePoint{1000}));
  CHECK_FALSE(sim.loop.in_turn());
}

TEST_CASE("waits nest inside a source, timer and descriptor handler, many levels deep") {
  SimLoop sim;
  int depth = 0;
  int done = 0;
  std::function<int()> body = [&] {
    if (depth >= 20) return 0;
    const int target = ++depth;
    CHECK(sim.loop.wait_until([&] { return depth > target || target == 20; }, sim.clock.now() + 1ms));
    ++done;
    return 1;
  };
  PollSource source(body);
  {
    const Loop::Turn turn(sim.loop);
    sim.loop.add_source(source);
  }
  CHECK(sim.loop.wait_until([&] { return done == 20; }, TimePoint{0} + 1s));
  const Loop::Turn turn(sim.loop);
  sim.loop.remove_source(source);
}

TEST_CASE("sources may be removed and destroyed, and added, while they are polled") {
  SimLoop sim;
  int polls = 0;
  std::vector<std::unique_ptr<PollSource>> sources;
  sources.reserve(4);
  const Loop::Turn turn(sim.loop);
  for (int i = 0; i < 4; ++i) sources.push_back(std::make_unique<PollSource>([&] { return ++polls, 0; }));
  PollSource killer([&] {
    if (!sources[1]) return 0;
    sim.loop.remove_source(*sources[1]);
    sources[1].reset();
    sim.loop.remove_source(*sources[2]);
    sources[2].reset();
    sim.loop.add_source(*sources[3]);
    sim.loop.remove_source(killer);
    return 1;
  });
  sim.loop.add_source(*sources[0]);
  sim.loop.add_source(killer);
  sim.loop.add_source(*sources[1]);
  sim.loop.add_source(*sources[2]);
  sim.loop.poll();
  CHECK(polls == 2);  // the first and the one that was added
  sim.loop.poll();
  CHECK(polls == 4);
}

TEST_CASE("a watched descriptor tells its handler until it is unwatched") {
  RealClock clock;
  Loop loop(clock);
  const EventFd events;
  int told = 0;
  Handler handler([&](std::uint32_t what) {
    CHECK((what & EPOLLIN) != 0);
    events.lower();
    ++told;
  });
  {
    const Loop::Turn turn(loop);
    REQUIRE(loop.watch(events.fd, EPOLLIN, handler).ok());
  }
  for (int i = 1; i <= 3; ++i) {
    events.raise();
    CHECK(loop.wait_until([&] { return told == i; }, clock.now() + 10s));
  }
  const Loop::Turn turn(loop);
  REQUIRE(loop.watch(events.fd, EPOLLOUT, handler).ok());  // again: changes the events
  loop.unwatch(events.fd);
  events.raise();
  CHECK_FALSE(loop.wait_until([&] { return told > 3; }, clock.now() + 5ms));
  CHECK_FALSE(loop.watch(-1, EPOLLIN, handler).ok());
}

TEST_CASE("a handler may unwatch and destroy itself and others of the same batch") {
  RealClock clock;
  Loop loop(clock);
  std::vector<std::unique_ptr<EventFd>> events;
  std::vector<std::unique_ptr<Handler>> handlers(3);
  int told = 0;
  const Loop::Turn turn(loop);
  for (std::size_t i = 0; i < 3; ++i) {
    events.push_back(std::make_unique<EventFd>());
    handlers[i] = std::make_unique<Handler>([&](std::uint32_t) {
      ++told;
      for (std::size_t k = 0; k < 3; ++k) {
        loop.unwatch(events[k]->fd);
        events[k].reset();
      }
      // The numbers are used again, by descriptors that are not ready.
      for (std::size_t k = 0; k < 3; ++k) events[k] = std::make_unique<EventFd>();
      const auto keep = std::exchange(handlers, std::vector<std::unique_ptr<Handler>>(3));
      Handler* fresh = nullptr;
      handlers[0] = std::make_unique<Handler>([&](std::uint32_t) { told += 100; });
      fresh = handlers[0].get();
      for (std::size_t k = 0; k < 3; ++k) CHECK(loop.watch(events[k]->fd, EPOLLIN, *fresh).ok());
    });
    REQUIRE(loop.watch(events[i]->fd, EPOLLIN, *handlers[i]).ok());
    events[i]->raise();
  }
  CHECK_FALSE(loop.wait_until([&] { return told > 1; }, clock.now() + 5ms));
  CHECK(told == 1);
}

TEST_CASE("wait_until ends at its deadline, with and without run()") {
  const auto check = [](Loop& loop, const Clock& clock) {
    const TimePoint start = clock.now();
    CHECK_FALSE(loop.wait_until([] { return false; }, start + 20ms));
    CHECK(clock.now() - start >= 20ms);
    CHECK(clock.now() - start < 5s);
    CHECK_FALSE(loop.wait_until([] { return false; }, start));  // passed already: one round
    // Not at once: run() may have the turn, and who does not get it in time is not asked.
    CHECK(loop.wait_until([] { return true; }, clock.now() + 5s));
  };
  RealClock clock;
  Loop alone(clock);
  check(alone, clock);
  RunningLoop running;
  check(running.loop, running.clock);
}

TEST_CASE("a timer fires in time while a thread waits in epoll") {
  RealClock clock;
  Loop loop(clock);
  TimePoint fired{};
  Timer timer([&] { fired = clock.now(); });
  const TimePoint due = clock.now() + 100ms;
  {
    const Loop::Turn turn(loop);
    loop.schedule(timer, due);
  }
  CHECK(loop.wait_until([&] { return fired.ns > 0; }, clock.now() + 10s));
  CHECK(fired >= due);
  const Loop::Turn turn(loop);
  CHECK(loop.stats().sleeps > 0);
}

TEST_CASE("a source's event descriptor wakes run()'s thread, and a waiting one, from their sleep") {
  QueueSource source;
  RunningLoop running({.spin = 1us});
  {
    const Loop::Turn turn(running.loop);
    running.loop.add_source(source);
  }
  for (int i = 1; i <= 100; ++i) {
    source.send();
    const TimePoint end = running.in(10s);
    while (source.received < i && running.clock.now() < end)
      std::this_thread::yield();  // run()'s thread does it
    REQUIRE(source.received == i);
  }
  std::thread sender([&] {
    for (int i = 0; i < 100; ++i) source.send();
  });
  CHECK(running.loop.wait_until([&] { return source.received == 200; }, running.in(10s)));
  sender.join();
  const Loop::Turn turn(running.loop);
  running.loop.remove_source(source);
}

TEST_CASE("run_or_post runs at once with the turn or where it is free, and posts otherwise") {
  RealClock clock;
  Loop loop(clock);
  std::vector<int> order;
  loop.post([&] { order.push_back(1); });
  loop.run_or_post([&] {
    CHECK(loop.in_turn());
    order.push_back(2);
    loop.run_or_post([&] { order.push_back(3); });
    order.push_back(4);
    loop.defer([&] { order.push_back(5); });
  });
  CHECK(order == std::vector<int>{1, 2, 3, 4, 5});
  CHECK_FALSE(loop.in_turn());
  {
    const Loop::Turn turn(loop);
    std::thread([&] { loop.run_or_post([&] { order.push_back(6); }); }).join();
    CHECK(order.size() == 5);
  }
  CHECK(loop.wait_until([&] { return order.size() == 6; }, clock.now() + 10s));
}

TEST_CASE("stop() before, inside and after run() is safe, and a loop runs again") {
  RealClock clock;
  Loop loop(clock);
  bool ran = false;
  loop.post([&] { ran = true; });
  loop.stop();
  loop.run();  // returns, after one round
  CHECK(ran);
  loop.post([&] { loop.stop(); });
  loop.run();
  std::thread runner([&] { loop.run(); });
  loop.stop();
  runner.join();
  CHECK_FALSE(loop.in_turn());
}

TEST_CASE("what was posted before stop() still runs") {
  for (int i = 0; i < 200; ++i) {
    RealClock clock;
    Loop loop(clock);
    std::thread runner([&] { loop.run(); });
    std::atomic<bool> ran{false};
    loop.post([&] { ran = true; });
    loop.stop();
    runner.join();
    REQUIRE(ran);
  }
}

TEST_CASE("tasks left over are destroyed with the loop, and may post from their destructors") {
  struct Poster {
    Poster(Loop& l, int& d) : loop(&l), destroyed(&d) {}
    Poster(Poster&& other) noexcept : loop(std::exchange(other.loop, nullptr)), destroyed(other.destroyed) {}
    Poster& operator=(Poster&&) = delete;
    ~Poster() {
      if (!loop) return;
      ++*destroyed;
      loop->post([] {});
      loop->run_or_post([d = destroyed] { ++*d; });
    }
    Loop* loop;
    int* destroyed;
  };
  RealClock clock;
  int destroyed = 0;
  {
    std::optional<Loop> loop(std::in_place, clock);
    loop->post([poster = Poster(*loop, destroyed)] { FAIL("must not run"); });
    const Loop::Turn turn(*loop);
    loop->defer([poster = Poster(*loop, destroyed)] { FAIL("must not run"); });
  }
  CHECK(destroyed == 4);
}

TEST_CASE("a turn nests and is exclusive") {
  RunningLoop running;
  int plain = 0;  // guarded by the turn
  std::vector<std::thread> threads;
  threads.reserve(3);
  for (int t = 0; t < 3; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 500; ++i) {
        const Loop::Turn outer(running.loop);
        const Loop::Turn inner(running.loop);
        ++plain;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  const Loop::Turn turn(running.loop);
  CHECK(plain == 1500);
}

TEST_CASE("an idle loop sleeps instead of polling") {
  RunningLoop running;
  Loop::Stats before;
  {
    const Loop::Turn turn(running.loop);
    before = running.loop.stats();
  }
  // The other thread of a second loop gives a wait of 100 ms that leaves this loop alone.
  RealClock clock;
  Loop other(clock);
  other.wait_until([] { return false; }, clock.now() + 100ms);
  const Loop::Turn turn(running.loop);
  CHECK(running.loop.stats().sleeps <= before.sleeps + 10);
  CHECK(running.loop.stats().rounds < before.rounds + 20'000);
}

TEST_CASE("a thread that was given the turn sleeps while it waits, as one that took it does") {
  RealClock clock;
  Loop loop(clock), other(clock);
  std::optional<Loop::Turn> turn(std::in_place, loop);
  std::thread waiting([&] { CHECK_FALSE(loop.wait_until([] { return false; }, clock.now() + 300ms)); });
  other.wait_until([] { return false; }, clock.now() + 50ms);  // it waits for the turn now
  turn.reset();
  waiting.join();
  CHECK(loop.stats().sleeps > 0);
  CHECK(loop.stats().rounds < 20'000);  // polling all the time it makes millions
}
