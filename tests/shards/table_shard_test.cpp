#include <troupe/shards/table_shard.hpp>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>

#include "reference_table.hpp"
#include "support.hpp"

namespace troupe::shards {
namespace {

using test::dense_spec;
using test::embedding_spec;

void check_close(const std::vector<float>& got, const std::vector<double>& expected) {
  REQUIRE(got.size() == expected.size());
  for (std::size_t i = 0; i < got.size(); ++i) {
    INFO("at ", i, ": ", got[i], " expected ", expected[i]);
    REQUIRE(std::abs(got[i] - expected[i]) <= 1e-4 * (1 + std::abs(expected[i])));
  }
}

/// Random pulls and pushes, with duplicates, against the plain model.
void check_against_reference(const TableSpec& spec, std::uint64_t key_range) {
  const std::uint64_t seed = troupe::test::test_seed();
  std::mt19937_64 random(seed);
  TableShard shard = TableShard::create(spec).value();
  test::ReferenceTable reference(spec);
  std::uint64_t applied = 0;
  for (int round = 0; round < 60; ++round) {
    const auto keys = test::random_keys(random, random() % 200, key_range);
    if (random() % 2 == 0) {
      check_close(test::pull(shard, keys), reference.pull(keys));
    } else {
      const auto gradients = test::random_floats(random, keys.size() * spec.dim);
      const PushReceipt receipt = shard.push({.worker = 1, .sequence = applied}, keys, gradients).value();
      CHECK(receipt.applied);
      CHECK(receipt.version == ++applied);
      reference.push(keys, gradients);
    }
  }
  if (spec.kind == TableKind::kEmbedding) CHECK(shard.row_count() == reference.rows());
}

TEST_CASE("a shard does what the plain model does, with every optimizer") {
  for (const Optimizer& optimizer : test::every_optimizer()) {
    INFO(std::string(optimizer.name()));
    for (const std::uint64_t dim : {1U, 3U, 16U, 200U}) {
      check_against_reference(embedding_spec(dim, optimizer), 150);
      check_against_reference(dense_spec(150, dim, optimizer), 150);
    }
  }
}

TEST_CASE("several shards together are the table") {
  const std::uint64_t seed = troupe::test::test_seed();
  std::mt19937_64 random(seed);
  for (const TableSpec& spec : {embedding_spec(5, Adagrad{}), dense_spec(700, 5, Adam{})}) {
    test::ReferenceTable reference(spec);
    Partitioner partitioner(spec, SlotMap::balanced(spec.slots, 3));
    std::vector<TableShard> shards;
    for (std::uint32_t i = 0; i < 3; ++i) {
      shards.push_back(TableShard::create(spec, partitioner.map().slots_of(i)).value());
    }
    for (std::uint64_t round = 0; round < 20; ++round) {
      const auto keys = test::random_keys(random, 300, 700);
      const auto gradients = test::random_floats(random, keys.size() * spec.dim);
      reference.push(keys, gradients);
      REQUIRE(partitioner.split(keys).ok());
      std::vector<float> pulled(gradients.size());
      for (std::uint32_t i = 0; i < 3; ++i) {
        const auto part = partitioner.keys(i);
        std::vector<float> rows(part.size() * spec.dim);
        partitioner.gather(i, gradients.data(), spec.dim, rows.data());
        REQUIRE(shards[i].push_pull({.sequence = round}, part, rows, part, rows.data()).ok());
        partitioner.scatter(i, rows.data(), spec.dim, pulled.data());
      }
      check_close(pulled, reference.pull(keys));
    }
    if (spec.kind == TableKind::kDense) {
      CHECK(shards[0].row_count() + shards[1].row_count() + shards[2].row_count() == spec.rows);
    }
  }
}

TEST_CASE("duplicate keys are summed before the optimizer sees them") {
  TableShard shard = TableShard::create(embedding_spec(2, Adagrad{.learning_rate = 1})).value();
  TableShard summed = TableShard::create(embedding_spec(2, Adagrad{.learning_rate = 1})).value();
  const std::vector<float> twice = {1, 2, 3, -5};
  const std::vector<float> once = {4, -3};
  REQUIRE(shard.push({}, std::vector<std::uint64_t>{9, 9}, twice).ok());
  REQUIRE(summed.push({}, std::vector<std::uint64_t>{9}, once).ok());
  CHECK(test::pull(shard, {9}) == test::pull(summed, {9}));
}

TEST_CASE("a repeated push is applied once, and out of order ones each") {
  TableShard shard = TableShard::create(embedding_spec(1, Sgd{.learning_rate = 1})).value();
  const float start = test::pull(shard, {1})[0];
  const std::vector<std::uint64_t> keys = {1};
  const std::vector<float> gradient = {1};
  std::vector<std::uint64_t> sequences(1000);
  std::iota(sequences.begin(), sequences.end(), 0);
  const std::uint64_t seed = troupe::test::test_seed();
  std::mt19937_64 random(seed);
  std::shuffle(sequences.begin(), sequences.end(), random);
  for (const std::uint64_t worker : {1U, 2U}) {
    for (const std::uint64_t sequence : sequences) {
      CHECK(shard.push({.worker = worker, .sequence = sequence}, keys, gradient).value().applied);
      const PushReceipt again = shard.push({.worker = worker, .sequence = sequence}, keys, gradient).value();
      CHECK_FALSE(again.applied);
      CHECK(again.version == shard.version());
    }
  }
  CHECK(shard.version() == 2000);
  CHECK(test::pull(shard, {1})[0] == doctest::Approx(start - 2000));
  CHECK(shard.stats().repeated_pushes == 2000);
  CHECK(shard.stats().workers == 2);

  REQUIRE(shard.push({.worker = 1, .sequence = 5000}, keys, gradient).ok());
  const auto old = shard.push({.worker = 1, .sequence = 10}, keys, gradient);
  REQUIRE_FALSE(old.ok());
  CHECK(old.error().code == Code::kFailedPrecondition);
  CHECK(shard.version() == 2001);
  shard.forget_worker(1);
  CHECK(shard.push({.worker = 1, .sequence = 10}, keys, gradient).value().applied);
}

TEST_CASE("staleness is the number of pushes between a worker's pull and its push") {
  TableShard shard = TableShard::create(embedding_spec(1)).value();
  const std::vector<std::uint64_t> keys = {1};
  const std::vector<float> gradient = {0.5F};
  float out = 0;
  const std::uint64_t slow = shard.pull(keys, &out).value().version;
  for (std::uint64_t i = 0; i < 3; ++i) {
    const std::uint64_t pulled = shard.pull(keys, &out).value().version;
    CHECK(shard.push({.worker = 1, .sequence = i, .pulled_version = pulled}, keys, gradient)
              .value()
              .staleness == 0);
  }
  CHECK(shard.push({.worker = 2, .sequence = 0, .pulled_version = slow}, keys, gradient).value().staleness ==
        3);
  CHECK(shard.push({.worker = 2, .sequence = 1}, keys, gradient).value().staleness == 0);
  CHECK(shard.push({.worker = 2, .sequence = 2, .pulled_version = 99}, keys, gradient).value().staleness ==
        0);
  const ShardStats stats = shard.stats();
  CHECK(stats.staleness.counts()[0] == 4);
  CHECK(stats.staleness.counts()[3] == 1);
  CHECK(stats.staleness.total() == 5);  // the one that had pulled nothing has none
  CHECK(stats.pushes == 6);
  CHECK(stats.pulls == 4);
  CHECK(stats.pushed_keys == 6);
}

TEST_CASE("staleness scales the step") {
  TableSpec spec = embedding_spec(1, Sgd{.learning_rate = 1});
  spec.initializer = Zeros{};
  spec.step_scaling = StepScaling::kInverseStaleness;
  TableShard shard = TableShard::create(spec).value();
  const std::vector<std::uint64_t> keys = {1};
  const std::vector<float> gradient = {-1};
  REQUIRE(shard.push({.sequence = 0, .pulled_version = 0}, keys, gradient).ok());
  CHECK(test::pull(shard, keys)[0] == 1);
  REQUIRE(shard.push({.sequence = 1, .pulled_version = 0}, keys, gradient).ok());
  CHECK(test::pull(shard, keys)[0] == 1.5F);
  REQUIRE(shard.push({.sequence = 2, .pulled_version = 1}, keys, gradient).ok());
  CHECK(test::pull(shard, keys)[0] == 2);
}

TEST_CASE("gradients that are not finite change nothing and are named") {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const float infinity = std::numeric_limits<float>::infinity();
  TableShard shard = TableShard::create(embedding_spec(3)).value();
  const std::vector<std::uint64_t> keys = {4, 5, 5, 6};
  const auto before = test::pull(shard, keys);
  for (const float bad : {nan, -nan, infinity, -infinity}) {
    for (std::size_t at = 0; at < 12; ++at) {
      std::vector<float> gradients(12, 1.0F);
      gradients[at] = bad;
      const auto result = shard.push({.sequence = 3}, keys, gradients);
      REQUIRE_FALSE(result.ok());
      CHECK(result.error().code == Code::kInvalidArgument);
      INFO(result.error().message);
      CHECK(result.error().message.find("table 'entity': the gradient of key " +
                                        std::to_string(keys[at / 3])) == 0);
      CHECK(result.error().message.find("column " + std::to_string(at % 3)) != std::string::npos);
    }
  }
  std::vector<float> huge(12, 0.75F * kLargestGradient);
  const auto overflow = shard.push({.sequence = 3}, keys, huge);
  REQUIRE_FALSE(overflow.ok());
  CHECK(overflow.error().message.find("key 5 add up") != std::string::npos);
  CHECK(test::pull(shard, keys) == before);
  CHECK(shard.version() == 0);
  CHECK(shard.stats().rejected_pushes == 49);
  // The sequence was not used up.
  CHECK(shard.push({.sequence = 3}, keys, std::vector<float>(12, 1.0F)).value().applied);
}

TEST_CASE("every bad float is seen wherever it stands, and no good one") {
  TableShard shard = TableShard::create(embedding_spec(1)).value();
  std::vector<std::uint64_t> keys(9001);
  std::iota(keys.begin(), keys.end(), 0);
  std::vector<float> gradients(keys.size(), std::numeric_limits<float>::denorm_min());
  gradients[1] = kLargestGradient;
  gradients[2] = -kLargestGradient;
  CHECK(shard.push({.sequence = 1}, keys, gradients).ok());
  for (const std::size_t at : {0, 1, 4095, 4096, 8191, 8192, 9000}) {
    for (const float value :
         {std::numeric_limits<float>::signaling_NaN(), 1.0001F * kLargestGradient, -3e38F}) {
      std::vector<float> bad = gradients;
      bad[at] = value;
      CHECK_FALSE(shard.push({.sequence = 2}, keys, bad).ok());
    }
  }
}

TEST_CASE("no push turns a row into what is not a number, however large and however often") {
  for (const Optimizer& optimizer : test::every_optimizer()) {
    INFO(std::string(optimizer.name()));
    TableShard shard = TableShard::create(embedding_spec(2, optimizer)).value();
    const std::vector<std::uint64_t> keys = {1};
    std::uint64_t sequence = 0;
    for (const float size : {1e20F, 3e38F, 1.9e19F}) {
      const auto refused = shard.push({.sequence = sequence}, keys, std::vector<float>{1, size});
      REQUIRE_FALSE(refused.ok());
      CHECK(refused.error().code == Code::kInvalidArgument);
      CHECK(refused.error().message.find("the gradient of key 1 is ") != std::string::npos);
    }
    for (int i = 0; i < 3000; ++i) {
      const float sign = i % 7 < 3 ? -1.0F : 1.0F;
      REQUIRE(
          shard.push({.sequence = sequence++}, keys, std::vector<float>{sign * kLargestGradient, 1}).ok());
    }
    for (const float weight : test::pull(shard, keys)) CHECK(std::isfinite(weight));
    const RowBatch rows = test::all_rows(shard);
    for (std::size_t field = 0; field < shard.layout().state.size(); ++field)
      for (const float value : test::field_of(shard.layout(), rows, 0, field)) CHECK(std::isfinite(value));
  }
}

TEST_CASE("a sum of squares of the largest gradients stops before a float's end") {
  // What a row that got 2^25 of them would hold: adding more changes nothing.
  TableShard shard = TableShard::create(embedding_spec(1, Adagrad{})).value();
  REQUIRE(shard.push({.sequence = 0}, std::vector<std::uint64_t>{1}, std::vector<float>{1}).ok());
  RowBatch rows = test::all_rows(shard);
  const float sum = 0x1p25F * kLargestGradient * kLargestGradient;
  std::memcpy(rows.records.data() + shard.layout().field_offset(0), &sum, sizeof(sum));
  REQUIRE(shard.insert(rows).ok());
  for (std::uint64_t i = 1; i < 50; ++i)
    REQUIRE(shard.push({.sequence = i}, std::vector<std::uint64_t>{1}, std::vector<float>{kLargestGradient})
                .ok());
  CHECK(test::field_of(shard.layout(), test::all_rows(shard), 0, 0)[0] == sum);
  CHECK(std::isfinite(sum));
}

TEST_CASE("workers without number push, and the one whose push is longest ago is forgotten") {
  TableShard shard = TableShard::create(embedding_spec(1)).value();
  const std::vector<std::uint64_t> keys = {1};
  const std::vector<float> gradient = {0};
  const std::uint64_t count = PushWindows::kMaxWorkers + 1000;
  for (std::uint64_t worker = 0; worker < count; ++worker)
    REQUIRE(shard.push({.worker = worker, .sequence = 1}, keys, gradient).value().applied);
  CHECK(shard.stats().workers == PushWindows::kMaxWorkers);
  CHECK_FALSE(shard.push({.worker = 1000, .sequence = 1}, keys, gradient).value().applied);
  CHECK_FALSE(shard.push({.worker = count - 1, .sequence = 1}, keys, gradient).value().applied);
  // 1000 was looked at, but pushed nothing: it is still the oldest.
  REQUIRE(shard.push({.worker = count, .sequence = 1}, keys, gradient).ok());
  CHECK(shard.push({.worker = 1000, .sequence = 1}, keys, gradient).value().applied);
}

TEST_CASE("lengths that do not fit are refused with what was expected") {
  TableShard shard = TableShard::create(embedding_spec(3)).value();
  const std::vector<std::uint64_t> keys = {4, 5};
  for (const std::size_t count : {0U, 5U, 7U, 9U}) {
    const auto result = shard.push({}, keys, std::vector<float>(count));
    REQUIRE_FALSE(result.ok());
    CHECK(result.error().code == Code::kInvalidArgument);
    CHECK(result.error().message.find("expected 6") != std::string::npos);
  }
  CHECK(shard.push({}, std::span<const std::uint64_t>{}, std::span<const float>{}).ok());
}

TEST_CASE("row numbers out of range are refused") {
  TableShard shard = TableShard::create(dense_spec(10, 1)).value();
  std::vector<float> out(2);
  const auto result = shard.pull(std::vector<std::uint64_t>{3, 10}, out.data());
  REQUIRE_FALSE(result.ok());
  CHECK(result.error().code == Code::kInvalidArgument);
  CHECK(result.error().message == "table 'bias': row 10 is out of range, it has 10 rows");
  CHECK_FALSE(shard.push({}, std::vector<std::uint64_t>{10}, std::vector<float>{1}).ok());
  CHECK_FALSE(shard.peek(std::vector<std::uint64_t>{10}, out.data()).ok());
  CHECK(shard.stats().pulls == 0);
}

TEST_CASE("keys of slots that the shard does not own are refused and make no row") {
  for (const TableSpec& spec : {embedding_spec(2), dense_spec(100, 2)}) {
    const SlotMap map = SlotMap::balanced(spec.slots, 2);
    TableShard shard = TableShard::create(spec, map.slots_of(1)).value();
    const std::uint64_t rows = shard.row_count();
    std::vector<float> out(2);
    int refused = 0;
    for (std::uint64_t key = 0; key < 100; ++key) {
      const bool owned = map.shard_of(slot_of(spec, key)) == 1;
      const auto result = shard.pull(std::vector<std::uint64_t>{key}, out.data());
      REQUIRE(result.ok() == owned);
      if (owned) continue;
      ++refused;
      CHECK(result.error().code == Code::kFailedPrecondition);
    }
    CHECK(refused > 30);
    if (spec.kind == TableKind::kDense) {
      CHECK(shard.row_count() == rows);
    } else {
      CHECK(shard.row_count() == 100U - static_cast<unsigned>(refused));
    }
  }
}

TEST_CASE("peeking makes no rows and shows what would be made") {
  TableShard shard = TableShard::create(embedding_spec(4)).value();
  REQUIRE(shard.push({}, std::vector<std::uint64_t>{1}, std::vector<float>(4, 1.0F)).ok());
  std::vector<float> peeked(12);
  REQUIRE(shard.peek(std::vector<std::uint64_t>{7, 1, 8}, peeked.data()).ok());
  CHECK(shard.row_count() == 1);
  CHECK(shard.stats().pulls == 0);
  CHECK(test::pull(shard, {7, 1, 8}) == peeked);
  CHECK(shard.row_count() == 3);
}

TEST_CASE("a push with a bad list of keys to pull is not applied") {
  TableShard shard = TableShard::create(dense_spec(4, 1)).value();
  std::vector<float> out(1);
  const std::vector<std::uint64_t> good = {1};
  const std::vector<std::uint64_t> bad = {4};
  const std::vector<float> gradient = {1};
  CHECK_FALSE(shard.push_pull({}, good, gradient, bad, out.data()).ok());
  CHECK(shard.version() == 0);
  const PushPullReceipt both = shard.push_pull({}, good, gradient, good, out.data()).value();
  CHECK(both.push.applied);
  CHECK(both.pull.version == 1);
  const float after = out[0];
  out[0] = 0;
  CHECK_FALSE(shard.push_pull({}, good, gradient, good, out.data()).value().push.applied);
  CHECK(out[0] == after);
}

TEST_CASE("rows are as they were while the table grows") {
  TableShard shard = TableShard::create(embedding_spec(64, Adagrad{})).value();
  std::vector<std::uint64_t> keys(200'000);
  std::iota(keys.begin(), keys.end(), 0);
  const auto pulled = test::pull(shard, keys);
  CHECK(shard.row_count() == keys.size());
  std::vector<float> expected(64);
  for (const std::uint64_t key : {0U, 65'535U, 65'536U, 131'072U, 199'999U}) {
    initialize_row(shard.spec(), key, expected.data());
    CHECK(
        std::equal(expected.begin(), expected.end(), pulled.begin() + static_cast<std::ptrdiff_t>(key) * 64));
  }
  CHECK(shard.stats().bytes >= keys.size() * 128 * sizeof(float));
}

TEST_CASE("Adam counts steps by row") {
  TableShard shard = TableShard::create(embedding_spec(2, Adam{})).value();
  const std::vector<std::uint64_t> both = {1, 2};
  const std::vector<std::uint64_t> one = {1, 1};
  const std::vector<float> gradients(4, 1.0F);
  REQUIRE(shard.push({.sequence = 0}, both, gradients).ok());
  REQUIRE(shard.push({.sequence = 1}, one, gradients).ok());
  const RowBatch rows = test::all_rows(shard);
  CHECK(rows.keys == both);
  CHECK(shard.layout().state[2].name == "steps");
  CHECK(test::field_of(shard.layout(), rows, 0, 2)[0] == 2);
  CHECK(test::field_of(shard.layout(), rows, 1, 2)[0] == 1);
}

TEST_CASE("a shard is not made from a bad spec, a wrong set of slots, or more than memory holds") {
  CHECK(TableShard::create(embedding_spec(0)).error().code == Code::kInvalidArgument);
  CHECK(TableShard::create(embedding_spec(1), SlotSet::all(8)).error().code == Code::kInvalidArgument);
}

}  // namespace
}  // namespace troupe::shards
