// Calls that a thread begins one soon after the other: they go together, and all of them go.
#include <atomic>
#include <chrono>
#include <cstdint>
#include <thread>
#include <vector>

#include "cluster.hpp"
#include "states.hpp"

using namespace troupe;
using namespace troupe::test;

namespace {

struct Bursting {
  Bursting() : node(cluster.add("caller")), callee(cluster.add("callee")) {
    REQUIRE(callee.spawn<Calculator>("calculator").ok());
    REQUIRE(node.wait_for_actor("calculator", kPatience).ok());
  }
  rpc::Future<std::int64_t> call(std::int64_t number) {
    return node.rpc_async<std::int64_t>("calculator", "plus", number, std::int64_t{1});
  }
  TcpCluster cluster;
  Node& node;
  Node& callee;
};

/// Whether the answer comes although this thread does nothing for it.
bool comes(const rpc::Future<std::int64_t>& future) {
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::nanoseconds(kPatience.count());
  while (!future.ready() && std::chrono::steady_clock::now() < deadline) std::this_thread::yield();
  return future.ready();
}

}  // namespace

TEST_CASE("a burst of calls is answered although its thread waits for none of them") {
  Bursting caller;
  std::int64_t number = 0;
  for (const std::size_t count : {1, 3, 10, 100, 1000, 10, 100, 1000}) {
    std::vector<rpc::Future<std::int64_t>> open;
    // run()'s thread stands aside from here on: its own calls have been waited for.
    for (int i = 0; i < 20; ++i) CHECK(caller.call(number).get().value() == number + 1);
    const std::int64_t first = number;
    for (std::size_t i = 0; i < count; ++i) open.push_back(caller.call(number++));
    for (std::size_t i = 0; i < count; ++i) {
      REQUIRE(comes(open[i]));
      CHECK(open[i].get().value() == first + static_cast<std::int64_t>(i) + 1);
    }
  }
}

TEST_CASE("calls of many threads at once are all answered") {
  Bursting caller;
  std::vector<std::thread> threads;
  std::atomic<int> wrong = 0;
  for (std::int64_t thread = 0; thread < 4; ++thread)
    threads.emplace_back([&, thread] {
      for (int turn = 0; turn < 20; ++turn) {
        std::vector<rpc::Future<std::int64_t>> open;
        for (std::int64_t i = 0; i < 50; ++i) open.push_back(caller.call(1000 * thread + i));
        for (std::int64_t i = 0; i < 50; ++i)
          if (open[static_cast<std::size_t>(i)].get().value() != 1000 * thread + i + 1) ++wrong;
      }
    });
  for (std::thread& thread : threads) thread.join();
  CHECK(wrong == 0);
}
