// What sources hold back so that more goes with it, and that it goes in time.
#include <troupe/runtime/holds_back.hpp>
#include <troupe/runtime/loop.hpp>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <thread>
#include <utility>
#include <vector>

#include <doctest/doctest.h>

#include "held_back.hpp"

using namespace troupe;
using namespace std::chrono_literals;

namespace {

/// Sends numbers: each at once, or with others.
struct Sender final : Source, HoldsBack {
  int poll() override {
    new_round = true;
    return 0;
  }
  void send(int number) {
    waiting.push_back(number);
    if (!hold_back(std::exchange(new_round, false))) flush();
  }
  void flush() override {
    if (waiting.empty()) return;
    ++writes;
    sent += waiting.size();
    waiting.clear();
  }

  bool new_round = true;
  std::vector<int> waiting;
  std::atomic<std::size_t> sent = 0;
  std::atomic<int> writes = 0;
};

struct Sending {
  Sending() { loop.add_source(sender); }
  ~Sending() {
    const Loop::Turn own(loop);
    loop.remove_source(sender);
  }
  RealClock clock;
  Loop loop{clock};
  Loop::Turn turn{loop};
  Sender sender;
};

/// A sender whose loop has a thread in run(); `burst` begins pieces of work one soon after the other.
struct SendingBesideHome {
  SendingBesideHome() {
    {
      const Loop::Turn turn(loop);
      loop.add_source(sender);
    }
    home = std::thread([this] { loop.run(); });
  }
  ~SendingBesideHome() {
    loop.stop();
    home.join();
    const Loop::Turn turn(loop);
    loop.remove_source(sender);
  }
  void burst(int count) {
    for (int i = 0; i < count; ++i) loop.run_or_post([this, i] { sender.send(i); });
  }
  /// Without taking part in the loop.
  bool sees(std::size_t count) const {
    const auto deadline = std::chrono::steady_clock::now() + 20s;
    while (sender.sent.load() < count && std::chrono::steady_clock::now() < deadline)
      std::this_thread::yield();
    return sender.sent.load() == count;
  }
  RealClock clock;
  Loop loop{clock};
  Sender sender;
  std::thread home;
};

}  // namespace

TEST_CASE_FIXTURE(Sending, "what the tasks of one round send goes in two writes: the first at once") {
  for (int i = 0; i < 10; ++i) loop.defer([this, i] { sender.send(i); });
  loop.poll();
  CHECK(sender.sent == 10);
  CHECK(sender.writes == 2);
  loop.defer([this] { sender.send(10); });
  loop.poll();
  CHECK(sender.sent == 11);
  CHECK(sender.writes == 3);
}

TEST_CASE_FIXTURE(Sending, "outside of rounds nothing is held back") {
  sender.send(0);
  sender.send(1);
  CHECK(sender.sent == 2);
  CHECK(sender.writes == 2);
}

TEST_CASE_FIXTURE(Sending, "whoever waits in a task does not leave behind what it has sent") {
  bool looked = false;
  loop.defer([this] {
    sender.send(0);
    sender.send(1);
  });
  loop.defer([this, &looked] {
    sender.send(2);
    (void)loop.wait_until(
        [&] {
          if (!sender.waiting.empty()) return false;
          return looked = true;
        },
        clock.now() + 20s);
    // In the name of whoever has the turn now, and perhaps for long.
    sender.send(3);
  });
  loop.poll();
  CHECK(looked);
  CHECK(sender.sent == 4);
}

TEST_CASE("pieces of work are dense when many followed one another, and nobody waited for any") {
  HeldBack held;
  TimePoint now = TimePoint() + 1s;
  const auto begin = [&](int count, Duration pause) {
    for (int i = 0; i < count; ++i) (void)held.is_burst(now = now + pause);
  };
  begin(40, 1us);
  CHECK_FALSE(held.is_dense());
  begin(40, 1us);
  CHECK(held.is_dense());
  for (int i = 0; i < 100; ++i) {  // writes, and what polls do, between many
    begin(30, 1us);
    begin(1, 50us);
    CHECK(held.is_dense());
  }
  held.note_wait();
  CHECK_FALSE(held.is_dense());
  begin(200, 1us);
  CHECK(held.is_dense());
  begin(1, 1ms);
  CHECK_FALSE(held.is_dense());
  begin(1000, 10us);
  CHECK_FALSE(held.is_dense());
}

TEST_CASE("a thread that nobody else drives for holds nothing back") {
  RealClock clock;
  Loop loop(clock);
  Sender sender;
  {
    const Loop::Turn turn(loop);
    loop.add_source(sender);
  }
  for (int i = 0; i < 100; ++i) {
    loop.run_or_post([&] { sender.send(i); });
    CHECK(sender.sent == static_cast<std::size_t>(i) + 1);
  }
  const Loop::Turn turn(loop);
  loop.remove_source(sender);
}

TEST_CASE_FIXTURE(SendingBesideHome,
                  "what a burst leaves behind goes although its thread does nothing more") {
  std::size_t sent = 0;
  for (const int count : {1, 2, 20, 100, 1000}) {
    burst(count);
    sent += static_cast<std::size_t>(count);
    CHECK(sees(sent));
  }
}

TEST_CASE_FIXTURE(SendingBesideHome, "what a burst leaves behind goes although run()'s thread stands aside") {
  // It does while one wait comes after the other.
  std::size_t sent = 0;
  for (int turn = 0; turn < 50; ++turn) {
    for (int i = 0; i < 20; ++i) (void)loop.wait_until([] { return true; }, clock.now() + 20s);
    burst(50);
    sent += 50;
    CHECK(sees(sent));
  }
}

TEST_CASE_FIXTURE(SendingBesideHome,
                  "what a burst leaves behind goes before run()'s thread comes back by itself") {
  // That takes it a millisecond without a wait. Of many bursts one finds a core free for it.
  auto shortest = std::chrono::steady_clock::duration::max();
  std::size_t sent = 0;
  for (int turn = 0; turn < 50; ++turn) {
    const TimePoint aside = clock.now() + 10ms;
    while (clock.now() < aside) (void)loop.wait_until([] { return true; }, clock.now() + 20s);
    const auto begin = std::chrono::steady_clock::now();
    burst(50);
    sent += 50;
    const bool left_some = sender.sent.load() < sent;
    REQUIRE(sees(sent));
    if (left_some) shortest = std::min(shortest, std::chrono::steady_clock::now() - begin);
  }
  CHECK(shortest < 900us);
}

TEST_CASE("what a burst leaves behind goes although run() ends meanwhile") {
  for (int turn = 0; turn < 20; ++turn) {
    SendingBesideHome sending;
    for (int i = 0; i < 20; ++i)
      (void)sending.loop.wait_until([] { return true; }, sending.clock.now() + 20s);
    std::thread stopper([&] { sending.loop.stop(); });
    sending.burst(200);
    stopper.join();
    // Tasks that were posted after the last round run with the next one.
    (void)sending.loop.wait_until([&] { return !sending.loop.has_tasks(); }, sending.clock.now() + 20s);
    CHECK(sending.sees(200));
  }
}
