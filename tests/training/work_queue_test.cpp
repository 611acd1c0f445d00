#include "work_queue.hpp"

#include <doctest/doctest.h>

#include <map>
#include <random>
#include <set>

#include "support/seed.hpp"

namespace troupe::training {

TEST_CASE("every piece is done once, whatever the order of workers, reports and deaths") {
  std::mt19937 random(static_cast<unsigned>(test::test_seed()));
  const auto below = [&](std::uint64_t bound) { return random() % bound; };
  for (int round = 0; round < 200; ++round) {
    WorkQueue queue;
    const bool training = below(2) == 0;
    const std::uint64_t amount = below(60);
    const std::uint64_t chunk = 1 + below(7);
    if (training)
      queue.begin_training(3, amount);
    else
      queue.begin_evaluation(3, Split::kTest, amount, chunk);
    std::multimap<std::string, Work> under_way;
    std::multiset<std::uint64_t> done;  // batches, or examples
    while (!queue.finished()) {
      const std::string worker = "worker-" + std::to_string(below(4));
      const std::uint64_t what = below(10);
      if (what < 5) {
        if (const auto work = queue.take(worker)) under_way.emplace(worker, *work);
      } else if (what < 9) {
        const auto mine = under_way.find(worker);
        if (mine == under_way.end()) continue;
        const Work work = mine->second;
        REQUIRE(queue.done(worker, work));
        CHECK_FALSE(queue.done(worker, work));  // a second report of the same
        under_way.erase(mine);
        if (training)
          done.insert(work.index);
        else
          for (std::uint64_t example = work.index; example < work.end; ++example) done.insert(example);
      } else {
        CHECK(queue.lost(worker) == under_way.count(worker));
        const auto [begin, end] = under_way.equal_range(worker);
        for (auto late = begin; late != end; ++late) CHECK_FALSE(queue.done(worker, late->second));
        under_way.erase(worker);
      }
    }
    CHECK(under_way.empty());
    CHECK(queue.pieces_done() == queue.pieces());
    REQUIRE(done.size() == amount);
    for (std::uint64_t i = 0; i < amount; ++i) CHECK(done.count(i) == 1);
  }
}

TEST_CASE("a piece goes to whoever asks next when its worker is lost") {
  WorkQueue queue;
  queue.begin_training(1, 2);
  const Work first = *queue.take("a");
  CHECK(queue.take("b")->index == 1);
  CHECK_FALSE(queue.take("b").has_value());
  CHECK(queue.lost("a") == 1);
  CHECK(*queue.take("b") == first);
  CHECK_FALSE(queue.done("a", first));  // it is b's now
  CHECK(queue.done("b", first));
}

TEST_CASE("a phase that is cut short ends with what is under way") {
  WorkQueue queue;
  queue.begin_training(1, 100);
  const Work a = *queue.take("a");
  const Work b = *queue.take("b");
  queue.lost("b");
  queue.cut_short();
  CHECK_FALSE(queue.take("c").has_value());
  CHECK_FALSE(queue.finished());
  CHECK(queue.done("a", a));
  CHECK_FALSE(queue.done("b", b));
  CHECK(queue.finished());
}

TEST_CASE("a phase of nothing is finished when it begins") {
  WorkQueue queue;
  CHECK(queue.finished());
  queue.begin_evaluation(1, Split::kValidation, 0, 50);
  CHECK(queue.finished());
}

}  // namespace troupe::training
