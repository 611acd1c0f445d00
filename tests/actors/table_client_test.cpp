// What a TableClient does by itself: repeats pushes, merges keys, pulls ahead, serves many threads.
#include <algorithm>
#include <atomic>
#include <limits>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include <troupe/actors/pull_ahead.hpp>

#include "tables.hpp"

using namespace troupe;
using namespace troupe::test;

namespace {

std::vector<std::uint64_t> range(std::uint64_t count) {
  std::vector<std::uint64_t> keys(count);
  for (std::uint64_t i = 0; i < count; ++i) keys[i] = i;
  return keys;
}

bool all_are(const std::vector<float>& rows, float value) {
  return std::all_of(rows.begin(), rows.end(), [value](float each) { return each == value; });
}

/// Pushes ones to a few rows while the way to the server is cut, `when` after the push began.
struct CutPush {
  explicit CutPush(Duration repeat_for) {
    cluster.add("first");
    names = add_servers(cluster, 2);
    node = &cluster.add("worker");
    const auto spec = exact_spec(shards::TableKind::kEmbedding);
    auto opened =
        TableClient::open(*node, spec, names, {.timeout = kPatience, .worker = 1, .repeat_for = repeat_for});
    REQUIRE_MESSAGE(opened.ok(), text_of(opened));
    client = std::move(*opened);
    rows.resize(keys.size() * spec.dim);
  }
  Result<PushSummary> push(Duration when) {
    auto pushed = client->push(keys, std::vector<float>(rows.size(), 1).data());
    cluster.world.run_for(when);
    cluster.world.set_partition("worker", "server-1", true);
    cluster.world.run_for(std::chrono::seconds(12));  // past the silence limit
    cluster.world.set_partition("worker", "server-1", false);
    return pushed.get();
  }

  SimCluster cluster;
  std::vector<std::string> names;
  Node* node = nullptr;
  std::unique_ptr<TableClient> client;
  const std::vector<std::uint64_t> keys = range(20);
  std::vector<float> rows;
};

}  // namespace

TEST_CASE("a push outlives a way that is cut, before the push or before its answer, and is applied once") {
  CutPush cut(Duration::max());
  float expected = 0;
  for (int when_us = 0; when_us < 40; when_us += 2) {
    CAPTURE(when_us);
    const auto pushed = cut.push(std::chrono::microseconds(when_us));
    REQUIRE_MESSAGE(pushed.ok(), text_of(pushed));
    CHECK(pushed->applied);
    expected -= 0.25F;
    REQUIRE(cut.client->peek(cut.keys, cut.rows.data()).get().ok());
    CHECK(all_are(cut.rows, expected));
  }
  // Of some only the answer was lost.
  CHECK(stats_of(*cut.node, "ps1").repeated_pushes > 0);
  CHECK(stats_of(*cut.node, "ps1").pushes == 20);
}

TEST_CASE("a push that is not to be repeated ends when its server cannot be reached") {
  CutPush cut(Duration::zero());
  const auto pushed = cut.push(Duration(0));
  CHECK(code_of(pushed) == Code::kUnavailable);
}

TEST_CASE("a named push that another has made says so, also when it is repeated") {
  CutPush cut(Duration::max());
  const std::vector<float> ones(cut.rows.size(), 1);
  const PushIdentity identity{77, 5};
  REQUIRE(cut.client->push(cut.keys, ones.data(), {}, identity).get().value().applied);
  auto again = cut.client->push(cut.keys, ones.data(), {}, identity);
  cut.cluster.world.set_partition("worker", "server-1", true);
  cut.cluster.world.run_for(std::chrono::seconds(12));
  cut.cluster.world.set_partition("worker", "server-1", false);
  const auto pushed = again.get();
  REQUIRE_MESSAGE(pushed.ok(), text_of(pushed));
  CHECK_FALSE(pushed->applied);
}

TEST_CASE("a push that is cancelled while its server cannot be reached is not repeated any more") {
  CutPush cut(Duration::max());
  cut.cluster.world.set_partition("worker", "server-1", true);
  auto pushed = cut.client->push(cut.keys, std::vector<float>(cut.rows.size(), 1).data());
  cut.cluster.world.run_for(std::chrono::seconds(8));
  CHECK_FALSE(pushed.ready());
  pushed.cancel();
  CHECK(code_of(pushed.get()) == Code::kCancelled);
  cut.cluster.world.set_partition("worker", "server-1", false);
  cut.cluster.world.run_for(std::chrono::seconds(20));
  CHECK(stats_of(*cut.node, "ps1").pushes == 0);
}

TEST_CASE("a node that ends while a push of it is being repeated ends the push") {
  CutPush cut(Duration::max());
  cut.cluster.world.set_partition("worker", "server-1", true);
  auto pushed = cut.client->push(cut.keys, std::vector<float>(cut.rows.size(), 1).data());
  cut.cluster.world.run_for(std::chrono::seconds(8));
  CHECK_FALSE(pushed.ready());
  cut.client.reset();
  cut.cluster.end("worker");
  REQUIRE(pushed.ready());
  CHECK(code_of(pushed.get()) == Code::kCancelled);
}

TEST_CASE("keys that come more than once are sent once, with the sum of their gradients") {
  RealCluster cluster;
  const auto names = add_servers(cluster, 1);
  Node& node = cluster.add("worker");
  const auto client = open_table(node, exact_spec(shards::TableKind::kEmbedding), names, 1);
  const std::vector<std::uint64_t> keys{7, 8, 7, 9, 7, 8};
  std::vector<float> gradients(keys.size() * 5);
  for (std::size_t i = 0; i < gradients.size(); ++i) gradients[i] = static_cast<float>(i);
  REQUIRE(client->push(keys, gradients.data()).get().ok());
  CHECK(stats_of(node, "ps0").pushed_keys == 3);
  Model model(5);
  model.push(keys, gradients);
  check_equal(*client, model);
}

TEST_CASE("gradients that a table would refuse are not sent, and named") {
  RealCluster cluster;
  const auto names = add_servers(cluster, 2);
  Node& node = cluster.add("worker");
  const auto client = open_table(node, exact_spec(shards::TableKind::kEmbedding), names, 1);
  const auto refused = [&](const std::vector<std::uint64_t>& keys, const std::vector<float>& gradients,
                           const std::string& text) {
    const auto pushed = client->push(keys, gradients.data()).get();
    CHECK(code_of(pushed) == Code::kInvalidArgument);
    CHECK_MESSAGE(contains(text_of(pushed), text), text_of(pushed));
    const auto both = client->push_pull(keys, gradients.data(), {}, {}, nullptr).get();
    CHECK(code_of(both) == Code::kInvalidArgument);
  };
  std::vector<float> gradients(20, 1);
  gradients[13] = std::numeric_limits<float>::quiet_NaN();
  refused({1, 2, 3, 4}, gradients, "the gradient of key 3 is NaN in column 3");
  gradients.assign(20, 1);
  gradients[5] = 2e15F;
  refused({1, 2, 3, 4}, gradients, "the gradient of key 2 is 2e+15 in column 0");
  gradients[5] = 7e14F, gradients[15] = 7e14F;
  refused({1, 2, 3, 2}, gradients, "the gradients of key 2 add up to 1.4e+15 in column 0");
  for (const auto& name : names) {
    CHECK(stats_of(node, name).rejected_pushes == 0);
    CHECK(stats_of(node, name).pushes == 0);
  }
}

TEST_CASE_TEMPLATE("push_pull is a push and then a pull", Kind, TROUPE_CLUSTERS) {
  std::mt19937_64 random(99);
  for (const bool bounded : {false, true}) {
    Kind cluster;
    const auto names = add_servers(cluster, 3);
    auto spec = exact_spec(shards::TableKind::kEmbedding);
    if (bounded) spec.consistency = shards::BoundedStaleness{2};
    const auto client = open_table(cluster.add("worker"), spec, names, 1);
    Model model(spec.dim);
    for (int round = 0; round < 30; ++round) {
      std::vector<std::uint64_t> keys(random() % 30), pulled(random() % 30);
      for (auto* list : {&keys, &pulled})
        for (auto& key : *list) key = random() % 50;
      std::vector<float> gradients(keys.size() * spec.dim, 2), rows(pulled.size() * spec.dim, -1);
      client->set_clock(static_cast<std::uint64_t>(round));
      const auto done = client->push_pull(keys, gradients.data(), {}, pulled, rows.data()).get();
      REQUIRE_MESSAGE(done.ok(), text_of(done));
      CHECK(done->push.applied);
      CHECK(done->pulled.size() == 3);
      model.push(keys, gradients);
      CHECK(rows == model.pull(pulled));
    }
    check_equal(*client, model);
  }
}

TEST_CASE("a push_pull that is cut off is repeated, applied once, and brings its rows") {
  CutPush cut(Duration::max());
  for (int when_us = 0; when_us < 40; when_us += 8) {
    CAPTURE(when_us);
    auto both = cut.client->push_pull(cut.keys, std::vector<float>(cut.rows.size(), 1).data(), {}, cut.keys,
                                      cut.rows.data());
    cut.cluster.world.run_for(std::chrono::microseconds(when_us));
    cut.cluster.world.set_partition("worker", "server-1", true);
    cut.cluster.world.run_for(std::chrono::seconds(12));
    cut.cluster.world.set_partition("worker", "server-1", false);
    const auto done = both.get();
    REQUIRE_MESSAGE(done.ok(), text_of(done));
    CHECK(done->push.applied);
    const auto pushes = 1 + when_us / 8;
    CHECK(all_are(cut.rows, -0.25F * static_cast<float>(pushes)));
  }
}

// ---- Pulling ahead ------------------------------------------------------------------------------

TEST_CASE_TEMPLATE("batches that are pulled ahead come in their order, as many as the limits say", Kind,
                   TROUPE_CLUSTERS) {
  Kind cluster;
  const auto names = add_servers(cluster, 2);
  const auto client = open_table(cluster.add("worker"), exact_spec(shards::TableKind::kEmbedding), names, 1);
  Model model(5);
  const auto keys = range(64);
  std::vector<float> gradients(keys.size() * 5);
  for (std::size_t i = 0; i < gradients.size(); ++i) gradients[i] = static_cast<float>(i);
  REQUIRE(client->push(keys, gradients.data()).get().ok());
  model.push(keys, gradients);

  PullAhead ahead(*client, {.batches = 3, .bytes = 1 << 20});
  CHECK(code_of(ahead.next()) == Code::kFailedPrecondition);
  std::uint64_t begun = 0;
  const auto batch = [](std::uint64_t i) { return std::vector<std::uint64_t>{i, 63 - i, (i * 7) % 64}; };
  for (std::uint64_t taken = 0; taken < 40; ++taken) {
    while (ahead.begun() < 3) REQUIRE(ahead.begin(batch(begun++)).ok());
    CHECK(code_of(ahead.begin(batch(begun))) == Code::kResourceExhausted);
    const auto next = ahead.next();
    REQUIRE_MESSAGE(next.ok(), text_of(next));
    CHECK(next->keys == batch(taken));
    CHECK(next->versions.size() == 2);
    const auto rows = next->rows.template as<const float>();
    CHECK(std::vector<float>(rows.begin(), rows.end()) == model.pull(batch(taken)));
  }
}

TEST_CASE("a batch is larger than the limit of bytes only if it is alone") {
  RealCluster cluster;
  const auto names = add_servers(cluster, 1);
  const auto client = open_table(cluster.add("worker"), exact_spec(shards::TableKind::kEmbedding), names, 1);
  PullAhead ahead(*client, {.batches = 5, .bytes = 2 * 5 * sizeof(float)});
  REQUIRE(ahead.begin({1, 2, 3}).ok());
  CHECK(code_of(ahead.begin({4})) == Code::kResourceExhausted);
  REQUIRE(ahead.next().ok());
  REQUIRE(ahead.begin({4}).ok());
  REQUIRE(ahead.begin({5}).ok());
  CHECK(code_of(ahead.begin({6})) == Code::kResourceExhausted);
}

TEST_CASE("what was pulled ahead and is not wanted any more is cancelled") {
  SimCluster cluster;
  const auto names = add_servers(cluster, 2);
  auto spec = exact_spec(shards::TableKind::kEmbedding);
  spec.consistency = shards::BoundedStaleness{0};
  Node& node = cluster.add("worker");
  const auto a = open_table(node, spec, names, 1), b = open_table(node, spec, names, 2);
  b->set_clock(1);
  {
    PullAhead ahead(*b);
    REQUIRE(ahead.begin({1, 2, 3}).ok());  // waits for worker 1
    cluster.world.run_for(std::chrono::seconds(1));
    ahead.cancel();
    CHECK(ahead.begun() == 0);
    REQUIRE(ahead.begin({4, 5, 6}).ok());
    cluster.world.run_for(std::chrono::seconds(1));
  }
  std::vector<float> row(spec.dim);
  a->set_clock(1);
  REQUIRE(a->pull(range(1), row.data()).get().ok());
  REQUIRE(b->pull(range(1), row.data()).get().ok());
  cluster.world.run_for(std::chrono::seconds(1));
}

// ---- Threads ------------------------------------------------------------------------------------

TEST_CASE_TEMPLATE("eight threads use one client", Kind, TROUPE_REAL_CLUSTERS) {
  Kind cluster;
  const auto names = add_servers(cluster, 2);
  const auto spec = exact_spec(shards::TableKind::kEmbedding);
  Node& node = cluster.add("worker");
  const auto client = open_table(node, spec, names, 1);
  constexpr int kThreads = 8, kRounds = 100;
  std::atomic<int> failures{0};
  std::vector<std::thread> threads;
  for (std::uint64_t thread = 0; thread < kThreads; ++thread)
    threads.emplace_back([&, thread] {
      // Rows 0 to 9 are everybody's, the others this thread's own.
      std::vector<std::uint64_t> keys = range(10), own(10);
      for (std::uint64_t i = 0; i < own.size(); ++i) own[i] = 1000 * (thread + 1) + i;
      keys.insert(keys.end(), own.begin(), own.end());
      const std::vector<float> ones(keys.size() * spec.dim, 1);
      std::vector<float> rows(own.size() * spec.dim);
      PullAhead ahead(*client);
      for (int round = 1; round <= kRounds; ++round) {
        client->set_clock(static_cast<std::uint64_t>(round));
        const auto expected = -0.25F * static_cast<float>(round);
        bool good = true;
        if (round % 2 == 0) {
          good = client->push_pull(keys, ones.data(), {}, own, rows.data()).get().ok();
        } else {
          good = client->push(keys, ones.data()).get().ok() && client->pull(own, rows.data()).get().ok();
        }
        good = good && all_are(rows, expected) && ahead.begin(own).ok();
        const auto batch = ahead.next();
        good = good && batch.ok() && batch->rows.template as<const float>()[0] == expected;
        failures += good ? 0 : 1;
      }
    });
  for (auto& thread : threads) thread.join();
  CHECK(failures == 0);
  std::vector<float> rows(10 * spec.dim);
  REQUIRE(client->peek(range(10), rows.data()).get().ok());
  CHECK(all_are(rows, -0.25F * kThreads * kRounds));
}
