// What a step does with its gradients: clipping, and compensation for delay.
#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <vector>

#include "reference_table.hpp"
#include "row_history.hpp"
#include "support.hpp"

namespace troupe::shards {
namespace {

using test::dense_spec;
using test::embedding_spec;

double norm_of(std::span<const float> values) {
  double squares = 0;
  for (const float value : values) squares += double{value} * double{value};
  return std::sqrt(squares);
}

/// One gradient for each distinct key, in the order of the keys.
std::map<std::uint64_t, std::vector<double>> summed(std::uint64_t dim, const std::vector<std::uint64_t>& keys,
                                                    const std::vector<float>& gradients) {
  std::map<std::uint64_t, std::vector<double>> sums;
  for (std::size_t i = 0; i < keys.size(); ++i) {
    std::vector<double>& sum = sums[keys[i]];
    sum.resize(dim);
    for (std::size_t j = 0; j < dim; ++j) sum[j] += double{gradients[i * dim + j]};
  }
  return sums;
}

/// As torch.nn.utils.clip_grad_norm_ (without its 1e-6) and clip_grad_value_ do with one tensor.
void clip_reference(const Clipping& clipping, std::vector<double>& row) {
  const double norm = test::norm(row);
  if (clipping.row_norm > 0 && norm > double{clipping.row_norm})
    for (double& value : row) value *= double{clipping.row_norm} / norm;
  const double most{clipping.value};
  if (most > 0)
    for (double& value : row) value = std::clamp(value, -most, most);
}

void push_reference(test::ReferenceTable& table, const std::map<std::uint64_t, std::vector<double>>& rows) {
  std::vector<std::uint64_t> keys;
  std::vector<float> gradients;
  for (const auto& [key, row] : rows) {
    keys.push_back(key);
    for (const double value : row) gradients.push_back(static_cast<float>(value));
  }
  table.push(keys, gradients);
}

void check_rows(TableShard& shard, test::ReferenceTable& table, std::uint64_t keys) {
  for (std::uint64_t key = 0; key < keys; ++key) {
    const auto rows = test::pull(shard, {key});
    const auto expected = table.pull({key});
    for (std::size_t j = 0; j < rows.size(); ++j)
      REQUIRE(std::abs(double{rows[j]} - expected[j]) <= 1e-4 * (1 + std::abs(expected[j])));
  }
}

// ---- Clipping -----------------------------------------------------------------------------------

TEST_CASE("a key's summed gradient is held to its norm, then each number to its value") {
  std::mt19937_64 random(troupe::test::test_seed());
  for (const Clipping& clipping :
       {Clipping{.value = 0.25F}, Clipping{.row_norm = 0.75F}, Clipping{.value = 0.5F, .row_norm = 1},
        Clipping{.value = 100, .row_norm = 100}}) {
    for (TableSpec spec : {embedding_spec(3, Sgd{1}), dense_spec(40, 3, Adagrad{})}) {
      spec.clipping = clipping;
      REQUIRE(spec.validate().ok());
      TableShard shard = TableShard::create(spec).value();
      test::ReferenceTable table(spec);
      for (std::uint64_t i = 0; i < 40; ++i) {
        const auto keys = test::random_keys(random, 30, 40);
        const auto gradients = test::random_floats(random, keys.size() * 3);
        REQUIRE(shard.push({.sequence = i}, keys, gradients).ok());
        auto sums = summed(3, keys, gradients);
        for (auto& [key, row] : sums) clip_reference(clipping, row);
        push_reference(table, sums);
      }
      check_rows(shard, table, 40);
    }
  }
}

TEST_CASE("in rounds what is held is the mean of the round's gradients") {
  TableSpec spec = embedding_spec(2, Sgd{1});
  spec.initializer = Zeros{};
  spec.consistency = Synchronous{};
  spec.clipping.value = 1;
  TableShard shard = TableShard::create(spec).value();
  const std::vector<std::uint64_t> keys{5};
  REQUIRE(shard.keep({.worker = 1, .sequence = 0}, keys, std::vector<float>{6, 8}).value());
  REQUIRE(shard.keep({.worker = 2, .sequence = 0}, keys, std::vector<float>{-5, 8}).value());
  REQUIRE(shard
              .carry_out({.number = 1,
                          .take = {{{1, 0}, 0.5F}, {{2, 0}, 0.5F}},
                          .rate_scale = 1,
                          .forget = {},
                          .left = {}})
              .ok());
  CHECK(test::pull(shard, keys) == std::vector<float>{-0.5F, -1});
}

TEST_CASE("the gradients of whoever pushes are not changed, and those at the limits are what they were") {
  TableSpec spec = embedding_spec(2, Sgd{1});
  spec.initializer = Zeros{};
  spec.clipping = {.value = 3, .row_norm = 5, .push_norm = 0};
  TableShard shard = TableShard::create(spec).value();
  const std::vector<float> gradients{3, -3, 3e10F, 4e10F};
  auto given = gradients;
  REQUIRE(shard.push({.sequence = 0}, std::vector<std::uint64_t>{1, 2}, given).ok());
  CHECK(given == gradients);
  CHECK(test::pull(shard, {1}) == std::vector<float>{-3, 3});
  CHECK(test::pull(shard, {2})[0] == doctest::Approx(-3));
  CHECK(test::pull(shard, {2})[1] == -3);
  // The largest there are, and none.
  spec.clipping = {.value = 0, .row_norm = 1, .push_norm = 0};
  TableShard large = TableShard::create(spec).value();
  REQUIRE(large
              .push({.sequence = 0}, std::vector<std::uint64_t>{1, 2},
                    std::vector<float>{kLargestGradient, 0, 0, 0})
              .ok());
  CHECK(test::pull(large, {1, 2}) == std::vector<float>{-1, 0, 0, 0});
}

TEST_CASE("the norm of a push is that of all its parts together") {
  std::mt19937_64 random(troupe::test::test_seed());
  for (const float limit : {0.5F, 3.0F, 1e6F}) {
    auto a = test::random_floats(random, 4 * 7), b = test::random_floats(random, 4);
    const auto before_a = a;
    std::vector<float> all = a;
    all.insert(all.end(), b.begin(), b.end());
    const double norm = norm_of(all);
    const std::vector<std::span<float>> parts{a, {}, b};
    clip_push({.push_norm = limit}, 4, parts);
    const double factor = std::min(1.0, double{limit} / norm);
    for (std::size_t i = 0; i < a.size(); ++i)
      CHECK(double{a[i]} == doctest::Approx(factor * double{before_a[i]}));
    CHECK(std::hypot(norm_of(a), norm_of(b)) == doctest::Approx(factor * norm));
  }
  std::vector<float> largest(1000, kLargestGradient);
  const std::vector<std::span<float>> parts{largest};
  clip_push({.push_norm = 1}, 1, parts);
  CHECK(norm_of(largest) == doctest::Approx(1));
  clip_push({}, 1, parts);
  CHECK(norm_of(largest) == doctest::Approx(1));
}

TEST_CASE("limits and compensations that cannot be are refused by name") {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const auto refused = [](auto change, const std::string& part) {
    TableSpec spec = embedding_spec(1);
    change(spec);
    const auto valid = spec.validate();
    REQUIRE_FALSE(valid.ok());
    CHECK(valid.error().code == Code::kInvalidArgument);
    INFO(valid.error().message);
    CHECK(valid.error().message.find(part) != std::string::npos);
  };
  for (const float bad : {nan, -1.0F, std::numeric_limits<float>::infinity()}) {
    refused([&](TableSpec& s) { s.clipping.value = bad; }, "clipping's value is ");
    refused([&](TableSpec& s) { s.clipping.row_norm = bad; }, "clipping's row_norm is ");
    refused([&](TableSpec& s) { s.clipping.push_norm = bad; }, "clipping's push_norm is ");
    refused([&](TableSpec& s) { s.delay_compensation.lambda = bad; }, "delay_compensation's lambda is ");
  }
  for (const std::uint64_t bad : {std::uint64_t{0}, DelayCompensation::kMaxHistory + 1})
    refused([&](TableSpec& s) { s.delay_compensation.history = bad; }, "delay_compensation's history is ");
  for (const Consistency& mode : {Consistency(Synchronous{}), Consistency(KOfN{2, LatePushes::kScale})})
    refused(
        [&](TableSpec& s) {
          s.consistency = mode;
          s.step_scaling = StepScaling::kInverseStaleness;
        },
        "step_scaling is inverse_staleness");
  for (const Consistency& mode : {Consistency(Synchronous{}), Consistency(KOfN{2, LatePushes::kScale})})
    refused(
        [&](TableSpec& s) {
          s.consistency = mode;
          s.delay_compensation.lambda = 1;
        },
        "0 for a table in rounds");
}

// ---- Compensation for delay ---------------------------------------------------------------------

/// Workers that pull, and push some pushes later what they made of it; beside it the same in one thread, with
/// a copy of what each worker saw, as algorithm 2 of Zheng et al. 2017 has it.
void train_late(const TableSpec& spec, std::uint64_t seed, bool sliced) {
  constexpr std::uint64_t kRange = 25;
  constexpr std::size_t kWorkers = 4;
  const std::uint64_t dim = spec.dim;
  std::mt19937_64 random(seed);
  TableShard shard = TableShard::create(spec).value();
  test::ReferenceTable table(spec);
  struct Seen {
    std::uint64_t version = kNotPulled;
    std::map<std::uint64_t, std::vector<double>> rows;
  };
  std::vector<Seen> seen(kWorkers);
  const auto pull = [&](Seen& worker) {
    std::vector<std::uint64_t> keys(kRange);
    for (std::uint64_t key = 0; key < kRange; ++key) keys[key] = key;
    std::vector<float> out(kRange * dim);
    worker.version = shard.pull(keys, out.data()).value().version;
    for (const std::uint64_t key : keys) worker.rows[key] = table.pull({key});
  };
  std::uint64_t corrected = 0;
  for (std::uint64_t i = 0; i < 300; ++i) {
    Seen& worker = seen[random() % kWorkers];
    if (worker.version == kNotPulled || random() % 2 == 0) pull(worker);
    const auto keys = test::random_keys(random, 1 + random() % 12, kRange);
    const auto gradients = test::random_floats(random, keys.size() * dim);
    const PushHeader header{.worker = 1, .sequence = i, .pulled_version = worker.version};
    if (sliced) {
      shard.begin_push(header, keys, gradients);
      Result<std::optional<PushReceipt>> done = std::optional<PushReceipt>();
      while (done && !*done) done = shard.go_on_with_push(1 + random() % 5);
      REQUIRE(done.ok());
    } else {
      REQUIRE(shard.push(header, keys, gradients).ok());
    }
    auto sums = summed(dim, keys, gradients);
    for (auto& [key, row] : sums) {
      clip_reference(spec.clipping, row);
      const auto now = table.pull({key});
      const auto& was = worker.rows.at(key);
      if (now != was) ++corrected;
      for (std::size_t j = 0; j < dim; ++j)
        row[j] += double{spec.delay_compensation.lambda} * row[j] * row[j] * (now[j] - was[j]);
    }
    push_reference(table, sums);
  }
  CHECK(corrected > 300);
  check_rows(shard, table, kRange);
}

TEST_CASE("late pushes are compensated for what was done since their pull, as one process would") {
  const std::uint64_t seed = troupe::test::test_seed();
  for (const Optimizer& optimizer : {Optimizer(Sgd{.learning_rate = 0.1F}), Optimizer(Adagrad{})}) {
    for (TableSpec spec : {embedding_spec(3, optimizer), dense_spec(25, 3, optimizer)}) {
      spec.delay_compensation = {.lambda = 0.5F, .history = 300};
      train_late(spec, seed, false);
      train_late(spec, seed, true);
      spec.consistency = BoundedStaleness{3};
      spec.clipping = {.value = 0.5F, .row_norm = 1, .push_norm = 0};
      REQUIRE(spec.validate().ok());
      train_late(spec, seed, true);
    }
  }
}

/// One row of one weight, a rate of 1/4, and pushes of -1: the weight grows by 1/4 each.
struct OneWeight {
  explicit OneWeight(std::uint64_t history) {
    TableSpec spec = embedding_spec(1, Sgd{0.25F});
    spec.initializer = Zeros{};
    spec.delay_compensation = {.lambda = 1, .history = history};
    shard.emplace(TableShard::create(spec).value());
  }
  float push(std::uint64_t pulled, float gradient = -1) {
    REQUIRE(shard
                ->push({.sequence = sequence++, .pulled_version = pulled}, std::vector<std::uint64_t>{7},
                       std::vector<float>{gradient})
                .ok());
    return test::pull(*shard, {7})[0];
  }
  std::optional<TableShard> shard;
  std::uint64_t sequence = 0;
};

TEST_CASE("a push that is staler than what is kept is corrected for the last steps only") {
  OneWeight one(3);
  for (std::uint64_t i = 0; i < 6; ++i) one.push(i);
  // At 1.5; three pushes ago it was 0.75, five ago 0.25: -1 + 0.75.
  CHECK(one.push(1) == 1.5F + 0.25F * 0.25F);
  OneWeight far(5);
  for (std::uint64_t i = 0; i < 6; ++i) far.push(i);
  CHECK(far.push(1) == 1.5F - 0.25F * 0.25F);
}

TEST_CASE("a push that has seen the present weights, or none, is not corrected") {
  OneWeight one(8);
  for (std::uint64_t i = 0; i < 4; ++i) one.push(i);
  CHECK(one.push(4) == 1.25F);
  CHECK(one.push(kNotPulled) == 1.5F);
  CHECK(one.push(99) == 1.75F);  // of before a restore
}

TEST_CASE("what is corrected stays within what a gradient may be") {
  OneWeight one(8);
  const auto push = [&](float gradient) { return one.push(0, gradient); };
  push(-1e10F);
  for (int i = 0; i < 8; ++i) CHECK(std::isfinite(push(-kLargestGradient)));
}

TEST_CASE("what rows were costs memory for the last pushes only") {
  TableSpec spec = embedding_spec(4);
  const auto bytes_after = [&](std::uint64_t pushes) {
    TableShard shard = TableShard::create(spec).value();
    for (std::uint64_t i = 0; i < pushes; ++i) {
      std::vector<std::uint64_t> keys(10);
      for (std::uint64_t k = 0; k < 10; ++k) keys[k] = i % 7 * 10 + k;
      REQUIRE(shard.push({.sequence = i}, keys, std::vector<float>(40, 1)).ok());
    }
    return shard.stats().bytes;
  };
  const std::uint64_t without = bytes_after(100);
  spec.delay_compensation = {.lambda = 1, .history = 5};
  const std::uint64_t kept = bytes_after(100);
  CHECK(kept > without);
  CHECK(kept == bytes_after(1000));
  spec.delay_compensation.history = 50;
  CHECK(bytes_after(100) > kept);
}

TEST_CASE("a history says what a row was at each version that it holds") {
  std::mt19937_64 random(troupe::test::test_seed());
  constexpr std::uint64_t kKeys = 9, kKept = 6, kDim = 2;
  RowHistory history(kDim, kKept);
  std::vector<std::vector<float>> rows(kKeys, std::vector<float>(kDim));
  std::vector<std::vector<std::vector<float>>> at{rows};  // by version
  for (std::uint64_t version = 1; version < 200; ++version) {
    for (std::uint64_t key = 0; key < kKeys; ++key) {
      if (random() % 3 == 0) continue;
      history.note(version, std::span(&key, 1), rows[key].data());
      for (float& weight : rows[key]) weight = static_cast<float>(random() % 100);
    }
    at.push_back(rows);
    for (std::uint64_t pulled = version > kKept ? version - kKept : 0; pulled <= version; ++pulled) {
      for (std::uint64_t key = 0; key < kKeys; ++key) {
        const float* row = history.at(key, pulled);
        const auto& expected = at[pulled][key];
        CHECK(std::equal(expected.begin(), expected.end(), row == nullptr ? rows[key].data() : row));
      }
    }
  }
  CHECK(history.at(kKeys, 0) == nullptr);
}

TEST_CASE("a history of rows in ranges says what one of their keys says, without a byte for a row's key") {
  constexpr std::uint64_t kDim = 3, kKept = 4, kRows = 50;
  std::mt19937_64 random(troupe::test::test_seed());
  RowHistory by_key(kDim, kKept), in_ranges(kDim, kKept), mixed(kDim, kKept);
  for (std::uint64_t version = 1; version < 60; ++version) {
    std::vector<RowRange> ranges;
    for (std::uint64_t row = random() % 20; row < kRows; row += 1 + random() % 20) {
      ranges.push_back({row, std::min(kRows, row + 1 + random() % 20)});
      row = ranges.back().end;
    }
    const RowKeys rows{std::span<const RowRange>(ranges)};
    std::vector<std::uint64_t> keys;
    rows.for_each_range([&](const RowRange& r) {
      for (std::uint64_t row = r.begin; row < r.end; ++row) keys.push_back(row);
    });
    const auto weights = test::random_floats(random, keys.size() * kDim);
    by_key.note(version, keys, weights.data());
    const std::size_t half = keys.size() / 2;  // in two parts
    in_ranges.note(version, rows.subspan(0, half), weights.data());
    in_ranges.note(version, rows.subspan(half, keys.size() - half), weights.data() + half * kDim);
    mixed.note(version, random() % 2 == 0 ? rows : RowKeys(keys), weights.data());
    for (std::uint64_t row = 0; row < kRows; ++row) {
      const std::uint64_t pulled = version - std::min(version, random() % (kKept + 2));
      const float* expected = by_key.at(row, pulled);
      for (const RowHistory* history : {&in_ranges, &mixed}) {
        const float* got = history->at(row, pulled);
        REQUIRE((got == nullptr) == (expected == nullptr));
        if (got) CHECK(std::equal(got, got + kDim, expected));
      }
    }
  }
  RowHistory large(2, 1);
  const std::vector<RowRange> all{{0, 100'000}};
  large.note(1, RowKeys(std::span(all)), std::vector<float>(200'000).data());
  CHECK(large.bytes() < 200'000 * sizeof(float) + 1'000);
}

TEST_CASE("late pushes of ranges are compensated as those of their keys are") {
  TableSpec spec = dense_spec(40, 3, Sgd{0.1F, 0});
  spec.delay_compensation = {.lambda = 1, .history = 8};
  TableShard ranged = TableShard::create(spec).value(), keyed = TableShard::create(spec).value();
  std::mt19937_64 random(troupe::test::test_seed());
  for (std::uint64_t push = 0; push < 60; ++push) {
    const std::uint64_t begin = random() % 20;
    const std::vector<RowRange> range{{begin, begin + 1 + random() % 20}};
    std::vector<std::uint64_t> keys;
    for (std::uint64_t row = range[0].begin; row < range[0].end; ++row) keys.push_back(row);
    const auto gradients = test::random_floats(random, keys.size() * 3);
    const PushHeader header{.worker = 1,
                            .clock = push,
                            .sequence = push,
                            .pulled_version = push - std::min(push, random() % 5),
                            .step = kNotPulled};
    REQUIRE(ranged.push(header, RowKeys(std::span(range)), gradients).ok());
    REQUIRE(keyed.push(header, keys, gradients).ok());
  }
  CHECK(test::all_rows(ranged).records == test::all_rows(keyed).records);
}

}  // namespace
}  // namespace troupe::shards
