// Schedules, clipping and compensation for delay over several servers.
#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "support/temporary_folder.hpp"
#include "tables.hpp"

using namespace troupe;
using namespace troupe::test;

namespace {

/// Rows begin as zeros; a rate of 1, halved with each step.
shards::TableSpec halving_spec() {
  auto spec = exact_spec(shards::TableKind::kEmbedding);
  spec.dim = 1;
  spec.optimizer = shards::Sgd{1, 0};
  spec.schedule.decay = shards::ExponentialDecay{0.5F};
  return spec;
}

/// A table on three servers, and keys of which each has some.
template <class Kind = SimCluster>
struct Steps {
  explicit Steps(const shards::TableSpec& table_spec) : spec(table_spec) {
    names = add_servers(cluster, 3);
    node = &cluster.add("worker");
    client = open_table(*node, spec, names, 1);
    const auto map = shards::SlotMap::balanced(spec.slots, 3);
    for (std::uint64_t key = 0; keys.size() < 3; ++key)
      if (map.shard_of(shards::slot_of(spec, key)) == keys.size()) keys.push_back(key);
  }
  PulledVersions pull() {
    rows.resize(keys.size() * spec.dim);
    const auto pulled = client->pull(keys, rows.data()).get();
    REQUIRE_MESSAGE(pulled.ok(), text_of(pulled));
    return *pulled;
  }
  void push(const std::vector<std::uint64_t>& to, const std::vector<float>& gradients,
            const PulledVersions& versions) {
    const auto pushed = client->push(to, gradients.data(), versions).get();
    REQUIRE_MESSAGE(pushed.ok(), text_of(pushed));
    REQUIRE(pushed->applied);
  }

  shards::TableSpec spec;
  Kind cluster;
  std::vector<std::string> names;
  Node* node = nullptr;
  std::unique_ptr<TableClient> client;
  std::vector<std::uint64_t> keys;  // one on each server
  std::vector<float> rows;
};

}  // namespace

TEST_CASE("all shards step by one rate, also if they have applied different numbers of pushes") {
  Steps<> table(halving_spec());
  table.push({table.keys[0]}, {-1}, table.pull());  // 1
  table.push({table.keys[0]}, {-1}, table.pull());  // 1/2
  table.push({table.keys[1]}, {-1}, table.pull());  // 1/4: the first server has made two steps
  table.push(table.keys, {-1, -1, -1}, table.pull());
  table.pull();
  CHECK(table.rows == std::vector<float>{1.5F + 0.25F, 0.25F + 0.25F, 0.25F});
  std::vector<float> rows(3);
  auto both = table.client->push_pull(table.keys, std::vector<float>{-1, -1, -1}.data(), table.pull(),
                                      table.keys, rows.data());
  REQUIRE(both.get().ok());
  CHECK(rows == std::vector<float>{1.75F + 0.125F, 0.5F + 0.125F, 0.25F + 0.125F});
}

TEST_CASE("a schedule goes on where a checkpoint was, and in rounds goes by the rounds") {
  const TemporaryFolder folder;
  for (const shards::Consistency& mode :
       {shards::Consistency(shards::Asynchronous{}), shards::Consistency(shards::Synchronous{})}) {
    auto spec = halving_spec();
    spec.consistency = mode;
    Steps<RealCluster> table(spec);  // disks are slow in virtual time
    for (int i = 0; i < 3; ++i) table.push(table.keys, {-1, -1, -1}, table.pull());
    save(*table.node, spec, table.names, folder.path() / "checkpoint");
    table.push(table.keys, {-1, -1, -1}, table.pull());
    for (const auto& name : table.names)
      REQUIRE(
          table.node->rpc_sync<std::uint64_t>(name, "restore", (folder.path() / "checkpoint").string()).ok());
    table.push(table.keys, {-1, -1, -1}, table.pull());
    table.pull();
    CHECK(table.rows == std::vector<float>(3, 1.875F));
  }
}

TEST_CASE("the norm of a push is held over all shards, and keys that come twice count with their sum") {
  auto spec = exact_spec(shards::TableKind::kEmbedding);
  spec.dim = 2;
  spec.optimizer = shards::Sgd{1, 0};
  spec.clipping.push_norm = 13;
  Steps<> table(spec);
  const auto& k = table.keys;
  // Norms 6, 8 and 24 make 26: everything is halved.
  table.push({k[0], k[1], k[2], k[0]}, {2, 0, 0, -8, 24, 0, 4, 0}, table.pull());
  table.pull();
  CHECK(table.rows == std::vector<float>{-3, 0, 0, 4, -12, 0});
  // What is below is not changed.
  table.push({k[0], k[1]}, {3, 4, 0, 12}, table.pull());
  table.pull();
  CHECK(table.rows == std::vector<float>{-6, -4, 0, -8, -12, 0});
  auto both = table.client->push_pull(k, std::vector<float>{0, 26, 0, 0, 0, 0}.data(), table.pull(), k,
                                      table.rows.data());
  REQUIRE(both.get().ok());
  CHECK(table.rows == std::vector<float>{-6, -17, 0, -8, -12, 0});
}

TEST_CASE("in rounds each worker's push is held to the norm, and so is their mean") {
  auto spec = exact_spec(shards::TableKind::kEmbedding);
  spec.dim = 1;
  spec.optimizer = shards::Sgd{1, 0};
  spec.consistency = shards::Synchronous{};
  spec.clipping.push_norm = 5;
  Steps<> table(spec);
  const auto other = open_table(table.cluster.add("other"), spec, table.names, 2);
  auto first = table.client->push(table.keys, std::vector<float>{30, 40, 0}.data());
  auto second = other->push(table.keys, std::vector<float>{-1, 0, 0}.data());
  REQUIRE(first.get().ok());
  REQUIRE(second.get().ok());
  other->leave();
  table.pull();
  CHECK(table.rows == std::vector<float>{-(3.0F - 1) / 2, -2, 0});
}

TEST_CASE("a push whose weights have changed is compensated on each shard by what changed there") {
  auto spec = exact_spec(shards::TableKind::kEmbedding);
  spec.dim = 1;
  spec.optimizer = shards::Sgd{1, 0};
  spec.delay_compensation.lambda = 0.5F;
  Steps<> table(spec);
  const auto other = open_table(table.cluster.add("other"), spec, table.names, 2);
  std::vector<float> rows(3);
  const auto late = other->pull(table.keys, rows.data()).get();
  REQUIRE(late.ok());
  table.push({table.keys[0], table.keys[1]}, {-1, -2}, table.pull());
  table.push({table.keys[0]}, {-2}, table.pull());
  table.pull();
  CHECK(table.rows == std::vector<float>{3, 2, 0});
  // 1 + 1/2 * 1 * 3, 2 + 1/2 * 4 * 2, 4.
  REQUIRE(other->push(table.keys, std::vector<float>{1, 2, 4}.data(), *late).get().ok());
  table.pull();
  CHECK(table.rows == std::vector<float>{3 - 2.5F, 2 - 6, -4});
}
