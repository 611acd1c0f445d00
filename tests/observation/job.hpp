#pragma once

#include <memory>
#include <string>
#include <vector>

#include <troupe/actors/node_metrics.hpp>
#include <troupe/actors/shard_server.hpp>
#include <troupe/actors/table_client.hpp>

#include "actors/cluster.hpp"
#include "actors/states.hpp"

namespace troupe::test {

/// A shard server, which keeps the registry and a calculator, and a worker that has called both.
struct SmallJob {
  RealCluster cluster;
  std::unique_ptr<Node> server, worker;

  SmallJob() {
    server = start("server-0", "server");
    worker = start("worker-0", "worker");
    REQUIRE(server->spawn<ShardServer>("ps0", 0U, 1U, *server).ok());
    REQUIRE(server->spawn<Calculator>("calculator").ok());
    for (const char* actor : {"ps0", "calculator"}) REQUIRE(worker->wait_for_actor(actor, kPatience).ok());
    work();
  }
  ~SmallJob() { worker.reset(); }
  SmallJob(const SmallJob&) = delete;
  SmallJob& operator=(const SmallJob&) = delete;

  std::unique_ptr<Node> start(const std::string& name, const std::string& role) {
    auto node = cluster.start({.name = name, .role = role, .metrics_address = "127.0.0.1:0"});
    REQUIRE_MESSAGE(node.ok(), text_of(node));
    return std::move(*node);
  }
  /// Five calls with an answer, one with an error, one pull and two pushes of two keys.
  void work() {
    for (int i = 0; i < 5; ++i) REQUIRE(worker->rpc_sync<std::int64_t>("calculator", "plus", 1, 2).ok());
    REQUIRE(!worker->rpc_sync<std::int64_t>("calculator", "refuse", std::string("no")).ok());
    if (!table) open_table();
    const std::vector<std::uint64_t> keys{1, 2};
    std::vector<float> rows(keys.size() * table->spec().dim, 1.0F);
    const auto versions = table->pull(keys, rows.data()).get();
    REQUIRE_MESSAGE(versions.ok(), text_of(versions));
    REQUIRE(table->push(keys, rows.data(), *versions).get().ok());
    REQUIRE(table->push(keys, rows.data(), *versions).get().ok());
  }
  void open_table() {
    shards::TableSpec spec;
    spec.name = "words";
    spec.kind = shards::TableKind::kEmbedding;
    spec.dim = 4;
    spec.slots = 64;
    auto opened = TableClient::open(*worker, spec, {"ps0"});
    REQUIRE_MESSAGE(opened.ok(), text_of(opened));
    table = std::move(*opened);
  }

 private:
  std::unique_ptr<TableClient> table;  // goes before the worker
};

/// What a node says of one function; empty if it has not been called.
inline rpc::FunctionMetrics function_of(const NodeMetrics& metrics, rpc::CallSide side,
                                        const std::string& name) {
  for (const auto& each : metrics.functions)
    if (each.side == side && each.function == name) return each;
  return {};
}

}  // namespace troupe::test
