// The steady state of small calls makes no heap allocation: counted by an operator new of this program's own,
// in both nodes' threads. What UCX itself takes from malloc is not counted.
#include <atomic>
#include <chrono>
#include <cstdint>
#include <new>
#include <string>
#include <tuple>

#include <troupe/actors/node_traces.hpp>

#include "actors/cluster.hpp"
#include "support/own_new.hpp"

namespace {
std::atomic<bool> counting{false};
std::atomic<std::uint64_t> allocations{0};
}  // namespace

void troupe::test::before_allocation(std::size_t) {
  if (counting.load(std::memory_order_relaxed)) allocations.fetch_add(1, std::memory_order_relaxed);
}

using namespace troupe;
using namespace troupe::test;

namespace allocations_test {

/// 64 bytes that need no heap.
struct Words {
  std::uint64_t a = 0, b = 0, c = 0, d = 0, e = 0, f = 0, g = 0, h = 0;
};

struct Echo {
  Words words(const Words& words) { return words; }
  std::uint64_t text(std::string_view text) { return text.size(); }
  static void methods(rpc::Methods<Echo>& methods) {
    methods.add("words", &Echo::words).add("text", &Echo::text);
  }
};

}  // namespace allocations_test

template <>
struct troupe::rpc::Fields<allocations_test::Words> {
  using T = allocations_test::Words;
  static constexpr std::string_view name = "Words";
  static constexpr auto fields = std::tuple(&T::a, &T::b, &T::c, &T::d, &T::e, &T::f, &T::g, &T::h);
};

namespace {

using allocations_test::Echo;
using allocations_test::Words;

/// Nodes that say nothing by themselves meanwhile: heartbeats are not what is counted.
struct QuietCluster {
  std::unique_ptr<Node> add(const std::string& name, const TraceOptions& trace = {}) {
    constexpr Duration kLong = std::chrono::hours(1);
    auto node = cluster.start(
        {.name = name, .heartbeat_interval = kLong, .silence_limit = 2 * kLong, .trace = trace});
    REQUIRE_MESSAGE(node.ok(), text_of(node));
    return std::move(*node);
  }
  RealCluster cluster;
};

/// What a loop may allocate now and then, whatever the number of calls: a queue that grows once more.
constexpr std::uint64_t kNow = 20;

/// And in each second, on whatever thread: the exporter of spans wakes up now and then.
constexpr std::uint64_t kEachSecond = 10;

/// Allocations in `count` calls, after as many that warm up, but for those that time alone brings.
template <class Call>
std::uint64_t allocations_in(int count, const Call& call) {
  for (int i = 0; i < count; ++i) REQUIRE(call());
  allocations = 0;
  bool good = true;
  const auto begin = std::chrono::steady_clock::now();
  counting = true;
  for (int i = 0; i < count; ++i) good = call() && good;
  counting = false;
  CHECK(good);
  const auto seconds =
      std::chrono::duration_cast<std::chrono::seconds>(std::chrono::steady_clock::now() - begin).count();
  const std::uint64_t of_time = kEachSecond * static_cast<std::uint64_t>(seconds);
  return allocations > of_time ? allocations - of_time : 0;
}

}  // namespace

TEST_CASE("the counter counts") {
  counting = true;
  auto* volatile made = new int(1);
  counting = false;
  delete made;
  CHECK(allocations > 0);
}

TEST_CASE("a call of 64 bytes to an actor on another node allocates nothing, on either node") {
  QuietCluster cluster;
  const auto caller = cluster.add("caller"), callee = cluster.add("callee");
  REQUIRE(callee->spawn<Echo>("echo").ok());
  REQUIRE(caller->wait_for_actor("echo", kPatience).ok());
  const Words words{1, 2, 3, 4, 5, 6, 7, 8};
  constexpr int kCalls = 5000;
  CHECK(allocations_in(kCalls, [&] {
          const auto answer = caller->rpc_sync<Words>("echo", "words", words);
          return answer.ok() && answer->h == 8;
        }) <= kNow);
  const std::string text(64, 'x');
  CHECK(allocations_in(kCalls, [&] {
          const auto answer = caller->rpc_sync<std::uint64_t>("echo", "text", text);
          return answer.ok() && *answer == 64;
        }) <= kNow);
}

TEST_CASE("a call that is not sampled allocates nothing, either, on nodes that trace") {
  QuietCluster cluster;
  const TraceOptions trace{.file = "/dev/null", .ratio = 0};
  const auto caller = cluster.add("caller", trace), callee = cluster.add("callee", trace);
  REQUIRE(callee->spawn<Echo>("echo").ok());
  REQUIRE(caller->wait_for_actor("echo", kPatience).ok());
  const Words words{1, 2, 3, 4, 5, 6, 7, 8};
  constexpr int kCalls = 5000;
  CHECK(allocations_in(kCalls, [&] { return caller->rpc_sync<Words>("echo", "words", words).ok(); }) <= kNow);
  CHECK(NodeTraces(*caller).stats().exported == 0);
  NodeTraces(*caller).set_ratio(1);
  REQUIRE(caller->rpc_sync<Words>("echo", "words", words).ok());
  caller->shutdown();
  CHECK(NodeTraces(*caller).stats().exported == 1);
}

TEST_CASE(
    "a call to an actor on the same node allocates what its arguments need to be copied, and little else") {
  QuietCluster cluster;
  const auto node = cluster.add("node");
  REQUIRE(node->spawn<Echo>("echo").ok());
  const Words words{1, 2, 3, 4, 5, 6, 7, 8};
  constexpr int kCalls = 5000;
  const std::uint64_t made =
      allocations_in(kCalls, [&] { return node->rpc_sync<Words>("echo", "words", words).ok(); });
  CHECK(made <= kCalls + kNow);  // the arguments' copy
}
