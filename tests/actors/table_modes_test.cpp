// Tables in rounds over several servers, restores under clients that go on, and routes that change.
#include <algorithm>
#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <vector>

#include <troupe/runtime/timer.hpp>

#include "support/temporary_folder.hpp"
#include "tables.hpp"

using namespace troupe;
using namespace troupe::test;

namespace {

shards::TableSpec spec_of(const shards::Consistency& mode) {
  auto spec = exact_spec(shards::TableKind::kEmbedding);
  spec.consistency = mode;
  return spec;
}

std::vector<std::uint64_t> range(std::uint64_t count) {
  std::vector<std::uint64_t> keys(count);
  for (std::uint64_t i = 0; i < count; ++i) keys[i] = i;
  return keys;
}

std::uint64_t pushes_of(Node& node, const std::string& server) {
  const auto stats = node.rpc_sync<std::vector<TableStats>>(server, "stats");
  REQUIRE_MESSAGE(stats.ok(), text_of(stats));
  return (*stats)[0].pushes;
}

bool all_are(const std::vector<float>& rows, float value) {
  return std::all_of(rows.begin(), rows.end(), [value](float each) { return each == value; });
}

/// Pulls, computes for a random time and pushes its gradient, over and over, in virtual time.
struct RoundWorker final : TimerNode {
  RoundWorker(Node& own_node, std::unique_ptr<TableClient> own_client, std::uint64_t seed, float own_gradient,
              std::uint64_t own_samples)
      : node(own_node),
        client(std::move(own_client)),
        random(seed),
        gradient(own_gradient),
        samples(own_samples) {}

  void pull() {
    client->pull(keys, rows.data()).then([this](Result<PulledVersions> pulled) {
      if (!pulled) {
        failed = pulled.error();
        return;
      }
      versions = *pulled;
      // Every row of every shard shows the same steps.
      torn = torn || !all_are(rows, rows.front());
      node.loop().schedule_after(*this, std::chrono::microseconds(1 + random() % speed_us));
    });
  }
  void on_timer() override {
    const std::uint64_t clock = client->clock();
    const std::vector<float> gradients(rows.size(), gradient);
    client->push(keys, gradients.data(), versions, {}, samples)
        .then([this, clock](const Result<PushSummary>& pushed) {
          if (!pushed) {
            failed = pushed.error();
            return;
          }
          if (pushed->dropped) ++dropped;
          if (pushed->applied) applied.push_back(clock);
          if (client->clock() < rounds) return pull();
          finished = true;
        });
  }

  Node& node;
  std::unique_ptr<TableClient> client;
  std::mt19937_64 random;
  float gradient;
  std::uint64_t samples;
  std::uint64_t speed_us = 2000;
  std::uint64_t rounds = 20;
  const std::vector<std::uint64_t> keys = range(16);
  std::vector<float> rows = std::vector<float>(16 * 5);
  PulledVersions versions;
  std::vector<std::uint64_t> applied;  // rounds
  std::uint64_t dropped = 0;
  bool torn = false;
  bool finished = false;
  std::optional<Error> failed;
};

struct Rounds {
  explicit Rounds(const shards::Consistency& mode, std::size_t workers, std::uint64_t seed = 1) {
    names = add_servers(cluster, 3);
    const auto spec = spec_of(mode);
    for (std::size_t i = 0; i < workers; ++i) {
      Node& node = cluster.add("worker-" + std::to_string(i));
      all.push_back(std::make_unique<RoundWorker>(node,
                                                  open_table(node, spec, names, i + 1, std::chrono::hours(1)),
                                                  seed + i, static_cast<float>(4 * (i + 1)), 1));
    }
  }
  ~Rounds() {
    for (auto& worker : all) {
      Loop::Turn turn(worker->node.loop());
      worker->node.loop().cancel(*worker);
    }
  }
  Rounds(const Rounds&) = delete;
  Rounds& operator=(const Rounds&) = delete;

  void start(std::size_t i) {
    Loop::Turn turn(all[i]->node.loop());
    all[i]->pull();
  }
  /// Until those who are not `dead` have finished; who has leaves.
  void finish() {
    std::set<std::size_t> gone;
    const bool done = cluster.world.run_until(
        [&] {
          bool finished = true;
          for (std::size_t i = 0; i < all.size(); ++i) {
            if (dead.contains(i)) continue;
            if (all[i]->finished && gone.insert(i).second) all[i]->client->leave();
            finished = finished && (all[i]->finished || all[i]->failed);
          }
          return finished;
        },
        cluster.world.clock().now() + std::chrono::hours(1));
    REQUIRE(done);
    for (std::size_t i = 0; i < all.size(); ++i) {
      if (dead.contains(i)) continue;
      CHECK_MESSAGE(!all[i]->failed, all[i]->failed->to_string());
      CHECK_FALSE(all[i]->torn);
    }
  }
  float weight() {
    std::vector<float> rows(5);
    REQUIRE(all.back()->client->peek(range(1), rows.data()).get().ok());
    return rows[0];
  }

  SimCluster cluster;
  std::vector<std::string> names;
  std::vector<std::unique_ptr<RoundWorker>> all;
  std::set<std::size_t> dead;
};

}  // namespace

// ---- Rounds -------------------------------------------------------------------------------------

TEST_CASE("a synchronous table makes one step a round, with everybody's mean, on all servers alike") {
  for (std::uint64_t seed = 1; seed <= 5; ++seed) {
    CAPTURE(seed);
    Rounds rounds(shards::Synchronous{}, 3, seed);
    for (std::size_t i = 0; i < 3; ++i) rounds.all[i]->speed_us = seed * 100 * (1 + 10 * i);
    for (std::size_t i = 0; i < 3; ++i) rounds.start(i);
    rounds.finish();
    // Gradients 4, 8, 12: their mean is 8, a step of a quarter.
    CHECK(rounds.weight() == doctest::Approx(-0.25 * 8 * 20));
    for (const auto& worker : rounds.all) {
      CHECK(worker->applied == range(20));
      CHECK(worker->client->clock() == 20);
    }
    for (const auto& name : rounds.names) CHECK(pushes_of(rounds.all[0]->node, name) == 60);
  }
}

TEST_CASE("gradients count by their samples") {
  Rounds rounds(shards::Synchronous{}, 2);
  rounds.all[0]->samples = 3;  // gradient 4
  rounds.all[1]->samples = 1;  // gradient 8
  for (std::size_t i = 0; i < 2; ++i) rounds.start(i);
  rounds.finish();
  CHECK(rounds.weight() == doctest::Approx(-0.25 * 5 * 20));
}

TEST_CASE("of n workers the first k make the step, and who is late is told so and goes on") {
  for (const auto late : {shards::LatePushes::kDrop, shards::LatePushes::kScale}) {
    Rounds rounds(shards::KOfN{2, late}, 3);
    rounds.all[2]->speed_us = 60'000;
    for (std::size_t i = 0; i < 3; ++i) rounds.start(i);
    rounds.finish();
    CHECK(rounds.all[0]->applied == range(20));
    CHECK(rounds.all[1]->applied == range(20));
    if (late == shards::LatePushes::kDrop) {
      CHECK(rounds.all[2]->dropped > 0);
      CHECK(rounds.weight() == doctest::Approx(-0.25 * 6 * 20));
    } else {
      CHECK(rounds.all[2]->dropped == 0);
      CHECK(rounds.all[2]->applied.size() > 0);
      CHECK(rounds.weight() < -0.25F * 6 * 20);
    }
  }
}

TEST_CASE("a round goes on without a worker that dies, and counts one that joins from its next on") {
  Rounds rounds(shards::Synchronous{}, 3);
  rounds.all[1]->speed_us = 1'000'000'000;  // would hold up the others for a quarter of an hour
  rounds.all[2]->client->leave();
  rounds.start(0), rounds.start(1);
  rounds.cluster.world.run_for(std::chrono::milliseconds(100));
  CHECK(rounds.all[0]->applied.empty());  // waits for the second one
  // The third joins in the middle of round 0, and is not waited for there.
  REQUIRE(rounds.all[2]->client->join().ok());
  CHECK(rounds.all[2]->client->clock() == 1);
  rounds.start(2);
  rounds.dead.insert(1);
  rounds.cluster.world.kill("worker-1");
  rounds.finish();
  CHECK(rounds.all[0]->applied == range(20));
  CHECK(rounds.all[2]->applied.size() == 19);
  CHECK(rounds.weight() == doctest::Approx(-0.25 * (4 + 8 * 19)));
}

TEST_CASE("a round outlives a server that cannot be reached for a while") {
  Rounds rounds(shards::Synchronous{}, 2);
  for (std::size_t i = 0; i < 2; ++i) rounds.start(i);
  rounds.cluster.world.run_for(std::chrono::milliseconds(5));
  rounds.cluster.world.set_partition("server-0", "server-2", true);
  rounds.cluster.world.run_for(std::chrono::seconds(3));
  rounds.cluster.world.set_partition("server-0", "server-2", false);
  rounds.finish();
  CHECK(rounds.weight() == doctest::Approx(-0.25 * 6 * 20));
}

TEST_CASE("what a table in rounds cannot do is refused by name") {
  SimCluster cluster;
  const auto names = add_servers(cluster, 1);
  Node& node = cluster.add("worker");
  const auto client = open_table(node, spec_of(shards::Synchronous{}), names, 1);
  const std::vector<float> ones(5, 1);
  const auto named = client->push(range(1), ones.data(), {}, PushIdentity{7, 0}).get();
  CHECK(code_of(named) == Code::kInvalidArgument);
  const auto none = client->push(range(1), ones.data(), {}, {}, 0).get();
  CHECK(code_of(none) == Code::kInvalidArgument);
  CHECK(contains(text_of(none), "0 samples"));
  client->leave();
  const auto left = client->push(range(1), ones.data()).get();
  CHECK(code_of(left) == Code::kNotFound);
  CHECK(contains(text_of(left), "join first"));
}

// ---- Generations --------------------------------------------------------------------------------

TEST_CASE_TEMPLATE("a push from before a restore is refused, and its client goes on with a pull", Kind,
                   TROUPE_REAL_CLUSTERS) {
  for (const shards::Consistency& mode :
       {shards::Consistency(shards::Asynchronous{}), shards::Consistency(shards::BoundedStaleness{1}),
        shards::Consistency(shards::Synchronous{})}) {
    const TemporaryFolder folder;
    Kind cluster;
    const auto names = add_servers(cluster, 2);
    Node& node = cluster.add("worker");
    const auto spec = spec_of(mode);
    const auto client = open_table(node, spec, names, 1);
    const auto keys = range(20);
    const std::vector<float> ones(keys.size() * 5, 1);
    std::vector<float> rows(ones.size());
    const auto batch = [&] {
      client->set_clock(client->clock() + (shards::in_rounds(mode) ? 0 : 1));
      const auto pulled = client->pull(keys, rows.data()).get();
      REQUIRE_MESSAGE(pulled.ok(), text_of(pulled));
      return *pulled;
    };
    REQUIRE(client->push(keys, ones.data(), batch()).get().ok());
    save(node, spec, names, folder.path() / "a");
    REQUIRE(client->push(keys, ones.data(), batch()).get().ok());
    const PulledVersions before = batch();
    CHECK(all_are(rows, -0.5F));
    for (const auto& name : names)
      REQUIRE(node.rpc_sync<std::uint64_t>(name, "restore", (folder.path() / "a").string()).ok());
    const auto refused = client->push(keys, ones.data(), before).get();
    CHECK(code_of(refused) == Code::kAborted);
    CHECK(contains(text_of(refused), "was restored"));
    const PulledVersions after = batch();
    CHECK(all_are(rows, -0.25F));  // nothing of the refused one was applied
    // Another pull meanwhile does not let the old one through.
    CHECK(code_of(client->push(keys, ones.data(), before).get()) == Code::kAborted);
    REQUIRE(client->push(keys, ones.data(), after).get().ok());
    batch();
    CHECK(all_are(rows, -0.5F));
    // One that was made from no pull belongs to what its client knew last.
    for (const auto& name : names)
      REQUIRE(node.rpc_sync<std::uint64_t>(name, "restore", (folder.path() / "a").string()).ok());
    CHECK(code_of(client->push(keys, ones.data()).get()) == Code::kAborted);
    CHECK(client->push(keys, ones.data()).get().ok());
  }
}

TEST_CASE("a new life of a server has another generation, also with the same checkpoint") {
  const TemporaryFolder folder;
  RealCluster cluster;
  cluster.add("first");
  const auto names = add_servers(cluster, 1);
  Node& node = cluster.add("worker");
  const auto spec = spec_of(shards::Asynchronous{});
  const auto client = open_table(node, spec, names, 1);
  std::vector<float> rows(5, 1);
  save(node, spec, names, folder.path() / "a");
  const auto before = client->pull(range(1), rows.data()).get();
  REQUIRE(before.ok());
  cluster.end("server-0");
  Node& again = cluster.add("server-0", "server");
  REQUIRE(again.spawn<ShardServer>("ps0", 0U, 1U, again).ok());
  REQUIRE(node.wait_for_actor("ps0", kPatience).ok());
  REQUIRE(node.rpc_sync<std::uint64_t>("ps0", "restore", (folder.path() / "a").string()).ok());
  CHECK(code_of(client->push(range(1), rows.data(), *before).get()) == Code::kAborted);
  CHECK(pushes_of(node, "ps0") == 0);
}

// ---- Routes -------------------------------------------------------------------------------------

namespace {

/// A table on ps0 and ps1, a copy of ps1's part on ps2, and the route that sends everybody there.
struct Moved {
  Moved() {
    names = add_servers(cluster, 2);
    Node& third = cluster.add("server-2", "server");
    REQUIRE(third.spawn<ShardServer>("ps2", 1U, 2U, third).ok());
    node = &cluster.add("worker");
    REQUIRE(node->wait_for_actor("ps2", kPatience).ok());
    client = open_table(*node, spec, names, 1);
  }
  void move() {
    save(*node, spec, names, folder.path() / "a");
    const auto restored = node->rpc_sync<std::uint64_t>("ps2", "restore", (folder.path() / "a").string());
    REQUIRE_MESSAGE(restored.ok(), text_of(restored));
    auto route = node->rpc_sync<TableRoute>("ps0", "route", spec.name);
    REQUIRE_MESSAGE(route.ok(), text_of(route));
    CHECK(route->version == 1);
    route->version = 2;
    route->servers = {"ps0", "ps2"};
    const auto changed = node->rpc_sync<void>("ps0", "change_route", spec.name, *route);
    REQUIRE_MESSAGE(changed.ok(), text_of(changed));
  }

  const TemporaryFolder folder;
  RealCluster cluster;
  std::vector<std::string> names;
  Node* node = nullptr;
  const shards::TableSpec spec = spec_of(shards::Asynchronous{});
  std::unique_ptr<TableClient> client;
  const std::vector<std::uint64_t> keys = range(60);
};

}  // namespace

TEST_CASE("a request by an old route is answered with the new one, and finds its rows there") {
  Moved table;
  std::mt19937_64 random(5);
  Model model(5);
  const std::vector<float> ones(table.keys.size() * 5, 1);
  const auto pushed_to_first = [&] { return pushes_of(*table.node, "ps1"); };
  train(*table.client, model, random, 20);
  const std::uint64_t before = pushed_to_first();
  SUBCASE("pull") {
    table.move();
    std::vector<float> rows(ones.size());
    REQUIRE(table.client->pull(table.keys, rows.data()).get().ok());
    CHECK(rows == model.pull(table.keys));
  }
  SUBCASE("peek") {
    table.move();
    check_equal(*table.client, model);
  }
  SUBCASE("push") {
    table.move();
    const auto pushed = table.client->push(table.keys, ones.data()).get();
    REQUIRE_MESSAGE(pushed.ok(), text_of(pushed));
    CHECK(pushed->applied);
    model.push(table.keys, ones);
  }
  SUBCASE("push and pull") {
    table.move();
    std::vector<float> rows(ones.size());
    const auto both = table.client->push_pull(table.keys, ones.data(), {}, table.keys, rows.data()).get();
    REQUIRE_MESSAGE(both.ok(), text_of(both));
    model.push(table.keys, ones);
    CHECK(rows == model.pull(table.keys));
  }
  SUBCASE("a repeat of a push from before") {
    const PushIdentity identity{50, 1};
    REQUIRE(table.client->push(table.keys, ones.data(), {}, identity).get().value().applied);
    model.push(table.keys, ones);
    table.move();
    const auto again = table.client->push(table.keys, ones.data(), {}, identity).get();
    REQUIRE_MESSAGE(again.ok(), text_of(again));
    CHECK_FALSE(again->applied);
    check_equal(*table.client, model);
    return;
  }
  train(*table.client, model, random, 20);
  check_equal(*table.client, model);
  CHECK(pushed_to_first() == before);  // nothing came there any more
  // Who opens the table now has the new route from the beginning.
  const auto other = open_table(*table.node, table.spec, table.names, 2);
  check_equal(*other, model);
}

TEST_CASE("a route that cannot be is refused, and changes nothing") {
  Moved table;
  const auto change = [&](const std::function<void(TableRoute&)>& how) {
    TableRoute route = table.node->rpc_sync<TableRoute>("ps0", "route", table.spec.name).value();
    ++route.version;
    how(route);
    const auto changed = table.node->rpc_sync<void>("ps0", "change_route", table.spec.name, route);
    CHECK(table.node->rpc_sync<TableRoute>("ps0", "route", table.spec.name).value().version == 1);
    return code_of(changed);
  };
  CHECK(change([](TableRoute& route) { ++route.version; }) == Code::kInvalidArgument);
  CHECK(change([](TableRoute& route) { route.servers = {"ps2", "ps0"}; }) == Code::kInvalidArgument);
  CHECK(change([](TableRoute& route) { route.owners.pop_back(); }) == Code::kInvalidArgument);
  CHECK(change([](TableRoute& route) { route.owners[0] = 7; }) == Code::kInvalidArgument);
  // Slots that the server does not hold.
  CHECK(change([](TableRoute& route) { std::fill(route.owners.begin(), route.owners.end(), 0); }) ==
        Code::kFailedPrecondition);
  CHECK(code_of(table.node->rpc_sync<TableRoute>("ps1", "route", table.spec.name)) == Code::kNotFound);
}
