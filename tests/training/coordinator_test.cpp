#include "coordinator.hpp"

#include <doctest/doctest.h>

#include <troupe/runtime/clock.hpp>

namespace troupe::training {
namespace {

/// A coordinator on a loop in simulated time, called as its actor would be.
struct Fixture {
  SimClock clock;
  Loop loop{clock};
  Loop::Turn turn{loop};
  Coordinator coordinator{loop, "{}"};

  /// One that is done with `work`.
  rpc::Future<Work> next(const std::string& worker, const Work& work, std::uint64_t examples = 10) {
    WorkDone done;
    done.work = work;
    done.examples = examples;
    done.loss_sum = 1;
    return coordinator.next(worker, done);
  }
  /// One that has done nothing, and waits.
  rpc::Future<Work> ask(const std::string& worker) { return coordinator.next(worker, WorkDone{}); }
  Work given(rpc::Future<Work> future) {
    REQUIRE(future.ready());
    return future.get().value();
  }
};

}  // namespace

TEST_CASE_FIXTURE(Fixture, "work is handed out on demand and its outcome added up") {
  REQUIRE(coordinator.hello("a", 1));
  REQUIRE(coordinator.hello("b", 0.4));
  coordinator.queue().begin_training(1, 3);
  coordinator.phase_began();
  const Work first = given(ask("a"));
  const Work second = given(ask("b"));
  CHECK(first.index == 0);
  CHECK(second.index == 1);
  const Work third = given(next("a", first));
  CHECK(third.index == 2);
  CHECK(given(next("a", third)).kind == WorkKind::kWait);
  CHECK_FALSE(coordinator.queue().finished());
  CHECK(given(next("b", second)).kind == WorkKind::kWait);
  CHECK(coordinator.queue().finished());
  CHECK(coordinator.examples() == 30);
  CHECK(coordinator.workers().at("a").batches == 2);
  CHECK(coordinator.workers().at("b").speed == 0.4);
}

TEST_CASE_FIXTURE(Fixture, "batches whose gradients came too late are counted for their worker") {
  coordinator.hello("a", 1).value();
  coordinator.queue().begin_training(1, 2);
  coordinator.phase_began();
  WorkDone done;
  done.work = given(ask("a"));
  done.dropped = 1;
  done.work = given(coordinator.next("a", done));
  done.dropped = 0;
  (void)coordinator.next("a", done);
  CHECK(coordinator.workers().at("a").batches == 2);
  CHECK(coordinator.workers().at("a").dropped == 1);
}

TEST_CASE_FIXTURE(Fixture,
                  "a waiting worker gets the batch of one that died, and a late report counts nothing") {
  coordinator.hello("a", 1).value();
  coordinator.hello("b", 1).value();
  coordinator.queue().begin_training(1, 1);
  coordinator.phase_began();
  const Work work = given(ask("a"));
  auto waiting = ask("b");
  CHECK_FALSE(waiting.ready());
  coordinator.worker_gone("a");
  CHECK(given(std::move(waiting)) == work);
  CHECK(coordinator.alive() == 1);
  next("a", work);
  CHECK(coordinator.examples() == 0);
  next("b", work);
  CHECK(coordinator.examples() == 10);
  CHECK(coordinator.queue().finished());
}

TEST_CASE_FIXTURE(Fixture, "who waits is answered when a phase begins, when patience ends, and at the end") {
  coordinator.hello("a", 1).value();
  auto first = ask("a");
  CHECK_FALSE(first.ready());
  coordinator.queue().begin_training(1, 1);
  coordinator.phase_began();
  const Work batch = given(std::move(first));
  CHECK(batch.kind == WorkKind::kTrain);
  next("a", batch);

  auto second = ask("a");
  coordinator.tick();
  CHECK_FALSE(second.ready());
  clock.advance_to(clock.now() + std::chrono::seconds(11));
  coordinator.tick();
  CHECK(given(std::move(second)).kind == WorkKind::kWait);

  auto third = ask("a");
  coordinator.finish();
  CHECK(given(std::move(third)).kind == WorkKind::kFinish);
  CHECK(given(ask("a")).kind == WorkKind::kFinish);
}

TEST_CASE_FIXTURE(Fixture, "batches of a comparison are no training of the model") {
  coordinator.hello("a", 1).value();
  coordinator.queue().begin_training(2, 1, TableSet::kCompareOther);
  coordinator.phase_began();
  next("a", given(ask("a")));
  CHECK(coordinator.examples() == 10);
  CHECK(coordinator.workers().at("a").examples == 0);
  CHECK(coordinator.workers().at("a").phase_examples == 10);
  CHECK_FALSE(coordinator.queue_is_training());
}

TEST_CASE_FIXTURE(Fixture, "a failure is told once, after the given time, and its batch goes to others") {
  coordinator.hello("a", 1).value();
  coordinator.hello("b", 1).value();
  coordinator.queue().begin_training(1, 1);
  coordinator.phase_began();
  const Work work = given(ask("a"));
  REQUIRE(coordinator.failed("a", {Code::kInvalidArgument, "not finite"}));
  CHECK(given(ask("b")) == work);
  CHECK(coordinator.alive() == 1);
  CHECK(coordinator.take_failures(std::chrono::seconds(1)).empty());
  clock.advance_to(clock.now() + std::chrono::seconds(1));
  const auto told = coordinator.take_failures(std::chrono::seconds(1));
  REQUIRE(told.size() == 1);
  CHECK(told[0].first == "a");
  CHECK(told[0].second.message == "not finite");
  CHECK(coordinator.take_failures({}).empty());
}

TEST_CASE_FIXTURE(Fixture, "latencies of all workers are merged, damaged ones refused") {
  Histogram histogram;
  histogram.record(1000);
  REQUIRE(coordinator.farewell("a", {{"pull", histogram.serialise()}}));
  REQUIRE(coordinator.farewell("b", {{"pull", histogram.serialise()}}));
  CHECK(coordinator.latencies().at("pull").count() == 2);
  CHECK(coordinator.farewells() == 2);
  CHECK_FALSE(coordinator.farewell("c", {{"pull", {1}}}));
}

}  // namespace troupe::training
