// Tables over several shard servers: the same as a plain model in one process, bounded staleness that
// bounds, workers that die.
#include <algorithm>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <vector>

#include <troupe/runtime/timer.hpp>

#include "tables.hpp"

using namespace troupe;
using namespace troupe::test;

TEST_CASE_TEMPLATE("a table over two and three servers is the same as a plain model", Kind, TROUPE_CLUSTERS) {
  std::mt19937_64 random(20240607);
  for (const std::uint32_t servers : {2, 3})
    for (const auto kind : {shards::TableKind::kEmbedding, shards::TableKind::kDense}) {
      CAPTURE(servers);
      Kind cluster;
      const auto names = add_servers(cluster, servers);
      const auto client = open_table(cluster.add("worker"), exact_spec(kind), names, 1);
      Model model(client->spec().dim);
      train(*client, model, random, 60);
      check_equal(*client, model);
    }
}

TEST_CASE("two workers' pushes add up, and each server counts its own") {
  RealCluster cluster;
  const auto names = add_servers(cluster, 2);
  const auto spec = exact_spec(shards::TableKind::kEmbedding);
  Node& first = cluster.add("first");
  Node& second = cluster.add("second");
  const auto a = open_table(first, spec, names, 1);
  const auto b = open_table(second, spec, names, 2);
  std::vector<std::uint64_t> keys(40);
  for (std::size_t i = 0; i < keys.size(); ++i) keys[i] = i;
  const std::vector<float> ones(keys.size() * spec.dim, 1);
  std::vector<rpc::Future<PushSummary>> open;
  for (int i = 0; i < 50; ++i) {
    open.push_back(a->push(keys, ones.data()));
    open.push_back(b->push(keys, ones.data()));
  }
  for (auto& push : open) REQUIRE(push.get().ok());
  std::vector<float> rows(keys.size() * spec.dim);
  REQUIRE(a->pull(keys, rows.data()).get().ok());
  CHECK(std::all_of(rows.begin(), rows.end(), [](float value) { return value == -25; }));
  std::uint64_t keys_pushed = 0;
  for (const auto& name : names) {
    const auto stats = first.rpc_sync<std::vector<TableStats>>(name, "stats");
    REQUIRE_MESSAGE(stats.ok(), text_of(stats));
    REQUIRE(stats->size() == 1);
    CHECK((*stats)[0].pushes == 100);
    keys_pushed += (*stats)[0].pushed_keys;
  }
  CHECK(keys_pushed == 100 * keys.size());
}

TEST_CASE_TEMPLATE("tables refuse what they cannot do, by name", Kind, TROUPE_CLUSTERS) {
  Kind cluster;
  const auto names = add_servers(cluster, 2);
  Node& node = cluster.add("worker");
  auto spec = exact_spec(shards::TableKind::kEmbedding);
  const auto client = open_table(node, spec, names, 1);
  spec.dim = 6;
  const auto other = TableClient::open(node, spec, names);
  CHECK(code_of(other) == Code::kFailedPrecondition);
  CHECK(contains(text_of(other), "exists with another specification"));
  spec.dim = 5;
  CHECK(code_of(TableClient::open(node, spec, {})) == Code::kInvalidArgument);
  const auto elsewhere = TableClient::open(node, spec, {"ps0", "ps7"});
  CHECK(code_of(elsewhere) == Code::kFailedPrecondition);
  CHECK(contains(text_of(elsewhere), "exists on other servers: ps0, ps1"));
  spec.name = "second";
  CHECK(code_of(TableClient::open(node, spec, {"ps0", "ps7"})) == Code::kNotFound);
  const auto missing =
      node.rpc_sync<PullReply>("ps0", "peek", "tabel", Tensor::of<std::uint64_t>({1}), PullHead{});
  CHECK(code_of(missing) == Code::kNotFound);
  CHECK(contains(text_of(missing), "there are: second, table"));
  CHECK(code_of(node.rpc_sync<PullReply>("ps0", "peek", "table", Tensor::of<float>({1}), PullHead{})) ==
        Code::kInvalidArgument);
  const auto no_worker =
      node.rpc_sync<PullReply>("ps0", "pull", "nothing", Tensor::of<std::uint64_t>({1}), PullHead{0, {1, 0}});
  CHECK(code_of(no_worker) == Code::kNotFound);
}

TEST_CASE_TEMPLATE("a dead server ends pulls and pushes with an error that names it", Kind, TROUPE_CLUSTERS) {
  Kind cluster;
  const auto names = add_servers(cluster, 2);
  const auto client = open_table(cluster.add("worker"), exact_spec(shards::TableKind::kEmbedding), names, 1,
                                 std::chrono::seconds(2));  // so long the push is repeated
  cluster.end("server-1");
  std::vector<std::uint64_t> keys(20);
  for (std::size_t i = 0; i < keys.size(); ++i) keys[i] = i;
  std::vector<float> rows(keys.size() * 5);
  const auto pulled = client->pull(keys, rows.data()).get();
  CHECK(code_of(pulled) == Code::kUnavailable);
  CHECK(contains(text_of(pulled), "ps1"));
  CHECK(code_of(client->push(keys, rows.data()).get()) == Code::kUnavailable);
}

// ---- Bounded staleness --------------------------------------------------------------------------

namespace {

/// A worker that pulls, computes for a random time and pushes, `steps` times, in virtual time.
struct SimWorker final : TimerNode {
  SimWorker(Node& own_node, std::unique_ptr<TableClient> own_client, std::uint64_t seed, Duration own_speed,
            int own_steps)
      : node(own_node),
        client(std::move(own_client)),
        random(seed),
        speed(own_speed),
        steps(own_steps),
        rows(keys.size() * 5) {}

  void pull() {
    client->set_clock(clock);
    client->pull(keys, rows.data()).then([this](Result<PulledVersions> pulled) {
      if (!pulled) {
        failed = pulled.error();
        return;
      }
      versions = *pulled;
      if (went_on) went_on();
      const auto most = static_cast<std::uint64_t>(2 * speed.count());
      node.loop().schedule_after(*this,
                                 Duration(std::uniform_int_distribution<std::uint64_t>(1, most)(random)));
    });
  }
  void on_timer() override {
    const std::vector<float> gradients(rows.size(), 1);
    client->push(keys, gradients.data(), versions).then([this](const Result<PushSummary>& pushed) {
      if (!pushed) {
        failed = pushed.error();
        return;
      }
      if (++clock < static_cast<std::uint64_t>(steps)) return pull();
      // The last one tells that it is done, so that it holds nobody back.
      finished = true;
    });
  }

  Node& node;
  std::unique_ptr<TableClient> client;
  std::mt19937_64 random;
  Duration speed;
  int steps;
  std::vector<std::uint64_t> keys{1, 2, 3, 4, 5, 6, 7, 8, 9, 10};
  std::vector<float> rows;
  PulledVersions versions;
  std::uint64_t clock = 0;  // batches finished
  bool finished = false;
  std::optional<Error> failed;
  std::function<void()> went_on;
};

struct Race {
  Race(std::uint64_t seed, std::uint64_t own_bound, std::uint32_t servers, std::size_t count, int steps)
      : bound(own_bound) {
    std::mt19937_64 random(seed);
    names = add_servers(cluster, servers);
    auto spec = exact_spec(shards::TableKind::kEmbedding);
    spec.consistency = shards::BoundedStaleness{bound};
    for (std::size_t i = 0; i < count; ++i) {
      Node& node = cluster.add("worker-" + std::to_string(i));
      const Duration speed = std::chrono::microseconds(std::uniform_int_distribution<int>(20, 5000)(random));
      workers.push_back(std::make_unique<SimWorker>(
          node, open_table(node, spec, names, i + 1, std::chrono::hours(1)), random(), speed, steps));
      workers.back()->went_on = [this, worker = workers.back().get()] { check(*worker); };
    }
  }
  ~Race() {
    for (auto& worker : workers) {
      Loop::Turn turn(worker->node.loop());
      worker->node.loop().cancel(*worker);
    }
  }
  Race(const Race&) = delete;
  Race& operator=(const Race&) = delete;

  /// A worker goes on: nobody who takes part may be further behind than the bound.
  void check(const SimWorker& worker) {
    for (const auto& other : workers)
      if (other && !other->finished && !dead.contains(other->node.name())) {
        const std::uint64_t ahead = worker.clock > other->clock ? worker.clock - other->clock : 0;
        most_ahead = std::max(most_ahead, ahead);
      }
  }
  void start() {
    for (auto& worker : workers) {
      Loop::Turn turn(worker->node.loop());
      worker->pull();
    }
  }
  /// Until all living workers are done; those that are done leave the table.
  bool finish() {
    return cluster.world.run_until(
        [&] {
          bool all = true;
          for (auto& worker : workers) {
            if (dead.contains(worker->node.name())) continue;
            if (worker->finished && leaving.insert(worker->node.name()).second) worker->client->leave();
            all = all && (worker->finished || worker->failed);
          }
          return all;
        },
        cluster.world.clock().now() + std::chrono::hours(1));
  }

  SimCluster cluster;
  std::uint64_t bound;
  std::vector<std::string> names;
  std::vector<std::unique_ptr<SimWorker>> workers;
  std::set<std::string> dead;
  std::set<std::string> leaving;
  std::uint64_t most_ahead = 0;
};

}  // namespace

TEST_CASE("bounded staleness bounds, at any speeds, and is used up") {
  std::uint64_t reached = 0;
  for (std::uint64_t seed = 1; seed <= 30; ++seed) {
    CAPTURE(seed);
    const std::uint64_t bound = seed % 4;
    Race race(seed, bound, 1 + seed % 3, 4, 25);
    race.start();
    REQUIRE(race.finish());
    for (const auto& worker : race.workers) {
      CHECK_MESSAGE(!worker->failed, worker->failed->to_string());
      CHECK(worker->clock == 25);
    }
    CHECK(race.most_ahead <= bound);
    reached += race.most_ahead == bound;
    // Every push of everybody was applied once: 4 workers, 25 steps of 1/4.
    std::vector<float> rows(race.workers[0]->rows.size());
    REQUIRE(race.workers[0]->client->peek(race.workers[0]->keys, rows.data()).get().ok());
    CHECK(std::all_of(rows.begin(), rows.end(), [](float value) { return value == -25; }));
  }
  CHECK(reached >= 25);
}

TEST_CASE("a worker that dies, or leaves, frees those who wait for it") {
  for (std::uint64_t seed = 1; seed <= 10; ++seed) {
    CAPTURE(seed);
    Race race(seed, 1, 2, 3, 30);
    SimWorker& slow = *race.workers[0];
    slow.speed = std::chrono::minutes(10);  // it would hold up the others for hours
    race.start();
    race.cluster.world.run_for(std::chrono::seconds(1));
    CHECK(race.workers[1]->clock == slow.clock + 2);  // two batches done, and no third begun
    const TimePoint start = race.cluster.world.clock().now();
    race.dead.insert(slow.node.name());
    if (seed % 2 == 0) {
      race.cluster.world.kill(slow.node.name());
    } else {
      slow.client->leave();
    }
    REQUIRE(race.finish());
    for (std::size_t i = 1; i < race.workers.size(); ++i) {
      CHECK_MESSAGE(!race.workers[i]->failed, race.workers[i]->failed->to_string());
      CHECK(race.workers[i]->clock == 30);
    }
    CHECK(race.most_ahead <= 1);
    CHECK(race.cluster.since(start) < std::chrono::seconds(10));
  }
}

TEST_CASE("who rejoins a table of bounded staleness begins where the slowest is") {
  SimCluster cluster;
  const auto names = add_servers(cluster, 2);
  auto spec = exact_spec(shards::TableKind::kEmbedding);
  spec.consistency = shards::BoundedStaleness{0};
  Node& node = cluster.add("worker");
  const auto a = open_table(node, spec, names, 1);
  const auto b = open_table(node, spec, names, 2);
  std::vector<float> row(5);
  const std::vector<std::uint64_t> keys{1};
  a->leave();
  for (std::uint64_t clock = 0; clock < 10; ++clock) {
    b->set_clock(clock);
    REQUIRE(b->pull(keys, row.data()).get().ok());
  }
  REQUIRE(a->join().ok());
  CHECK(a->clock() == 9);
  REQUIRE(a->pull(keys, row.data()).get().ok());
  // Lock step: the one ahead waits for the other.
  b->set_clock(10);
  auto waiting = b->pull(keys, row.data());
  cluster.world.run_for(std::chrono::seconds(1));
  CHECK_FALSE(waiting.ready());
  a->set_clock(10);
  std::vector<float> other(5);
  REQUIRE(a->pull(keys, other.data()).get().ok());
  CHECK(waiting.get().ok());
}

TEST_CASE("tables joined together have one clock, so that their workers never wait for each other") {
  SimCluster cluster;
  const auto names = add_servers(cluster, 2);
  auto spec = exact_spec(shards::TableKind::kEmbedding);
  spec.consistency = shards::BoundedStaleness{1};
  auto other_spec = spec;
  other_spec.name = "other";
  Node& node = cluster.add("worker");
  const std::vector<std::uint64_t> keys{1};
  std::vector<float> row(5), second(5);
  const auto a = open_table(node, spec, names, 1), a_other = open_table(node, other_spec, names, 1);
  const auto b = open_table(node, spec, names, 2), b_other = open_table(node, other_spec, names, 2);
  // Worker 2 rests; meanwhile worker 1 has come far in one table, and in the other one, too.
  b->leave(), b_other->leave();
  a->set_clock(5), a_other->set_clock(9);
  REQUIRE(a->pull(keys, row.data()).get().ok());
  REQUIRE(a_other->pull(keys, row.data()).get().ok());
  REQUIRE(TableClient::join_together({b.get(), b_other.get()}).ok());
  CHECK(b->clock() == 9);
  CHECK(b_other->clock() == 9);
  // The gates have heard: worker 1, at 9 in both, need not wait for a pull of worker 2's.
  REQUIRE(TableClient::join_together({a.get(), a_other.get()}).ok());
  CHECK(a->clock() == 9);
  REQUIRE(a->pull(keys, row.data()).get().ok());
  auto pulled = b->pull(keys, row.data()), pulled_other = b_other->pull(keys, second.data());
  CHECK(pulled.get().ok());
  CHECK(pulled_other.get().ok());
}
