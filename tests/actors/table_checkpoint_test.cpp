// Checkpoints of tables on running servers.
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "support/temporary_folder.hpp"
#include "tables.hpp"

using namespace troupe;
using namespace troupe::test;

namespace {

/// A table of so many rows of 64 with Adagrad on one server, every row pushed once.
std::vector<std::uint64_t> fill(TableClient& client, std::uint64_t count) {
  std::vector<std::uint64_t> keys(count);
  std::iota(keys.begin(), keys.end(), 0);
  const std::vector<float> gradients(4096 * client.spec().dim, 1.0F);
  for (std::size_t at = 0; at < keys.size(); at += 4096) {
    const auto some = std::span(keys).subspan(at, std::min<std::size_t>(4096, keys.size() - at));
    const auto pushed = client.push(some, gradients.data()).get();
    REQUIRE_MESSAGE(pushed.ok(), text_of(pushed));
  }
  return keys;
}

shards::TableSpec large_spec() {
  shards::TableSpec spec;
  spec.name = "large";
  spec.dim = 64;
  spec.optimizer = shards::Adagrad{};
  return spec;
}

std::vector<float> rows_of(TableClient& client, const std::vector<std::uint64_t>& keys) {
  std::vector<float> rows(keys.size() * client.spec().dim);
  const auto read = client.peek(keys, rows.data()).get();
  REQUIRE_MESSAGE(read.ok(), text_of(read));
  return rows;
}

}  // namespace

TEST_CASE("a checkpoint of three servers loads on two, and of two on three") {
  const TemporaryFolder folder;
  std::mt19937_64 random(7);
  for (const auto kind : {shards::TableKind::kEmbedding, shards::TableKind::kDense}) {
    const auto spec = exact_spec(kind);
    Model model(spec.dim);
    std::uint32_t servers = 3;
    for (int life = 0; life < 3; ++life, servers = 5 - servers) {
      RealCluster cluster;
      const auto names = add_servers(cluster, servers);
      Node& node = cluster.add("worker");
      const auto checkpoint = folder.path() / ("checkpoint-" + std::to_string(static_cast<int>(kind)));
      if (life > 0) {
        std::uint64_t rows = 0;
        for (const auto& name : names) {
          REQUIRE(node.wait_for_actor(name, kPatience).ok());
          const auto loaded = node.rpc_sync<std::uint64_t>(name, "restore", checkpoint.string());
          REQUIRE_MESSAGE(loaded.ok(), text_of(loaded));
          rows += *loaded;
        }
        CHECK(rows == (kind == shards::TableKind::kDense ? spec.rows : model.keys().size()));
      }
      const auto client = open_table(node, spec, names, static_cast<std::uint64_t>(life) + 1);
      check_equal(*client, model);
      train(*client, model, random, 20);
      save(node, spec, names, checkpoint);
    }
  }
  RealCluster cluster;
  add_servers(cluster, 1);
  const auto nowhere =
      cluster["server-0"].rpc_sync<std::uint64_t>("ps0", "restore", (folder.path() / "no").string());
  CHECK(code_of(nowhere) == Code::kNotFound);
}

TEST_CASE("a server answers while it saves, and what it saves is what was there when it began") {
  const TemporaryFolder folder;
  RealCluster cluster;
  const auto names = add_servers(cluster, 1);
  Node& node = cluster.add("worker");
  const auto client = open_table(node, large_spec(), names, 1);
  const auto keys = fill(*client, 100'000);  // 51 MB, fifty pages
  const auto before = rows_of(*client, keys);
  const std::string temporary = (folder.path() / "tmp").string();
  auto saved =
      node.rpc_async<std::vector<std::string>>("ps0", "save", temporary, std::vector<std::string>{"large"});
  int answered = 0;
  const std::vector<float> gradients(keys.size() * client->spec().dim / 100, 1.0F);
  while (!saved.ready()) {
    // The last rows first: those of the last pages change before they are copied.
    const std::size_t some = keys.size() / 100;
    const auto at = keys.size() - some * static_cast<std::size_t>(1 + answered % 100);
    const auto pushed = client->push(std::span(keys).subspan(at, some), gradients.data()).get();
    REQUIRE_MESSAGE(pushed.ok(), text_of(pushed));
    ++answered;
    if (answered == 1) {
      CHECK_FALSE(saved.ready());
      const auto second = node.rpc_sync<std::vector<std::string>>("ps0", "save", temporary + "2",
                                                                  std::vector<std::string>{"large"});
      CHECK(code_of(second) == Code::kFailedPrecondition);
      CHECK(code_of(node.rpc_sync<std::uint64_t>("ps0", "restore", temporary)) == Code::kFailedPrecondition);
    }
  }
  CHECK(answered > 1);
  const auto files = saved.get();
  REQUIRE_MESSAGE(files.ok(), text_of(files));
  CHECK(rows_of(*client, keys) != before);
  shards::Manifest manifest;
  manifest.tables.push_back(client->spec());
  for (const auto& text : *files) manifest.files.push_back(shards::file_entry_from_json(text).value());
  REQUIRE(shards::commit(temporary, folder.path() / "a", manifest).ok());
  const auto loaded = node.rpc_sync<std::uint64_t>("ps0", "restore", (folder.path() / "a").string());
  REQUIRE_MESSAGE(loaded.ok(), text_of(loaded));
  CHECK(*loaded == keys.size());
  CHECK(rows_of(*client, keys) == before);
}

TEST_CASE("a server answers while it restores") {
  const TemporaryFolder folder;
  RealCluster cluster;
  const auto names = add_servers(cluster, 1);
  Node& node = cluster.add("worker");
  const auto client = open_table(node, large_spec(), names, 1);
  const auto keys = fill(*client, 100'000);
  save(node, client->spec(), names, folder.path() / "a");
  auto restored = node.rpc_async<std::uint64_t>("ps0", "restore", (folder.path() / "a").string());
  CHECK(rows_of(*client, {1, 2, 3}).size() == 3 * 64);
  CHECK_FALSE(restored.ready());
  CHECK(restored.get().value() == keys.size());
}

TEST_CASE("a large dense table is made while others are answered, once for all who want it") {
  RealCluster cluster;
  const auto names = add_servers(cluster, 1);
  Node& node = cluster.add("worker");
  shards::TableSpec spec = large_spec();
  spec.kind = shards::TableKind::kDense;
  spec.rows = 200'000;
  spec.initializer = shards::Normal{0, 1};
  auto first = node.rpc_async<void>("ps0", "create_table", spec.to_json());
  auto second = node.rpc_async<void>("ps0", "create_table", spec.to_json());
  shards::TableSpec other = spec;
  other.seed = 8;
  CHECK(code_of(node.rpc_sync<void>("ps0", "create_table", other.to_json())) == Code::kFailedPrecondition);
  CHECK_FALSE(first.ready());
  CHECK(first.get().ok());
  CHECK(second.get().ok());
  const auto client = open_table(node, spec, names, 1);
  std::vector<float> expected(spec.dim);
  shards::initialize_row(spec, 199'999, expected.data());
  CHECK(rows_of(*client, {199'999}) == expected);
}

TEST_CASE("a save that fails says why, leaves no file, and the next one works") {
  const TemporaryFolder folder;
  RealCluster cluster;
  const auto names = add_servers(cluster, 1);
  Node& node = cluster.add("worker");
  const auto client = open_table(node, large_spec(), names, 1);
  fill(*client, 5'000);
  const std::string file = (folder.path() / "file").string();
  std::FILE* made = std::fopen(file.c_str(), "w");
  REQUIRE(made != nullptr);
  std::fclose(made);
  const auto failed = node.rpc_sync<std::vector<std::string>>("ps0", "save", file + "/below",
                                                              std::vector<std::string>{"large"});
  CHECK_FALSE(failed.ok());
  CHECK(contains(text_of(failed), file));
  CHECK(contains(text_of(failed), "saving table 'large'"));
  const auto unknown = node.rpc_sync<std::vector<std::string>>("ps0", "save", file + "2",
                                                               std::vector<std::string>{"large", "lrage"});
  CHECK(code_of(unknown) == Code::kNotFound);
  save(node, client->spec(), names, folder.path() / "a");
}

namespace {

/// A server on which two tables of bounded staleness are there, "a" and "b", and a checkpoint of "a". Workers
/// 1 and 2, ahead, wait in "a" for worker 3, of the node "slow".
struct HeldBack {
  HeldBack() {
    const std::uint64_t slow = cluster.add("slow").id();
    auto spec = exact_spec(shards::TableKind::kEmbedding);
    spec.consistency = shards::BoundedStaleness{0};
    for (const std::string name : {"b", "a"}) {
      spec.name = name;
      const auto opened = node.rpc_sync<TableEntry>("ps0", "open_table", spec.to_json(), names);
      REQUIRE_MESSAGE(opened.ok(), text_of(opened));
      for (std::uint64_t worker = 1; worker <= 3; ++worker)
        REQUIRE(
            node.rpc_sync<std::uint64_t>("ps0", "join_worker", name, worker, worker == 3 ? slow : node.id())
                .ok());
    }
    save(node, spec, {"ps0"}, checkpoint());
    first = pull(1), second = pull(2);
  }
  rpc::Future<PullReply> pull(std::uint64_t worker) {
    const Tensor keys = Tensor::zeros(DType::kUInt64, {1});
    return node.rpc_async<PullReply>("ps0", "pull", std::string("a"), keys, PullHead{0, {worker, 1}});
  }
  std::string checkpoint() const { return (folder.path() / "a").string(); }

  const TemporaryFolder folder;
  RealCluster cluster;
  const std::vector<std::string> names = add_servers(cluster, 1);
  Node& node = cluster["server-0"];
  rpc::Future<PullReply> first, second;
};

}  // namespace

TEST_CASE("a restore that ends while a pull which the bound held back is answered") {
  HeldBack held;
  rpc::Future<std::uint64_t> restoring;
  Result<std::uint64_t> restored = Error{Code::kUnknown, "not yet"};
  Code pulled = Code::kUnknown;
  std::uint64_t answered = 0;
  Signal done;
  held.first.then([&](const Result<PullReply>& answer) {
    pulled = code_of(answer);
    if (answer) answered = answer->generation;
    restored = restoring.get();
    done.set();
  });
  rpc::Future<void> advanced;
  {
    // The loop hears of what the disk has read while it waits in the continuation, not before.
    const Loop::Turn turn(held.node.loop());
    restoring = held.node.rpc_async<std::uint64_t>("ps0", "restore", held.checkpoint());
    advanced = held.node.rpc_async<void>("ps0", "advance", std::string("a"), WorkerClock{3, 1});
  }
  CHECK(advanced.get().ok());
  REQUIRE(held.cluster.wait(done));
  CHECK(pulled == Code::kOk);
  CHECK_MESSAGE(restored.ok(), text_of(restored));
  // Who waits at a table that is restored waits on, and is given rows of what is there now.
  const auto second = held.second.get();
  REQUIRE_MESSAGE(second.ok(), text_of(second));
  CHECK(second->generation > answered);
  const auto there = held.node.rpc_sync<std::vector<std::string>>("ps0", "table_specs");
  REQUIRE(there.ok());
  CHECK(there->size() == 1);
}

TEST_CASE("a restore within what the leaving of a worker's node lets go on") {
  HeldBack held;
  Result<std::uint64_t> restored = Error{Code::kUnknown, "not yet"};
  Signal done;
  held.first.then([&](const Result<PullReply>&) {
    restored = held.node.rpc_sync<std::uint64_t>("ps0", "restore", held.checkpoint());
    done.set();
  });
  held.cluster.end("slow");  // the worker is in both tables
  REQUIRE(held.cluster.wait(done));
  CHECK_MESSAGE(restored.ok(), text_of(restored));
  CHECK(held.second.get().ok());
  CHECK(held.node.rpc_sync<std::vector<std::string>>("ps0", "table_specs").ok());
}
