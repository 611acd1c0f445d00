// Memory of callers: not touched after their calls, and not trusted while it is read.
#include <algorithm>
#include <atomic>
#include <string>
#include <thread>
#include <vector>

#include "tables.hpp"

using namespace troupe;
using namespace troupe::test;

TEST_CASE("a pull that was cancelled writes nothing any more") {
  SimCluster cluster;
  const auto names = add_servers(cluster, 2);
  auto spec = exact_spec(shards::TableKind::kEmbedding);
  spec.consistency = shards::BoundedStaleness{0};
  Node& node = cluster.add("worker");
  const auto a = open_table(node, spec, names, 1), b = open_table(node, spec, names, 2);
  const std::vector<std::uint64_t> keys{1, 2, 3, 4, 5, 6, 7, 8};
  std::vector<float> rows(keys.size() * spec.dim), others(rows.size());
  b->set_clock(1);
  auto waiting = b->pull(keys, rows.data());  // for worker 1
  cluster.world.run_for(std::chrono::seconds(1));
  REQUIRE_FALSE(waiting.ready());
  waiting.cancel();
  CHECK(code_of(waiting.get()) == Code::kCancelled);
  std::fill(rows.begin(), rows.end(), 7.0F);  // whatever its owner uses it for next
  a->set_clock(1);
  REQUIRE(a->pull(keys, others.data()).get().ok());
  cluster.world.run_for(std::chrono::seconds(1));
  CHECK(std::all_of(rows.begin(), rows.end(), [](float value) { return value == 7; }));
}

TEST_CASE("a pull whose caller gave up because its loop was busy writes nothing any more") {
  RealCluster cluster;
  const auto names = add_servers(cluster, 1);
  auto spec = exact_spec(shards::TableKind::kEmbedding);
  spec.consistency = shards::BoundedStaleness{0};
  Node& busy = cluster.add("busy");
  Node& other = cluster.add("other");
  const auto a = open_table(busy, spec, names, 1, std::chrono::seconds(1));
  const auto b = open_table(other, spec, names, 2);
  const std::vector<std::uint64_t> keys{1};
  std::vector<float> rows(spec.dim), others(spec.dim);
  a->set_clock(1);
  auto waiting = a->pull(keys, rows.data());  // for worker 2
  Signal begun, go_on;
  busy.loop().post([&] {
    begun.set();
    (void)go_on.wait_for(kPatience);
  });
  REQUIRE(begun.wait_for(kPatience));
  b->set_clock(1);
  REQUIRE(b->pull(keys, others.data()).get().ok());  // and the answer to the other one is on its way
  CHECK(code_of(waiting.get()) == Code::kDeadlineExceeded);
  std::fill(rows.begin(), rows.end(), 7.0F);
  go_on.set();
  REQUIRE(a->peek(keys, others.data()).get().ok());  // comes after what was on its way
  CHECK(std::all_of(rows.begin(), rows.end(), [](float value) { return value == 7; }));
}

TEST_CASE("keys that change while they are looked at make no row that is not the server's") {
#ifdef TROUPE_SANITIZER
  MESSAGE("skipped: the race is the test");
#else
  RealCluster cluster;
  Node& node = cluster.add("node");
  REQUIRE(node.spawn<ShardServer>("ps0", 0U, 2U, node).ok());
  const auto spec = exact_spec(shards::TableKind::kEmbedding);
  REQUIRE(node.rpc_sync<void>("ps0", "create_table", spec.to_json()).ok());
  const auto map = shards::SlotMap::balanced(spec.slots, 2);
  constexpr std::size_t kCount = 2048;
  std::vector<std::uint64_t> own, foreign;
  for (std::uint64_t key = 0; own.size() < kCount || foreign.size() < kCount; ++key)
    (map.shard_of(shards::slot_of(spec, key)) == 0 ? own : foreign).push_back(key);
  own.resize(kCount), foreign.resize(kCount);
  const Tensor keys = Tensor::of<std::uint64_t>(own);
  std::atomic<bool> stop{false};
  std::thread sender([&] {
    const std::span<std::uint64_t> to = keys.as<std::uint64_t>();
    while (!stop) {
      for (const auto* from : {&foreign, &own})
        for (std::size_t i = 0; i < kCount; ++i)
          std::atomic_ref(to[i]).store((*from)[i], std::memory_order_relaxed);
    }
  });
  const TimePoint end = node.loop().clock().now() + std::chrono::milliseconds(1500);
  while (node.loop().clock().now() < end)
    (void)node.rpc_sync<PullReply>("ps0", "pull", spec.name, keys, PullHead{});
  stop = true;
  sender.join();
  const auto stats = node.rpc_sync<std::vector<TableStats> >("ps0", "stats");
  REQUIRE(stats.ok());
  CHECK((*stats)[0].rows <= kCount);
#endif
}
