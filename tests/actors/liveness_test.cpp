// How the silent are found in a cluster, by few, and what that costs everybody. In virtual time.
#include <algorithm>
#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "cluster.hpp"
#include "states.hpp"

using namespace troupe;
using namespace troupe::test;
using namespace std::chrono_literals;

namespace {

constexpr Duration kSilence = 5s;  // both are the defaults
constexpr Duration kHeartbeat = 1s;
constexpr Duration kOnTheWay = 5ms;

/// Nodes n0, n1 ... of which n0 is the first.
struct Crowd {
  explicit Crowd(int size) {
    for (int i = 0; i < size; ++i) cluster.add(name(i));
    cluster.world.run_for(3s);
  }
  static std::string name(int index) { return "n" + std::to_string(index); }
  TimePoint now() { return cluster.world.clock().now(); }
  /// Whether each of these nodes knows `expected` members.
  bool all_know(const std::vector<int>& nodes, std::size_t expected) {
    return std::all_of(nodes.begin(), nodes.end(), [&](int index) {
      return cluster[name(index)].membership().members.size() == expected;
    });
  }
  std::vector<int> all_but(const std::vector<int>& these, int size) const {
    std::vector<int> others;
    for (int i = 0; i < size; ++i)
      if (std::find(these.begin(), these.end(), i) == these.end()) others.push_back(i);
    return others;
  }
  /// Until `done`, or a minute has passed.
  template <class Done>
  Duration until(const Done& done) {
    const TimePoint begun = now();
    while (!done() && now() - begun < Duration(60s)) cluster.world.run_for(10ms);
    return now() - begun;
  }
  double idle_messages(int size) {
    constexpr Duration kTime = 20s;
    const std::uint64_t before = cluster.world.messages();
    cluster.world.run_for(kTime);
    return static_cast<double>(cluster.world.messages() - before) / size /
           std::chrono::duration<double>(kTime).count();
  }

  SimCluster cluster;
};

}  // namespace

TEST_CASE("an idle node sends as many messages in a cluster of eighty as in one of ten") {
  for (const int size : {10, 80}) {
    CAPTURE(size);
    Crowd crowd(size);
    for (int i = 0; i < size; ++i)
      REQUIRE(crowd.cluster[Crowd::name(i)].spawn<Calculator>("c" + std::to_string(i)).ok());
    crowd.cluster.world.run_for(3s);
    // Everybody has met everybody.
    for (int i = 0; i < size; ++i)
      for (int j = 0; j < size; ++j)
        REQUIRE(crowd.cluster[Crowd::name(i)].rpc_sync<std::int64_t>("c" + std::to_string(j), "count").ok());
    crowd.cluster.world.run_for(3s);
    const double messages = crowd.idle_messages(size);
    CHECK(messages > 1);
    CHECK(messages <= 4.1);  // questions to two, and answers to two
  }
}

TEST_CASE("a stopped node that nobody calls is found by all within the silence limit and a heartbeat") {
  constexpr int kSize = 30;
  for (const int victim : {1, 17, 29}) {
    CAPTURE(victim);
    Crowd crowd(kSize);
    crowd.cluster.world.stop(Crowd::name(victim));
    const Duration took =
        crowd.until([&] { return crowd.all_know(crowd.all_but({victim}, kSize), kSize - 1); });
    CHECK(took >= kSilence - kHeartbeat);
    CHECK(took <= kSilence + kHeartbeat + kOnTheWay);
    crowd.cluster.world.resume(Crowd::name(victim));
  }
}

TEST_CASE("a node that stops together with one of those that watch it is found in the same time") {
  constexpr int kSize = 12;
  Crowd crowd(kSize);  // ids are given in order, so n4 watches n5 and n6
  for (const int victim : {4, 5}) crowd.cluster.world.stop(Crowd::name(victim));
  const Duration took = crowd.until([&] { return crowd.all_know(crowd.all_but({4, 5}, kSize), kSize - 2); });
  CHECK(took <= kSilence + kHeartbeat + kOnTheWay);
  for (const int victim : {4, 5}) crowd.cluster.world.resume(Crowd::name(victim));
}

TEST_CASE("a first node that stops is found by all within the silence limit and a heartbeat") {
  constexpr int kSize = 12;
  Crowd crowd(kSize);
  crowd.cluster.world.stop(Crowd::name(0));
  const TimePoint begun = crowd.now();
  for (int i = 1; i < kSize; ++i) CHECK(code_of(crowd.cluster[Crowd::name(i)].run()) == Code::kUnavailable);
  CHECK(crowd.now() - begun <= kSilence + kHeartbeat + kOnTheWay);
  crowd.cluster.world.resume(Crowd::name(0));
}

TEST_CASE("a node that is cut off from all leaves, and the others go on without it") {
  constexpr int kSize = 8;
  Crowd crowd(kSize);
  for (int i = 0; i < kSize; ++i)
    if (i != 3) crowd.cluster.world.set_partition(Crowd::name(3), Crowd::name(i), true);
  const TimePoint begun = crowd.now();
  CHECK(code_of(crowd.cluster[Crowd::name(3)].run()) == Code::kUnavailable);
  CHECK(crowd.now() - begun <= kSilence + kHeartbeat + kOnTheWay);
  const Duration more = crowd.until([&] { return crowd.all_know(crowd.all_but({3}, kSize), kSize - 1); });
  CHECK(more <= kHeartbeat + kOnTheWay);
  for (int i = 0; i < kSize; ++i)
    if (i != 3) crowd.cluster.world.set_partition(Crowd::name(3), Crowd::name(i), false);
}

TEST_CASE("a cut way between two members, and a stop that is shorter than the limit, are no deaths") {
  constexpr int kSize = 8;
  Crowd crowd(kSize);
  crowd.cluster.world.set_partition(Crowd::name(3), Crowd::name(4), true);
  crowd.cluster.world.run_for(30s);
  CHECK(crowd.all_know(crowd.all_but({}, kSize), kSize));
  crowd.cluster.world.set_partition(Crowd::name(3), Crowd::name(4), false);
  for (int i = 0; i < 3; ++i) {
    crowd.cluster.world.stop(Crowd::name(5));
    crowd.cluster.world.run_for(kSilence - kHeartbeat - Duration(100ms));
    crowd.cluster.world.resume(Crowd::name(5));
    crowd.cluster.world.run_for(2s);
  }
  crowd.cluster.world.run_for(30s);
  CHECK(crowd.all_know(crowd.all_but({}, kSize), kSize));
}

TEST_CASE("the last notice of several that is lost is made up for by what neighbours know") {
  Crowd crowd(6);
  REQUIRE(crowd.cluster["n1"].spawn<Calculator>("first").ok());
  REQUIRE(crowd.cluster["n3"].wait_for_actor("first", kPatience).ok());
  // What goes out in this moment is lost: nobody hears of it by a notice, and no later one shows the gap.
  crowd.cluster.world.options().loss = 1;
  REQUIRE(crowd.cluster["n0"].spawn<Calculator>("unheard").ok());
  crowd.cluster.world.run_for(1ms);
  crowd.cluster.world.options().loss = 0;
  CHECK(code_of(crowd.cluster["n3"].rpc_sync<std::int64_t>("unheard", "count")) == Code::kNotFound);
  for (int i = 1; i < 6; ++i)
    CHECK(crowd.cluster[Crowd::name(i)].wait_for_actor("unheard", 4 * kHeartbeat).ok());
}
