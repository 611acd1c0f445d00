// Tables in device memory on running servers: on a device of the test's own, whose streams are threads.
#include <troupe/shards/device_store.hpp>

#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "shards/nccl/host_driver.hpp"
#include "support/temporary_folder.hpp"
#include "tables.hpp"

using namespace troupe;
using namespace troupe::test;

namespace {

/// Stores on a device, driven by `loop`. Work that the device is given is done a moment later.
shards::MakeRowStore device_stores(Loop& loop, bool little_pinned = false) {
  auto home =
      shards::DeviceHome::of(Gpu(std::make_unique<HostDriver>(0)), std::make_shared<EventWatch>(loop));
  home.on_host = [](const Stream& stream, std::function<void()> work) {
    (void)HostDriver::give(stream.native(), std::move(work));
  };
  home.slab_bytes = 8192;
  if (little_pinned) {
    home.piece_bytes = std::size_t{64} << 10;
    home.slab_bytes = std::size_t{1} << 20;
    home.pinned = std::make_shared<GpuPool>(home.gpu, GpuPoolOptions{.kind = MemoryKind::kPinned,
                                                                     .limit_bytes = std::size_t{4} << 20,
                                                                     .slab_bytes = std::size_t{256} << 10});
  }
  return shards::make_device_stores(std::move(home));
}

/// As add_servers(), with tables in device memory.
std::vector<std::string> add_device_servers(Cluster& cluster, std::uint32_t count) {
  std::vector<std::string> names;
  for (std::uint32_t i = 0; i < count; ++i) {
    names.push_back("ps" + std::to_string(i));
    Node& node = cluster.add("server-" + std::to_string(i), "server");
    const auto spawned = node.spawn<ShardServer>(names.back(), i, count, node, shards::builtin_optimizers(),
                                                 device_stores(node.loop()));
    REQUIRE(spawned.ok());
  }
  return names;
}

std::vector<std::string> add(Cluster& cluster, bool device, std::uint32_t count) {
  return device ? add_device_servers(cluster, count) : add_servers(cluster, count);
}

}  // namespace

TEST_CASE(
    "tables in device memory are pulled, pushed and saved, and checkpoints go from there to the host and "
    "back") {
  const TemporaryFolder folder;
  std::mt19937_64 random(7);
  for (const auto kind : {shards::TableKind::kEmbedding, shards::TableKind::kDense}) {
    const auto spec = exact_spec(kind);
    Model model(spec.dim);
    const auto checkpoint = folder.path() / ("checkpoint-" + std::to_string(static_cast<int>(kind)));
    for (const int life : {0, 1, 2}) {
      RealCluster cluster;
      const auto names = add(cluster, life != 1, life == 0 ? 2 : 1);
      Node& node = cluster.add("worker");
      for (const auto& name : names) {
        REQUIRE(node.wait_for_actor(name, kPatience).ok());
        if (life == 0) continue;
        const auto loaded = node.rpc_sync<std::uint64_t>(name, "restore", checkpoint.string());
        REQUIRE_MESSAGE(loaded.ok(), text_of(loaded));
      }
      const auto client = open_table(node, spec, names, static_cast<std::uint64_t>(life) + 1);
      check_equal(*client, model);
      train(*client, model, random, 30);
      check_equal(*client, model);
      save(node, spec, names, checkpoint);
    }
  }
}

TEST_CASE("rows of a table in device memory are pushed and pulled in one call, and in slices") {
  RealCluster cluster;
  const auto names = add_device_servers(cluster, 1);
  Node& node = cluster.add("worker");
  shards::TableSpec spec = exact_spec(shards::TableKind::kEmbedding);
  spec.dim = 64;
  const auto client = open_table(node, spec, names, 1);
  for (const std::size_t count : {100U, 40'000U}) {  // of which the second is 10 MB
    std::vector<std::uint64_t> keys(count);
    for (std::size_t i = 0; i < count; ++i) keys[i] = i * 7 + count;
    const std::vector<float> gradients(count * spec.dim, 4.0F);
    std::vector<float> rows(count * spec.dim);
    const auto both = client->push_pull(keys, gradients.data(), {}, keys, rows.data()).get();
    REQUIRE_MESSAGE(both.ok(), text_of(both));
    CHECK(rows == std::vector<float>(count * spec.dim, -1.0F));
    const auto pushed = client->push(keys, gradients.data()).get();
    REQUIRE_MESSAGE(pushed.ok(), text_of(pushed));
    const auto pulled = client->pull(keys, rows.data()).get();
    REQUIRE_MESSAGE(pulled.ok(), text_of(pulled));
    CHECK(rows == std::vector<float>(count * spec.dim, -2.0F));
  }
  CHECK(stats_of(node, "ps0").rows == 40'100);
}

TEST_CASE("an answer for which there is no pinned memory goes by ordinary memory, all of it") {
  RealCluster cluster;
  Node& server = cluster.add("server-0", "server");
  REQUIRE(server
              .spawn<ShardServer>("ps0", 0U, 1U, server, shards::builtin_optimizers(),
                                  device_stores(server.loop(), true))
              .ok());
  Node& node = cluster.add("worker");
  shards::TableSpec spec = exact_spec(shards::TableKind::kEmbedding);
  spec.dim = 64;
  spec.initializer = shards::Uniform{-1, 1};
  const auto client = open_table(node, spec, {"ps0"}, 1);
  std::vector<std::uint64_t> keys(40'000);  // 10 MB
  for (std::size_t i = 0; i < keys.size(); ++i) keys[i] = i;
  std::vector<float> rows(keys.size() * spec.dim), expected(rows.size());
  for (std::size_t i = 0; i < keys.size(); ++i)
    shards::initialize_row(spec, keys[i], expected.data() + i * spec.dim);
  const auto pulled = client->pull(keys, rows.data()).get();
  REQUIRE_MESSAGE(pulled.ok(), text_of(pulled));
  CHECK(rows == expected);
  // In one call, which is answered in slices.
  const auto answer = node.rpc_sync<PullReply>(
      "ps0", "pull", "table", Tensor::of<std::uint64_t>(std::span<const std::uint64_t>(keys)), PullHead{});
  REQUIRE_MESSAGE(answer.ok(), text_of(answer));
  const auto all = answer->rows.as<const float>();
  CHECK(std::vector<float>(all.begin(), all.end()) == expected);
}

TEST_CASE("a table whose optimizer has no step for devices is refused, by name") {
  RealCluster cluster;
  Node& server = cluster.add("server-0", "server");
  static constexpr shards::OptimizerParameter kRate[] = {{"learning_rate", 0.1F}};
  static constexpr shards::OptimizerDef kMine{
      .name = "mine", .parameters = kRate, .state = {}, .step = [](const shards::StepBatch&) {}};
  shards::OptimizerList known = shards::builtin_optimizers();
  REQUIRE(known.add(kMine).ok());
  REQUIRE(server.spawn<ShardServer>("ps0", 0U, 1U, server, known, device_stores(server.loop())).ok());
  Node& node = cluster.add("worker");
  REQUIRE(node.wait_for_actor("ps0", kPatience).ok());
  shards::TableSpec spec = exact_spec(shards::TableKind::kEmbedding);
  spec.optimizer = shards::Optimizer(kMine);
  const auto refused = node.rpc_sync<void>("ps0", "create_table", spec.to_json());
  CHECK(code_of(refused) == Code::kInvalidArgument);
  CHECK(text_of(refused).find("'mine'") != std::string::npos);
}
