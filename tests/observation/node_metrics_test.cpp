// What nodes say of themselves, and of each other.
#include <future>
#include <map>

#include "job.hpp"

using namespace troupe;
using namespace troupe::test;
using namespace std::chrono_literals;
using rpc::CallSide;

TEST_CASE_TEMPLATE("node metrics: both ends count a call by its function", Kind, TROUPE_CLUSTERS) {
  Kind cluster;
  Node& callee = cluster.add("callee");
  Node& caller = cluster.add("caller");
  REQUIRE(callee.template spawn<Calculator>("calculator").ok());
  REQUIRE(caller.wait_for_actor("calculator", kPatience).ok());
  for (int i = 0; i < 3; ++i)
    REQUIRE(caller.template rpc_sync<std::int64_t>("calculator", "plus", 1, 2).ok());
  REQUIRE(!caller.template rpc_sync<std::int64_t>("calculator", "refuse", std::string("no")).ok());
  const std::vector<std::pair<Node*, CallSide>> ends{{&caller, CallSide::kClient},
                                                     {&callee, CallSide::kServer}};
  for (const auto& end : ends) {
    Node* const node = end.first;
    const CallSide side = end.second;
    CAPTURE(node->name());
    const NodeMetrics metrics = node->metrics().snapshot();
    CHECK(metrics.node == node->name());
    const auto plus = function_of(metrics, side, "plus");
    CHECK(plus.calls == 3);
    CHECK(plus.ended == std::vector<std::uint64_t>{3});
    CHECK(plus.in_flight == 0);
    CHECK(plus.bytes_sent > 3 * 16);
    CHECK(plus.bytes_received > 3 * 16);
    const auto refuse = function_of(metrics, side, "refuse");
    CHECK(refuse.errors() == 1);
    REQUIRE(refuse.ended.size() == 10);
    CHECK(refuse.ended[9] == 1);  // FAILED_PRECONDITION
  }
  const auto sent = function_of(caller.metrics().snapshot(), CallSide::kClient, "plus");
  const auto came = function_of(callee.metrics().snapshot(), CallSide::kServer, "plus");
  CHECK(sent.bytes_sent == came.bytes_received);
  CHECK(sent.bytes_received == came.bytes_sent);
}

TEST_CASE("node metrics: calls on the same node are counted on both sides") {
  RealCluster cluster;
  Node& node = cluster.add("node");
  REQUIRE(node.spawn<Calculator>("calculator").ok());
  for (int i = 0; i < 4; ++i) REQUIRE(node.rpc_sync<std::int64_t>("calculator", "count").ok());
  REQUIRE(!node.rpc_sync<std::int64_t>("calculator", "refuse", std::string("no")).ok());
  const NodeMetrics metrics = node.metrics().snapshot();
  for (const CallSide side : {CallSide::kClient, CallSide::kServer}) {
    CHECK(function_of(metrics, side, "count").ended == std::vector<std::uint64_t>{4});
    CHECK(function_of(metrics, side, "refuse").errors() == 1);
  }
}

TEST_CASE_TEMPLATE("node metrics: a call that waits for its answer is in flight at both ends", Kind,
                   TROUPE_CLUSTERS) {
  Kind cluster;
  Node& callee = cluster.add("callee");
  Node& caller = cluster.add("caller");
  REQUIRE(callee.template spawn<Holder>("holder", callee).ok());
  REQUIRE(caller.wait_for_actor("holder", kPatience).ok());
  auto held = caller.template rpc_async<std::int64_t>("holder", "hold");
  REQUIRE(caller.template rpc_sync<std::int64_t>("holder", "held").value() == 1);
  CHECK(function_of(caller.metrics().snapshot(), CallSide::kClient, "hold").in_flight == 1);
  CHECK(function_of(callee.metrics().snapshot(), CallSide::kServer, "hold").in_flight == 1);
  REQUIRE(caller.template rpc_sync<void>("holder", "release", std::int64_t{7}).ok());
  CHECK(held.get().value() == 7);
  CHECK(function_of(caller.metrics().snapshot(), CallSide::kClient, "hold").in_flight == 0);
  CHECK(function_of(callee.metrics().snapshot(), CallSide::kServer, "hold").in_flight == 0);
}

TEST_CASE("node metrics: attempts beyond the first are counted as retries, the call once") {
  SimCluster cluster;
  cluster.add("first");
  Node& caller = cluster.add("caller");
  Node& callee = cluster.add("callee");
  REQUIRE(callee.spawn<Calculator>("calculator").ok());
  REQUIRE(caller.wait_for_actor("calculator", kPatience).ok());
  cluster.end("callee");
  const auto answer = caller.rpc_sync_with<std::int64_t>(
      {.timeout = 10s, .retry = {.max_attempts = 3, .first_backoff = 1ms}}, "calculator", "count");
  CHECK(code_of(answer) == Code::kUnavailable);
  const auto count = function_of(caller.metrics().snapshot(), CallSide::kClient, "count");
  CHECK(count.calls == 1);
  CHECK(count.retries == 2);
  CHECK(count.errors() == 1);
}

TEST_CASE("node metrics: a one-way call is counted at both ends") {
  RealCluster cluster;
  Node& callee = cluster.add("callee");
  Node& caller = cluster.add("caller");
  REQUIRE(callee.spawn<Calculator>("calculator").ok());
  REQUIRE(caller.wait_for_actor("calculator", kPatience).ok());
  REQUIRE(caller.send("calculator", "nothing").ok());
  REQUIRE(caller.rpc_sync<std::int64_t>("calculator", "count").ok());  // comes after it
  CHECK(function_of(caller.metrics().snapshot(), CallSide::kClient, "nothing").calls == 1);
  CHECK(function_of(callee.metrics().snapshot(), CallSide::kServer, "nothing").ended ==
        std::vector<std::uint64_t>{1});
}

TEST_CASE("node metrics: any node can be asked for another's, with its tables") {
  const SmallJob job;
  const auto answer = job.worker->metrics().of("server-0", kPatience);
  REQUIRE_MESSAGE(answer.ok(), text_of(answer));
  CHECK(answer->node == "server-0");
  CHECK(answer->role == "server");
  CHECK(answer->age_ns > 0);
  REQUIRE(answer->tables.size() == 1);
  CHECK(answer->tables[0].table == "words");
  CHECK(answer->tables[0].pulls == 1);
  CHECK(answer->tables[0].pushes == 2);
  CHECK(answer->tables[0].pushed_keys == 4);
  CHECK(function_of(*answer, CallSide::kServer, "push").calls == 2);
  CHECK(function_of(*answer, CallSide::kServer, "push").durations.size() > 0);
  CHECK(code_of(job.worker->metrics().of("nobody", kPatience)) == Code::kNotFound);
  CHECK(job.worker->metrics().of("worker-0", kPatience).value().node == "worker-0");
}

TEST_CASE("node metrics: a table says of each caller how long its pulls waited at the staleness bound") {
  SimCluster cluster;
  Node& server = cluster.add("server");
  REQUIRE(server.spawn<ShardServer>("ps0", 0U, 1U, server).ok());
  shards::TableSpec spec;
  spec.name = "words";
  spec.kind = shards::TableKind::kEmbedding;
  spec.dim = 4;
  spec.consistency = shards::BoundedStaleness{0};
  std::map<std::string, std::unique_ptr<TableClient>> tables;
  for (const char* name : {"slow", "fast"}) {
    Node& node = cluster.add(name);
    REQUIRE(node.wait_for_actor("ps0", kPatience).ok());
    auto opened = TableClient::open(node, spec, {"ps0"});
    REQUIRE_MESSAGE(opened.ok(), text_of(opened));
    tables[name] = std::move(*opened);
  }
  std::vector<float> row(4), other(4);
  const std::vector<std::uint64_t> keys{1};
  tables["fast"]->set_clock(1);
  auto waiting = tables["fast"]->pull(keys, other.data());
  cluster.world.run_for(3s);
  tables["slow"]->set_clock(1);
  REQUIRE(tables["slow"]->pull(keys, row.data()).get().ok());
  REQUIRE(waiting.get().ok());
  const NodeMetrics metrics = server.metrics().snapshot();
  REQUIRE(metrics.tables.size() == 1);
  const auto& callers = metrics.tables[0].callers;  // by name
  REQUIRE(callers.size() == 2);
  CHECK(callers[0].node == "fast");
  CHECK(callers[0].bound_ns >= 2'900'000'000);
  CHECK(callers[0].bound_ns == metrics.tables[0].deferred_ns);
  CHECK(callers[1].node == "slow");
  CHECK(callers[1].bound_ns == 0);
  CHECK(function_of(metrics, CallSide::kServer, "pull").duration_ns >= 2'900'000'000);
}

TEST_CASE("node metrics: a node whose loop is held gives no snapshot, after the time that it was given") {
  RealCluster cluster;
  Node& node = cluster.add("node");
  std::promise<void> held, free;
  node.loop().post([&] {
    held.set_value();
    free.get_future().wait();
  });
  REQUIRE(held.get_future().wait_for(kPatience) == std::future_status::ready);
  CHECK(code_of(node.metrics().snapshot_within(50ms)) == Code::kDeadlineExceeded);
  free.set_value();
  CHECK(node.metrics().snapshot_within(kPatience).ok());
}

TEST_CASE("node metrics: without them nothing is counted, and the node works") {
  RealCluster cluster;
  auto node = cluster.start({.name = "node", .metrics = false});
  REQUIRE(node.ok());
  REQUIRE((*node)->spawn<Calculator>("calculator").ok());
  REQUIRE((*node)->rpc_sync<std::int64_t>("calculator", "count").ok());
  const NodeMetrics metrics = (*node)->metrics().snapshot();
  CHECK(metrics.functions.empty());
  CHECK(metrics.loop.events > 0);
}
