#include <troupe/runtime/thread_pool.hpp>

#include <atomic>
#include <chrono>
#include <future>
#include <set>
#include <thread>

#include <doctest/doctest.h>

using namespace troupe;
using namespace std::chrono_literals;

namespace {
constexpr auto kPatience = 30s;

/// A task that says that it has begun, and ends when it may.
struct Held {
  std::promise<void> begun, may_end;
  Task task() {
    return [this] {
      begun.set_value();
      may_end.get_future().wait_for(kPatience);
    };
  }
  bool has_begun() { return begun.get_future().wait_for(kPatience) == std::future_status::ready; }
};

Result<void> run(ThreadPool& pool, Task task) {
  return pool.run(task);
}
}  // namespace

TEST_CASE("thread pool: as many tasks run at once as it has threads, the others wait, and no more than may") {
  ThreadPool pool({.threads = 2, .waiting = 1});
  Held first, second;
  REQUIRE(run(pool, first.task()).ok());
  REQUIRE(first.has_begun());
  REQUIRE(run(pool, second.task()).ok());
  REQUIRE(second.has_begun());
  std::promise<void> third;
  REQUIRE(run(pool, [&] { third.set_value(); }).ok());
  CHECK(pool.waiting() == 1);
  Task fourth = [] {};
  const auto refused = pool.run(fourth);
  REQUIRE_FALSE(refused.ok());
  CHECK(refused.error().code == Code::kResourceExhausted);
  CHECK(fourth);
  auto done = third.get_future();
  CHECK(done.wait_for(0s) == std::future_status::timeout);
  first.may_end.set_value();
  CHECK(done.wait_for(kPatience) == std::future_status::ready);
  second.may_end.set_value();
}

TEST_CASE("thread pool: a thread that waits is used again before another one is started") {
  ThreadPool pool({.threads = 8, .waiting = 8});
  std::set<std::thread::id> seen;
  for (int i = 0; i < 50; ++i) {
    std::promise<std::thread::id> who;
    auto told = who.get_future();
    REQUIRE(run(pool, [&] { who.set_value(std::this_thread::get_id()); }).ok());
    seen.insert(told.get());
  }
  // One may be on its way back to the queue while the next task comes.
  CHECK(seen.size() <= 8);
}

TEST_CASE("thread pool: its end waits for what runs, and gives back what does not") {
  ThreadPool pool({.threads = 1, .waiting = 4});
  Held held;
  REQUIRE(run(pool, held.task()).ok());
  REQUIRE(held.has_begun());
  std::atomic<int> ran{0};
  for (int i = 0; i < 4; ++i) REQUIRE(run(pool, [&] { ++ran; }).ok());
  // The queue is full: the other thread hears so until the pool is closed.
  std::thread ender([&] {
    while (run(pool, [] {}).error().code != Code::kCancelled) std::this_thread::yield();
    held.may_end.set_value();
  });
  const auto left = pool.close(kPatience);
  ender.join();
  CHECK(left.tasks.size() == 4);
  CHECK(left.threads == 0);
  CHECK(ran == 0);
  CHECK(pool.close(kPatience).tasks.empty());
}

TEST_CASE("thread pool: a task that does not end is left to itself when patience is over") {
  auto held = std::make_shared<Held>();
  std::promise<void> gone;
  auto all_gone = gone.get_future();
  {
    ThreadPool pool({.threads = 1, .waiting = 4});
    REQUIRE(run(pool, [held, task = held->task(), gone = std::move(gone)]() mutable {
              task();
              gone.set_value();
            }).ok());
    REQUIRE(held->has_begun());
    CHECK(pool.close(1ms).threads == 1);
  }
  held->may_end.set_value();
  CHECK(all_gone.wait_for(kPatience) == std::future_status::ready);
}
