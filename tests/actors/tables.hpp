#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include <troupe/actors/shard_server.hpp>
#include <troupe/actors/table_client.hpp>
#include <troupe/shards/snapshot.hpp>

#include "cluster.hpp"

/// Shard servers and tables for tests.
namespace troupe::test {

/// `count` shard servers named ps0, ps1 ..., each on a node of its own; the first is the cluster's first.
inline std::vector<std::string> add_servers(Cluster& cluster, std::uint32_t count) {
  std::vector<std::string> names;
  for (std::uint32_t i = 0; i < count; ++i) {
    names.push_back("ps" + std::to_string(i));
    Node& node = cluster.add("server-" + std::to_string(i), "server");
    REQUIRE(node.spawn<ShardServer>(names.back(), i, count, node).ok());
  }
  return names;
}

inline std::unique_ptr<TableClient> open_table(Node& node, const shards::TableSpec& spec,
                                               const std::vector<std::string>& servers, std::uint64_t worker,
                                               Duration timeout = kPatience) {
  for (const auto& server : servers) REQUIRE(node.wait_for_actor(server, kPatience).ok());
  auto client = TableClient::open(node, spec, servers, {.timeout = timeout, .worker = worker});
  REQUIRE_MESSAGE(client.ok(), text_of(client));
  return std::move(*client);
}

/// Of a server with one table.
inline TableStats stats_of(Node& node, const std::string& server) {
  const auto stats = node.rpc_sync<std::vector<TableStats>>(server, "stats");
  REQUIRE_MESSAGE(stats.ok(), text_of(stats));
  REQUIRE(stats->size() == 1);
  return (*stats)[0];
}

/// SGD with a rate of 1/4 on whole numbers: every sum and step is exact in float32, in any order.
inline shards::TableSpec exact_spec(shards::TableKind kind) {
  shards::TableSpec spec;
  spec.name = "table";
  spec.kind = kind;
  spec.dim = 5;
  spec.rows = kind == shards::TableKind::kDense ? 100 : 0;
  spec.slots = 64;
  spec.optimizer = shards::Sgd{0.25F, 0};
  return spec;
}

/// What such a table holds.
class Model {
 public:
  explicit Model(std::uint64_t dim) : dim_(dim) {}
  void push(const std::vector<std::uint64_t>& keys, const std::vector<float>& gradients) {
    for (std::size_t i = 0; i < keys.size(); ++i) {
      auto& row = rows_[keys[i]];
      row.resize(dim_);
      for (std::size_t j = 0; j < dim_; ++j) row[j] -= 0.25F * gradients[i * dim_ + j];
    }
  }
  std::vector<float> pull(const std::vector<std::uint64_t>& keys) {
    std::vector<float> out;
    for (const auto key : keys) {
      auto& row = rows_[key];
      row.resize(dim_);
      out.insert(out.end(), row.begin(), row.end());
    }
    return out;
  }
  std::vector<std::uint64_t> keys() const {
    std::vector<std::uint64_t> all;
    for (const auto& [key, row] : rows_) all.push_back(key);
    return all;
  }

 private:
  std::uint64_t dim_;
  std::map<std::uint64_t, std::vector<float>> rows_;
};

/// Random pushes, with duplicate keys, by `client` and the model alike; every pull must agree.
inline void train(TableClient& client, Model& model, std::mt19937_64& random, int rounds) {
  const std::uint64_t dim = client.spec().dim;
  const std::uint64_t range = client.spec().rows ? client.spec().rows : 1000;
  for (int round = 0; round < rounds; ++round) {
    std::vector<std::uint64_t> keys(std::uniform_int_distribution<std::size_t>(0, 60)(random));
    for (auto& key : keys) key = std::uniform_int_distribution<std::uint64_t>(0, range - 1)(random) / 2;
    std::vector<float> rows(keys.size() * dim);
    auto pulled = client.pull(keys, rows.data()).get();
    REQUIRE_MESSAGE(pulled.ok(), text_of(pulled));
    REQUIRE(rows == model.pull(keys));
    std::vector<float> gradients(keys.size() * dim);
    for (auto& gradient : gradients)
      gradient = static_cast<float>(std::uniform_int_distribution<int>(-8, 8)(random));
    auto pushed = client.push(keys, gradients.data(), *pulled).get();
    REQUIRE_MESSAGE(pushed.ok(), text_of(pushed));
    CHECK(pushed->applied);
    model.push(keys, gradients);
  }
}

inline void check_equal(TableClient& client, Model& model) {
  const auto keys = model.keys();
  std::vector<float> rows(keys.size() * client.spec().dim);
  const auto read = client.peek(keys, rows.data()).get();
  REQUIRE_MESSAGE(read.ok(), text_of(read));
  CHECK(rows == model.pull(keys));
}

/// A checkpoint of the table on `servers`, as a job makes it.
inline void save(Node& node, const shards::TableSpec& spec, const std::vector<std::string>& servers,
                 const std::filesystem::path& to) {
  shards::Manifest manifest;
  manifest.tables.push_back(spec);
  const std::filesystem::path temporary = to.string() + ".tmp";
  for (const auto& server : servers) {
    const auto files = node.rpc_sync<std::vector<std::string>>(server, "save", temporary.string(),
                                                               std::vector<std::string>{spec.name});
    REQUIRE_MESSAGE(files.ok(), text_of(files));
    for (const auto& text : *files) manifest.files.push_back(shards::file_entry_from_json(text).value());
  }
  const auto committed = shards::commit(temporary, to, manifest);
  REQUIRE_MESSAGE(committed.ok(), text_of(committed));
}

}  // namespace troupe::test
