#include <troupe/shards/clock_policy.hpp>

#include <algorithm>
#include <functional>
#include <map>
#include <optional>

#include "support.hpp"

namespace troupe::shards {
namespace {

TEST_CASE("a worker runs ahead by the bound and no further") {
  ClockPolicy gate(BoundedStaleness{2});
  gate.join(1);
  gate.join(2);
  int resumed = 0;
  for (std::uint64_t clock = 0; clock <= 2; ++clock) {
    REQUIRE(gate.wait(1, clock, [&] { ++resumed; }).ok());
  }
  CHECK(resumed == 3);
  REQUIRE(gate.wait(1, 3, [&] { ++resumed; }).ok());
  CHECK(resumed == 3);
  CHECK(gate.waiting() == 1);
  CHECK(gate.deferred() == 1);
  CHECK_FALSE(gate.may_proceed(3));
  REQUIRE(gate.advance(2, 1).ok());
  CHECK(resumed == 4);
  CHECK(gate.waiting() == 0);
}

TEST_CASE("waiters run by clock, then by arrival") {
  ClockPolicy gate(BoundedStaleness{0});
  std::vector<int> order;
  for (std::uint64_t worker = 1; worker <= 4; ++worker) gate.join(worker);
  REQUIRE(gate.wait(3, 2, [&] { order.push_back(3); }).ok());
  REQUIRE(gate.wait(2, 1, [&] { order.push_back(2); }).ok());
  REQUIRE(gate.wait(1, 1, [&] { order.push_back(1); }).ok());
  REQUIRE(gate.advance(4, 1).ok());
  CHECK(order == std::vector<int>{2, 1});
  REQUIRE(gate.advance(1, 9).ok());
  REQUIRE(gate.advance(2, 9).ok());
  REQUIRE(gate.advance(4, 9).ok());
  CHECK(order == std::vector<int>{2, 1, 3});
}

TEST_CASE("a worker that leaves holds nobody back and its own waiters are dropped") {
  ClockPolicy gate(BoundedStaleness{0});
  gate.join(1);
  gate.join(2);
  bool first = false;
  auto owned = std::make_shared<int>(0);
  REQUIRE(gate.wait(1, 1, [&] { first = true; }).ok());
  REQUIRE(gate.wait(1, 2, [&, owned] { *owned = 1; }).ok());
  CHECK_FALSE(first);
  CHECK(gate.leave(2));
  CHECK(first);
  CHECK(*owned == 1);
  CHECK_FALSE(gate.leave(2));
  gate.join(3);
  REQUIRE(gate.wait(1, 5, [&, owned] { *owned = 2; }).ok());
  CHECK(gate.leave(1));
  CHECK(*owned == 1);
  CHECK(owned.use_count() == 1);
  CHECK(gate.waiting() == 0);
}

TEST_CASE("who takes no part is told so, and with nobody everyone may go on") {
  ClockPolicy gate(BoundedStaleness{1});
  CHECK(gate.may_proceed(100));
  CHECK(gate.advance(1, 1).error().code == Code::kNotFound);
  CHECK(gate.wait(1, 1, [] {}).error().code == Code::kNotFound);
  CHECK(gate.join(1) == 0);
  REQUIRE(gate.advance(1, 4).ok());
  CHECK(gate.join(1) == 4);  // it takes part already
  CHECK(gate.join(2) == 4);  // where the slowest is
  CHECK(gate.workers() == 2);
}

TEST_CASE("a clock never goes back") {
  ClockPolicy gate(BoundedStaleness{0});
  gate.join(1);
  REQUIRE(gate.advance(1, 5).ok());
  REQUIRE(gate.advance(1, 3).ok());
  CHECK(gate.minimum_clock() == 5);
}

TEST_CASE("the largest clocks and bounds do not overflow") {
  ClockPolicy gate(BoundedStaleness{UINT64_MAX});
  gate.join(1);
  REQUIRE(gate.advance(1, 1).ok());
  CHECK(gate.may_proceed(UINT64_MAX));
  CHECK(ClockPolicy(Asynchronous{}).may_proceed(UINT64_MAX));
}

TEST_CASE("a resumed function may use the gate") {
  ClockPolicy gate(BoundedStaleness{0});
  gate.join(1);
  gate.join(2);
  int rounds = 0;
  std::function<void(std::uint64_t, std::uint64_t)> step = [&](std::uint64_t worker, std::uint64_t clock) {
    ++rounds;
    if (clock == 1000) {
      CHECK(gate.leave(worker));
      return;
    }
    CHECK(gate.wait(worker, clock + 1, [&, worker, clock] { step(worker, clock + 1); }).ok());
  };
  REQUIRE(gate.wait(1, 0, [&] { step(1, 0); }).ok());
  REQUIRE(gate.wait(2, 0, [&] { step(2, 0); }).ok());
  CHECK(rounds == 2002);
  CHECK(gate.workers() == 0);
  CHECK(gate.waiting() == 0);
}

TEST_CASE("who closes the gate from within drops all others, and nobody takes part any more") {
  ClockPolicy gate(BoundedStaleness{0});
  for (const std::uint64_t worker : {1U, 2U, 3U}) gate.join(worker);
  std::vector<int> ran;
  auto owned = std::make_shared<int>(0);
  const std::weak_ptr<int> alive = owned;
  REQUIRE(gate.wait(1, 1,
                    [&] {
                      ran.push_back(1);
                      gate.close();
                    })
              .ok());
  REQUIRE(gate.wait(2, 1, [&, owned = std::move(owned)] { ran.push_back(2); }).ok());
  REQUIRE(gate.advance(3, 1).ok());
  CHECK(ran == std::vector{1});
  CHECK(alive.expired());
  CHECK(gate.waiting() == 0);
  CHECK(gate.workers() == 0);
}

TEST_CASE("one who throws as it goes on does not stop the gate") {
  ClockPolicy gate(BoundedStaleness{0});
  for (const std::uint64_t worker : {1U, 2U, 3U}) gate.join(worker);
  bool ran = false;
  REQUIRE(gate.wait(1, 1, [] { throw 1; }).ok());
  REQUIRE(gate.wait(2, 1, [&] { ran = true; }).ok());
  CHECK_THROWS_AS((void)gate.advance(3, 1), int);
  CHECK_FALSE(ran);
  REQUIRE(gate.advance(3, 1).ok());  // a repeat
  CHECK(ran);
}

/// Workers at random speeds that die, finish and join, checked against the rule itself.
class Schedule {
 public:
  Schedule(std::uint64_t seed, std::uint64_t bound)
      : random_(seed), bound_(bound), gate_(BoundedStaleness{bound}) {}

  void run(int steps) {
    for (int i = 0; i < steps; ++i) {
      step();
      check_rule();
    }
    // Whoever is left runs until it has finished: nobody may hang.
    int patience = 100000;
    while (!workers_.empty() && --patience > 0) {
      const std::uint64_t id = pick();
      if (workers_.at(id).blocked) continue;
      if (workers_.at(id).clock > 60) {
        remove(id);
      } else {
        go(id);
      }
      check_rule();
    }
    CHECK(workers_.empty());
    CHECK(gate_.waiting() == 0);
  }

 private:
  struct Worker {
    std::uint64_t clock = 0;
    bool blocked = false;
  };

  std::uint64_t pick() { return std::next(workers_.begin(), random_() % workers_.size())->first; }
  std::uint64_t minimum() const {
    std::uint64_t least = UINT64_MAX;
    for (const auto& [id, worker] : workers_) least = std::min(least, worker.clock);
    return least;
  }
  void remove(std::uint64_t id) {
    workers_.erase(id);
    CHECK(gate_.leave(id));
  }
  void go(std::uint64_t id) {
    Worker& worker = workers_.at(id);
    ++worker.clock;
    worker.blocked = true;
    REQUIRE(gate_.wait(id, worker.clock, [this, id] { workers_.at(id).blocked = false; }).ok());
  }
  void step() {
    const auto dice = random_() % 20;
    if (workers_.empty() || (dice == 0 && workers_.size() < 8)) {
      workers_[next_] = {gate_.join(next_), false};
      ++next_;
    } else if (dice == 1) {
      remove(pick());  // dies, blocked or not
    } else if (const std::uint64_t id = pick(); !workers_.at(id).blocked) {
      go(id);
    }
  }
  void check_rule() {
    for (const auto& [id, worker] : workers_) {
      const bool may = worker.clock <= minimum() + bound_;
      REQUIRE(worker.blocked == !may);
      REQUIRE(gate_.may_proceed(worker.clock) == may);
    }
  }

  std::mt19937_64 random_;
  std::uint64_t bound_;
  ClockPolicy gate_;
  std::map<std::uint64_t, Worker> workers_;
  std::uint64_t next_ = 1;
};

TEST_CASE("under random schedules a worker waits exactly when the rule says so") {
  const std::uint64_t first_seed = troupe::test::test_seed();
  for (const std::uint64_t bound : {0U, 1U, 3U, 10U}) {
    CAPTURE(bound);
    for (std::uint64_t seed = first_seed; seed < first_seed + 20; ++seed) {
      CAPTURE(seed);
      Schedule(seed, bound).run(500);
    }
  }
}

}  // namespace
}  // namespace troupe::shards
