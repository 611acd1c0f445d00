// Threads against each other: no wake-up is lost, nobody starves, everything ends.
#include <atomic>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

#include <doctest/doctest.h>
#include <troupe/runtime/loop.hpp>
#include <troupe/runtime/random.hpp>

using namespace troupe;
using namespace std::chrono_literals;

namespace {

#ifdef TROUPE_SANITIZER
constexpr int kScale = 1;
#else
constexpr int kScale = 5;
#endif
constexpr Duration kPatience = 30s;  // past it something hangs

struct RunningLoop {
  explicit RunningLoop(LoopOptions options = {})
      : loop(clock, std::move(options)), thread([this] { loop.run(); }) {}
  ~RunningLoop() {
    loop.stop();
    thread.join();
  }
  TimePoint patience() const { return clock.now() + kPatience; }

  RealClock clock;
  Loop loop;
  std::thread thread;
};

/// Waits as a thread does that knows nothing of loops.
class Gate {
 public:
  void open() {
    const std::lock_guard lock(mutex_);
    open_ = true;
    opened_.notify_all();
  }
  bool wait() {
    std::unique_lock lock(mutex_);
    return opened_.wait_for(lock, kPatience, [this] { return open_; });
  }

 private:
  std::mutex mutex_;
  std::condition_variable opened_;
  bool open_ = false;
};

void in_threads(int count, const std::function<void(int)>& body) {
  std::vector<std::thread> threads;
  threads.reserve(static_cast<std::size_t>(count));
  for (int t = 0; t < count; ++t) threads.emplace_back([&body, t] { body(t); });
  for (std::thread& thread : threads) thread.join();
}

const LoopOptions kEager{.spin = Duration(0), .yield_after = Duration(0)};  // sleeps whenever it can

/// A source whose answers come one round later, like a fast peer's.
struct EchoSource final : Source {
  int poll() override {
    const int answers = std::exchange(asked, 0);
    answered += answers;
    return answers;
  }
  bool arm() override { return asked == 0; }
  int asked = 0;  // with the turn only
  int answered = 0;
};

}  // namespace

TEST_CASE("a storm of posts from many threads runs every task once, each thread's in order") {
  for (const LoopOptions& options : {LoopOptions{}, kEager}) {
    RunningLoop running(options);
    constexpr int kThreads = 4;
    const int posts = 4000 * kScale;
    std::vector<int> last(kThreads, -1);  // with the turn only
    std::atomic<int> ran{0};
    std::atomic<int> out_of_order{0};
    in_threads(kThreads, [&](int t) {
      for (int i = 0; i < posts; ++i) {
        running.loop.post([&, t, i] {
          if (last[static_cast<std::size_t>(t)] != i - 1) ++out_of_order;
          last[static_cast<std::size_t>(t)] = i;
          ++ran;
        });
      }
    });
    CHECK(running.loop.wait_until([&] { return ran == kThreads * posts; }, running.patience()));
    CHECK(out_of_order == 0);
  }
}

TEST_CASE("a single post always wakes a loop that is about to sleep") {
  for (const LoopOptions& options : {kEager, LoopOptions{.spin = 5us, .yield_after = 2us}}) {
    RunningLoop running(options);
    for (int i = 0; i < 2000 * kScale; ++i) {
      Gate gate;
      running.loop.post([&] { gate.open(); });
      REQUIRE(gate.wait());
    }
  }
}

TEST_CASE("a post wakes a thread that sleeps in wait_until, with and without run()") {
  const auto check = [](Loop& loop, const Clock& clock) {
    for (int i = 0; i < 1000 * kScale; ++i) {
      bool ran = false;
      std::thread poster;
      if (i % 100 == 0) {
        poster = std::thread([&] { loop.post([&] { ran = true; }); });
      } else {
        loop.post([&] { ran = true; });
      }
      REQUIRE(loop.wait_until([&] { return ran; }, clock.now() + kPatience));
      if (poster.joinable()) poster.join();
    }
  };
  RealClock clock;
  Loop alone(clock, kEager);
  check(alone, clock);
  RunningLoop running(kEager);
  check(running.loop, running.clock);
}

TEST_CASE("a post after waits runs though run()'s thread had stood aside") {
  RunningLoop running;
  for (int i = 0; i < 300 * kScale; ++i) {
    running.loop.wait_until([] { return true; }, running.patience());
    Gate gate;
    running.loop.post([&] { gate.open(); });
    REQUIRE(gate.wait());
  }
}

TEST_CASE("timers go on after a helper left, though it consumed what would have woken run()'s thread") {
  RunningLoop running(kEager);
  std::atomic<int> fired{0};
  Timer timer;
  timer.set([&] {
    ++fired;
    running.loop.schedule_after(timer, 100us);
  });
  {
    const Loop::Turn turn(running.loop);
    running.loop.schedule_after(timer, 100us);
  }
  for (int i = 0; i < 50; ++i) {
    const int before = fired;
    REQUIRE(running.loop.wait_until([&] { return fired > before; }, running.patience()));
  }
  const int before = fired;
  const TimePoint end = running.patience();
  while (fired < before + 20 && running.clock.now() < end) std::this_thread::yield();
  CHECK(fired >= before + 20);
  const Loop::Turn turn(running.loop);
  running.loop.cancel(timer);
}

TEST_CASE("several threads that wait at once are all answered, with and without run()") {
  const auto check = [](Loop& loop, const Clock& clock, int threads) {
    in_threads(threads, [&](int) {
      for (int i = 0; i < 500 * kScale; ++i) {
        bool ran = false;  // with the turn only
        loop.run_or_post([&] { loop.defer([&] { ran = true; }); });
        REQUIRE(loop.wait_until([&] { return ran; }, clock.now() + kPatience));
      }
    });
  };
  for (const LoopOptions& options : {LoopOptions{}, kEager}) {
    RealClock clock;
    Loop alone(clock, options);
    check(alone, clock, 3);
    RunningLoop running(options);
    check(running.loop, running.clock, 1);
    check(running.loop, running.clock, 3);
  }
}

TEST_CASE("a short wait ends at its deadline while another thread waits long") {
  for (const LoopOptions& options : {LoopOptions{}, kEager}) {
    RunningLoop running(options);
    std::atomic<bool> stop{false};
    std::thread waiter([&] { running.loop.wait_until([&] { return stop.load(); }, running.patience()); });
    for (int i = 0; i < 20; ++i) {
      const TimePoint start = running.clock.now();
      CHECK_FALSE(running.loop.wait_until([] { return false; }, start + 1ms));
      CHECK(running.clock.now() - start >= 1ms);
      CHECK(running.clock.now() - start < 5s);
      CHECK(running.loop.wait_until([] { return true; }, start + kPatience));
    }
    running.loop.post([&] { stop = true; });
    waiter.join();
  }
}

TEST_CASE("waits, posts, turns and nested waits of many threads at once all end") {
  constexpr std::uint64_t kSeed = 77;
  CAPTURE(kSeed);
  for (const LoopOptions& options : {LoopOptions{}, kEager}) {
    RunningLoop running(options);
    Loop& loop = running.loop;
    EchoSource echo;
    {
      const Loop::Turn turn(loop);
      loop.add_source(echo);
    }
    std::atomic<int> failures{0};
    in_threads(4, [&](int t) {
      Random random(kSeed + static_cast<std::uint64_t>(t));
      for (int i = 0; i < 200 * kScale; ++i) {
        int target = 0;
        bool inside = false;
        switch (random.below(4)) {
          case 0: {
            const Loop::Turn turn(loop);
            ++echo.asked;
            break;
          }
          case 1:
            loop.run_or_post([&, e = &echo] { target = e->answered + ++e->asked; });
            if (!loop.wait_until([&] { return target > 0 && echo.answered >= target; }, running.patience()))
              ++failures;
            break;
          case 2:
            // A handler that waits itself, while others wait too.
            loop.post([&] {
              const int wanted = echo.answered + ++echo.asked;
              if (!loop.wait_until([&] { return echo.answered >= wanted; }, running.patience())) ++failures;
              inside = true;
            });
            if (!loop.wait_until([&] { return inside; }, running.patience())) ++failures;
            break;
          default:
            loop.wait_until([] { return false; }, running.clock.now() + Duration(random.between(0, 50'000)));
        }
      }
    });
    CHECK(failures == 0);
    const Loop::Turn turn(loop);
    loop.remove_source(echo);
  }
}

TEST_CASE("a wait under a Turn is answered while run()'s thread sleeps, without burning a core for it") {
  RunningLoop running(kEager);
  for (int i = 0; i < 200; ++i) {
    const Loop::Turn turn(running.loop);
    const std::uint64_t rounds = running.loop.stats().rounds;
    bool fired = false;
    Timer timer([&] { fired = true; });
    running.loop.schedule_after(timer, 500us);
    REQUIRE(running.loop.wait_until([&] { return fired; }, running.patience()));
    if (i == 199) CHECK(running.loop.stats().rounds < rounds + 1000);
  }
}

TEST_CASE("a loop starts and stops a thousand times, with a helper and posts in between") {
  RealClock clock;
  Loop loop(clock);
  int ran = 0;  // with the turn only
  for (int i = 0; i < 1000; ++i) {
    std::thread runner([&] { loop.run(); });
    loop.post([&] { ++ran; });
    REQUIRE(loop.wait_until([&] { return ran == i + 1; }, clock.now() + kPatience));
    loop.stop();
    runner.join();
  }
  CHECK(ran == 1000);
}

TEST_CASE("stop() ends run() while another thread waits, and that wait goes on") {
  for (int i = 0; i < 50; ++i) {
    RealClock clock;
    Loop loop(clock, kEager);
    std::thread runner([&] { loop.run(); });
    bool done = false;
    std::thread waiter([&] { CHECK(loop.wait_until([&] { return done; }, clock.now() + kPatience)); });
    loop.stop();
    runner.join();
    loop.post([&] { done = true; });
    waiter.join();
  }
}

TEST_CASE("threads that call back to back do not starve one another") {
  RunningLoop running;
  constexpr int kThreads = 3;
  std::vector<std::atomic<int>> calls(kThreads);
  const TimePoint end = running.clock.now() + 200ms;
  in_threads(kThreads, [&](int t) {
    while (running.clock.now() < end) {
      bool ran = false;
      running.loop.run_or_post([&] { ran = true; });
      REQUIRE(running.loop.wait_until([&] { return ran; }, running.patience()));
      ++calls[static_cast<std::size_t>(t)];
    }
  });
  for (const std::atomic<int>& count : calls) CHECK(count > 10);
}

TEST_CASE("loop: work begun by several waiting threads may itself wait on the loop") {
  RealClock clock;
  Loop loop(clock);
  std::thread home([&] { loop.run(); });
  constexpr int kThreads = 4, kRounds = 500;
  std::atomic<int> finished{0};
  std::vector<std::thread> threads;
  threads.reserve(kThreads);
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < kRounds; ++i) {
        bool inner = false, outer = false;
        const auto begin = [&] {
          REQUIRE(loop.in_turn());
          loop.defer([&] { inner = true; });
          REQUIRE(loop.wait_until([&] { return inner; }, clock.now() + 10s));
          loop.defer([&] { outer = true; });
        };
        if (loop.begin_and_wait(
                begin, [&] { return outer; }, 10s))
          ++finished;
      }
    });
  }
  for (auto& thread : threads) thread.join();
  loop.stop();
  home.join();
  CHECK(finished == kThreads * kRounds);
}

TEST_CASE("loop: what cannot begin before its deadline is not begun") {
  RealClock clock;
  Loop loop(clock);
  std::atomic<bool> taken{false}, release{false};
  std::thread owner([&] {
    Loop::Turn turn(loop);
    taken = true;
    while (!release) std::this_thread::yield();
  });
  while (!taken) std::this_thread::yield();
  bool begun = false;
  CHECK_FALSE(loop.begin_and_wait([&] { begun = true; }, [] { return true; }, 20ms));
  CHECK_FALSE(begun);
  release = true;
  owner.join();
}
