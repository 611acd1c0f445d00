#include <doctest/doctest.h>

#include <cmath>
#include <thread>

#include <troupe/training/key_places.hpp>
#include <troupe/training/table_group.hpp>

#include "worker.hpp"

namespace troupe::training {
namespace {

const std::vector<std::string> kServers{"ps-0", "ps-1"};

shards::TableSpec table(const char* name, std::uint64_t dim) {
  shards::TableSpec spec;
  spec.name = name;
  spec.dim = dim;
  spec.optimizer = shards::Sgd{1};
  return spec;
}

/// A node with two shard servers.
std::unique_ptr<Node> node_with_servers() {
  auto node = Node::start({.name = "one"});
  REQUIRE(node);
  for (std::uint32_t i = 0; i < 2; ++i) REQUIRE((*node)->spawn<ShardServer>(kServers[i], i, 2U, **node));
  return std::move(*node);
}

}  // namespace

TEST_CASE("several tables are pulled and pushed as one, and a push of one name is applied once by each") {
  const auto node = node_with_servers();
  auto group = TableGroup::open(*node, {table("wide", 3), table("narrow", 1)}, kServers);
  REQUIRE(group);
  TableGroup& tables = **group;
  REQUIRE(tables.size() == 2);
  const KeysByTable keys{{5, 9, 1000}, {7}};
  RowsByTable rows;
  REQUIRE(tables.pull(keys, rows));
  CHECK(rows == RowsByTable{std::vector<float>(9), {0}});
  const RowsByTable gradients{{1, 2, 3, 4, 5, 6, 7, 8, 9}, {10}};
  for (int repeat = 0; repeat < 2; ++repeat) REQUIRE(tables.push(keys, gradients, PushIdentity{77, 3}));
  REQUIRE(tables.pull(keys, rows));
  CHECK(rows == RowsByTable{{-1, -2, -3, -4, -5, -6, -7, -8, -9}, {-10}});
  REQUIRE(tables.push(keys, gradients));  // of this worker's own name
  const auto read = tables.read(0, keys[0]);
  REQUIRE(read);
  CHECK(*read == std::vector<float>{-2, -4, -6, -8, -10, -12, -14, -16, -18});
  const auto first = tables.read_first(1, 8);
  REQUIRE(first);
  CHECK(*first == std::vector<float>{0, 0, 0, 0, 0, 0, 0, -20});
}

TEST_CASE("a batch may need no rows of a table; no tables are refused, and an error of one is the group's") {
  const auto node = node_with_servers();
  const auto none = TableGroup::open(*node, {}, kServers);
  REQUIRE_FALSE(none);
  CHECK(none.error().code == Code::kInvalidArgument);
  auto group = TableGroup::open(*node, {table("a", 2), table("b", 2)}, kServers);
  REQUIRE(group);
  RowsByTable rows;
  REQUIRE((*group)->pull({{3}, {}}, rows));
  CHECK(rows == RowsByTable{{0, 0}, {}});
  REQUIRE((*group)->push({{3}, {}}, {{1, 1}, {}}));
  REQUIRE(node->kill("ps-1"));
  std::vector<std::uint64_t> many(100);
  for (std::size_t i = 0; i < many.size(); ++i) many[i] = i;
  const auto pulled = (*group)->pull({{}, many}, rows);
  REQUIRE_FALSE(pulled);
  CHECK(pulled.error().code == Code::kUnavailable);
}

TEST_CASE("tables of bounded staleness have one clock, also after a rest") {
  const auto node = node_with_servers();
  auto a = table("a", 1), b = table("b", 1);
  a.consistency = b.consistency = shards::BoundedStaleness{2};
  auto ahead = TableGroup::open(*node, {a, b}, kServers);
  REQUIRE(ahead);
  for (int i = 0; i < 2; ++i) (*ahead)->advance();
  RowsByTable rows;
  REQUIRE((*ahead)->pull({{1, 2, 3, 4}, {1, 2, 3, 4}}, rows));  // alone: nobody is waited for
  auto other = TableGroup::open(*node, {a, b}, kServers);
  REQUIRE(other);
  CHECK((**other)[0].clock() == (**other)[1].clock());
  CHECK((**other)[0].clock() == 2);
  (*other)->leave();
  for (int i = 0; i < 9; ++i) (*ahead)->advance();
  REQUIRE((*ahead)->pull({{1, 2, 3, 4}, {1, 2, 3, 4}}, rows));  // nor for who has left
  REQUIRE((*other)->join());
  CHECK((**other)[0].clock() == 11);
  CHECK((**other)[1].clock() == 11);
}

TEST_CASE("tables in rounds count them by themselves, and a batch weighs as many examples as it has") {
  const auto node = node_with_servers();
  auto a = table("a", 1), b = table("b", 1);
  a.consistency = shards::Synchronous{};
  b.consistency = shards::KOfN{2, shards::LatePushes::kDrop};
  auto one = TableGroup::open(*node, {a, b}, kServers);
  auto other = TableGroup::open(*node, {a, b}, kServers);
  REQUIRE(one);
  REQUIRE(other);
  const KeysByTable keys{{1, 2, 3, 4}, {1, 2, 3, 4}};
  for (int round = 1; round < 4; ++round) {
    RowsByTable rows;
    REQUIRE((*one)->pull(keys, rows));
    RowsByTable other_rows;
    REQUIRE((*other)->pull(keys, other_rows));
    CHECK(rows == other_rows);
    // A batch's own name means nothing here: each worker pushes under its own.
    std::thread second([&] {
      CHECK((*other)->push(keys, RowsByTable(2, std::vector<float>(4, 8)), PushIdentity{1, 1}, 1));
      (*other)->advance();
    });
    CHECK((*one)->push(keys, RowsByTable(2, std::vector<float>(4, 4)), PushIdentity{1, 1}, 3));
    (*one)->advance();
    second.join();
    CHECK((**one)[0].clock() == static_cast<std::uint64_t>(round));
    CHECK((**one)[1].clock() == static_cast<std::uint64_t>(round));
    const auto after = (*one)->read(0, keys[0]);
    REQUIRE(after);
    CHECK(*after == std::vector<float>(4, -5.0F * static_cast<float>(round)));
    CHECK((*one)->read(1, keys[1]).value() == *after);
  }
  (*other)->leave();
  RowsByTable rows;
  REQUIRE((*one)->pull(keys, rows));
  REQUIRE((*one)->push(keys, RowsByTable(2, std::vector<float>(4, 1))));  // who has left is not waited for
  CHECK((*one)->read(0, keys[0]).value() == std::vector<float>(4, -16));
}

TEST_CASE("distinct keys are listed in the order of their first use") {
  std::vector<std::uint64_t> keys;
  KeyPlaces places(keys);
  CHECK(places.of(50) == 0);
  CHECK(places.of(7) == 1);
  CHECK(places.of(50) == 0);
  CHECK(places.of(8) == 2);
  CHECK(keys == std::vector<std::uint64_t>{50, 7, 8});
}

// ---- A worker on such tables --------------------------------------------------------------------

namespace {

/// One row, of whose square half is the loss; can be told to do it wrong.
struct OneRow : Task {
  enum class Fault { kNone, kKeys, kGradients, kError } fault = Fault::kNone;
  std::vector<shards::TableSpec> tables() const override {
    auto spec = table("row", 1);
    spec.initializer = shards::Uniform{1, 2};
    spec.optimizer = shards::Sgd{0.5F};
    return {spec};
  }
  std::uint64_t batches_per_epoch() const override { return 4; }
  void plan(const BatchId&, Step& step) override {
    step.keys[0] = {42};
    if (fault == Fault::kKeys) step.keys.emplace_back();
  }
  Result<void> compute(const BatchId&, Step& step) override {
    if (fault == Fault::kError) return Error{Code::kOutOfRange, "not today"};
    const float row = step.rows[0][0];
    step.gradients[0][0] = row;
    step.loss_sum = static_cast<double>(row * row / 2);
    step.examples = 1;
    if (fault == Fault::kGradients) step.gradients[0].clear();
    return {};
  }
  std::uint64_t evaluation_size(Split split) const override { return split == Split::kTest ? 1 : 0; }
  Result<std::vector<double>> evaluate(const EvaluationPart&, TableGroup& group) override {
    auto rows = group.read(0, std::vector<std::uint64_t>{42});
    if (!rows) return rows.error();
    return std::vector<double>{rows->front()};
  }
};

Work batch(std::uint64_t index) {
  Work work;
  work.kind = WorkKind::kTrain;
  work.epoch = 1;
  work.index = index;
  return work;
}

}  // namespace

TEST_CASE("a worker pulls, computes and pushes, and a batch that is done twice is applied once") {
  const auto node = node_with_servers();
  OneRow task;
  Worker worker(*node, JobSettings{}, task, 1);
  const auto first = worker.run(batch(0));
  REQUIRE(first);
  CHECK(first->examples == 1);
  CHECK(first->work == batch(0));
  Work test;
  test.kind = WorkKind::kEvaluate;
  test.split = Split::kTest;
  test.end = 1;
  const auto before = worker.run(test);
  REQUIRE(before);
  REQUIRE(before->sums.size() == 1);
  CHECK(before->sums[0] == doctest::Approx(std::sqrt(2 * first->loss_sum) / 2));
  OneRow again_task;
  Worker again(*node, JobSettings{}, again_task, 1);  // as if the first had died before its report
  REQUIRE(again.run(batch(0)));
  CHECK(worker.run(test)->sums == before->sums);
  REQUIRE(again.run(batch(1)));
  CHECK(worker.run(test)->sums[0] == doctest::Approx(before->sums[0] / 2));
  test.end = 2;
  CHECK(worker.run(test).error().code == Code::kOutOfRange);
}

TEST_CASE("workers in rounds make one step of each round, and who rests is not waited for") {
  const auto node = node_with_servers();
  constexpr std::uint64_t kRounds = 6;
  JobSettings settings;
  settings.consistency = shards::Synchronous{};
  OneRow task, other_task;
  Worker worker(*node, settings, task, 1), other(*node, settings, other_task, 1);
  const auto first = worker.run(batch(0));  // alone
  REQUIRE(first);
  double weight = std::sqrt(2 * first->loss_sum) / 2;
  Work test;
  test.kind = WorkKind::kEvaluate;
  test.split = Split::kTest;
  test.end = 1;
  const auto train = [&](Worker& who, std::uint64_t from) {
    for (std::uint64_t i = 0; i < kRounds; ++i) {
      const auto done = who.run(batch(from + i));
      CHECK_MESSAGE(done, done.error().message);
    }
    who.rest();
  };
  std::thread second([&] { train(other, 100); });
  train(worker, 200);
  second.join();
  // Between kRounds steps, if all were made together, and twice as many, if one had ended before the other
  // began; and what two did together is one step, which halves the weight.
  const auto sums = worker.run(test);
  REQUIRE(sums);
  const auto steps = std::lround(std::log2(weight / sums->sums[0]));
  CHECK(sums->sums[0] == doctest::Approx(std::ldexp(weight, -static_cast<int>(steps))));
  CHECK(steps >= static_cast<long>(kRounds));
  CHECK(steps <= static_cast<long>(2 * kRounds));
  std::uint64_t made = 0;
  for (const std::string& server : kServers)
    for (const TableStats& each : node->rpc_sync<std::vector<TableStats>>(server, "stats").value())
      made = std::max(made, each.version);
  CHECK(made == static_cast<std::uint64_t>(steps) + 1);
}

TEST_CASE("what a task does wrong is the worker's error, and nothing is pushed") {
  const auto node = node_with_servers();
  OneRow task;
  Worker worker(*node, JobSettings{}, task, 1);
  for (const auto fault : {OneRow::Fault::kKeys, OneRow::Fault::kGradients, OneRow::Fault::kError}) {
    task.fault = fault;
    const auto done = worker.run(batch(0));
    REQUIRE_FALSE(done);
    CHECK(done.error().code == (fault == OneRow::Fault::kError ? Code::kOutOfRange : Code::kInternal));
  }
  for (const std::string& server : kServers) {
    const auto stats = node->rpc_sync<std::vector<TableStats>>(server, "stats");
    REQUIRE(stats);
    for (const TableStats& each : *stats) CHECK(each.pushes == 0);
  }
}

}  // namespace troupe::training
