// Pulls and pushes of ranges of a dense table's rows are those of the lists of these rows.
#include <limits>
#include <optional>
#include <vector>

#include <troupe/shards/gradient_merge.hpp>

#include "support.hpp"

using namespace troupe::shards;
using namespace troupe::shards::test;
using troupe::Code;
using troupe::Result;

namespace {

constexpr std::uint64_t kRows = 400;

/// Ranges, and the list of their rows.
struct Asked {
  std::vector<RowRange> ranges;
  std::vector<std::uint64_t> keys;
  RowKeys rows() const { return RowKeys(std::span<const RowRange>(ranges)); }
};

Asked random_ranges(std::mt19937_64& random, std::uint64_t begin = 0, std::uint64_t end = kRows) {
  Asked asked;
  std::uint64_t row = begin + random() % 20;
  while (row < end && asked.ranges.size() < 4) {
    const RowRange range{row, std::min(end, row + 1 + random() % 60)};
    asked.ranges.push_back(range);
    for (row = range.begin; row < range.end; ++row) asked.keys.push_back(row);
    row += random() % 40;
  }
  return asked;
}

std::vector<float> all_of(const TableShard& shard) {
  std::vector<float> rows(kRows * shard.spec().dim);
  const std::vector<RowRange> all{{0, kRows}};
  REQUIRE(shard.peek(RowKeys(std::span(all)), rows.data()).ok());
  return rows;
}

Result<PushReceipt> push(TableShard& shard, const PushHeader& header, const RowKeys& keys,
                         const std::vector<float>& gradients, bool sliced, std::mt19937_64& random) {
  if (!sliced) return shard.push(header, keys, gradients);
  shard.begin_push(header, keys, gradients);
  for (;;) {
    auto receipt = shard.go_on_with_push(1 + random() % 50);
    if (!receipt) return receipt.error();
    if (*receipt) return **receipt;
  }
}

}  // namespace

TEST_CASE("a push of ranges, whole or in slices, does what one of their rows does") {
  std::mt19937_64 random(troupe::test::test_seed());
  for (const int kind : {0, 1, 2, 3}) {
    const bool sliced = kind % 2 == 1, adjusted = kind >= 2;
    TableSpec spec = dense_spec(kRows, 5, Adam{});
    if (adjusted) {
      spec.clipping = {.value = 0.5F, .row_norm = 0.8F};
      spec.delay_compensation.lambda = 0.5F;
    }
    TableShard ranges = TableShard::create(spec).value(), keys = TableShard::create(spec).value();
    for (std::uint64_t sequence = 0; sequence < 60; ++sequence) {
      const Asked asked = random_ranges(random);
      auto gradients = random_floats(random, asked.keys.size() * spec.dim);
      if (sequence % 7 == 3 && !gradients.empty())
        gradients[random() % gradients.size()] = std::numeric_limits<float>::quiet_NaN();
      if (sequence % 11 == 5) gradients.push_back(1);
      const PushHeader header{.worker = 1, .sequence = sequence - sequence % 5 / 4, .pulled_version = 3};
      const auto expected = keys.push(header, asked.keys, gradients);
      const auto got = push(ranges, header, asked.rows(), gradients, sliced, random);
      REQUIRE(got.ok() == expected.ok());
      if (!got) {
        CHECK(got.error().to_string() == expected.error().to_string());
      } else {
        CHECK(got->applied == expected->applied);
        CHECK(got->staleness == expected->staleness);
      }
      std::vector<float> rows(asked.keys.size() * spec.dim), same(rows.size());
      REQUIRE(ranges.pull(asked.rows(), rows.data()).ok());
      REQUIRE(keys.pull(asked.keys, same.data()).ok());
      REQUIRE(rows == same);
    }
    CHECK(all_of(ranges) == all_of(keys));
    const ShardStats a = keys.stats(), b = ranges.stats();
    CHECK(b.pushes == a.pushes);
    CHECK(b.pushed_keys == a.pushed_keys);
    CHECK(b.repeated_pushes == a.repeated_pushes);
    CHECK(b.rejected_pushes == a.rejected_pushes);
    CHECK(a.rejected_pushes > 0);
    CHECK(a.repeated_pushes > 0);
  }
}

TEST_CASE("ranges that cannot be change nothing of a shard, pushed, pulled or kept for a round") {
  TableSpec spec = dense_spec(kRows, 2);
  std::mt19937_64 random(1);
  for (const Consistency& consistency : {Consistency(Asynchronous{}), Consistency(Synchronous{})}) {
    spec.consistency = consistency;
    SlotSet half = SlotMap::balanced(spec.slots, 2).slots_of(0);  // rows 0 to 199
    TableShard shard = TableShard::create(spec, half).value();
    const auto refused = [&](const std::vector<RowRange>& ranges, std::size_t rows, Code code) {
      const RowKeys keys((std::span(ranges)));
      const std::vector<float> gradients(rows * spec.dim, 1.0F);
      std::vector<float> out(2 * kRows * spec.dim);
      const PushHeader header{.worker = 1, .sequence = 1};
      if (in_rounds(consistency)) {
        CHECK(shard.keep(header, keys, gradients).error().code == code);
      } else {
        CHECK(shard.push(header, keys, gradients).error().code == code);
        CHECK(push(shard, header, keys, gradients, true, random).error().code == code);
      }
      if (rows == keys.size()) CHECK(shard.pull(keys, out.data()).error().code == code);
    };
    refused({{0, 10}, {5, 15}}, 20, Code::kInvalidArgument);
    refused({{10, 20}, {0, 5}}, 15, Code::kInvalidArgument);
    refused({{0, kRows + 1}}, kRows + 1, Code::kInvalidArgument);
    refused({{190, 210}}, 20, Code::kFailedPrecondition);
    refused({{300, 310}}, 10, Code::kFailedPrecondition);
    refused({{0, 10}}, 9, Code::kInvalidArgument);
    refused({{0, 10}}, 11, Code::kInvalidArgument);
    CHECK(shard.version() == 0);
    std::vector<float> rows(200 * spec.dim), first(spec.dim);
    const std::vector<RowRange> own{{0, 200}};
    REQUIRE(shard.peek(RowKeys(std::span(own)), rows.data()).ok());
    for (std::uint64_t row = 0; row < 200; ++row) {
      initialize_row(spec, row, first.data());
      CHECK(
          std::equal(first.begin(), first.end(), rows.begin() + static_cast<std::ptrdiff_t>(row * spec.dim)));
    }
  }
}

TEST_CASE("a push of a range that some groups have had is applied in the others, once") {
  const TableSpec spec = dense_spec(kRows, 3);
  const SlotMap halves = SlotMap::balanced(spec.slots, 2);
  std::mt19937_64 random(troupe::test::test_seed());
  for (int turn = 0; turn < 20; ++turn) {
    TableShard whole = TableShard::create(spec).value(), expected = TableShard::create(spec).value();
    // The first half of the groups comes from a shard that had it.
    SequenceWindow window;
    window.mark(5);
    whole.merge_windows(groups_of(halves.slots_of(0)), 1, window);
    const Asked asked = random_ranges(random);
    const auto gradients = random_floats(random, asked.keys.size() * spec.dim);
    const PushHeader header{.worker = 1, .sequence = 5};
    for (int repeat = 0; repeat < 2; ++repeat) {
      const bool sliced = turn % 2 == 1;
      REQUIRE(push(whole, header, asked.rows(), gradients, sliced, random).ok());
    }
    std::vector<std::uint64_t> keys;
    std::vector<float> left;
    for (std::size_t i = 0; i < asked.keys.size(); ++i) {
      if (halves.shard_of(slot_of(spec, asked.keys[i])) == 0) continue;
      keys.push_back(asked.keys[i]);
      for (std::uint64_t j = 0; j < spec.dim; ++j) left.push_back(gradients[i * spec.dim + j]);
    }
    REQUIRE(expected.push(header, keys, left).ok());
    CHECK(all_of(whole) == all_of(expected));
  }
}

TEST_CASE("a round of ranges and lists makes the step that a round of lists makes") {
  std::mt19937_64 random(troupe::test::test_seed());
  TableSpec spec = dense_spec(kRows, 4, Sgd{0.25F, 0});
  spec.consistency = Synchronous{};
  for (int turn = 0; turn < 30; ++turn) {
    const int lists = turn % 3;  // of four pushes
    TableShard ranges = TableShard::create(spec).value(), keys = TableShard::create(spec).value();
    StepOrder order{.number = 1, .take = {}, .rate_scale = 1, .forget = {}, .left = {}};
    for (std::uint64_t worker = 0; worker < 4; ++worker) {
      const Asked asked = random_ranges(random);
      // Whole numbers and a weight of 1/4: sums are exact in any order.
      std::vector<float> gradients(asked.keys.size() * spec.dim);
      for (float& gradient : gradients) gradient = static_cast<float>(random() % 9) - 4;
      const PushHeader header{.worker = worker, .sequence = 1};
      const bool list = worker < static_cast<std::uint64_t>(lists);
      REQUIRE(ranges.keep(header, list ? RowKeys(asked.keys) : asked.rows(), gradients).value());
      REQUIRE(keys.keep(header, asked.keys, gradients).value());
      order.take.push_back({{worker, 1}, 0.25F});
    }
    REQUIRE(ranges.carry_out(order).ok());
    REQUIRE(keys.carry_out(order).ok());
    CHECK(all_of(ranges) == all_of(keys));
    CHECK(ranges.stats().pushed_keys == keys.stats().pushed_keys);
  }
}

TEST_CASE("gradients of a range are copied, and those that a table would refuse are named by their row") {
  for (const std::uint64_t dim : {1U, 7U, 5000U}) {
    const TableSpec spec = dense_spec(TableSpec::kMaxRows, dim);
    const std::uint64_t rows = dim == 1 ? 9000 : 20;
    std::mt19937_64 random(dim);
    auto gradients = random_floats(random, rows * dim);
    std::vector<float> copy(gradients.size());
    REQUIRE(copy_gradients(spec, 1000, rows, gradients.data(), copy.data()).ok());
    CHECK(copy == gradients);
    for (const std::uint64_t row : {std::uint64_t{0}, rows / 2, rows - 1}) {
      auto bad = gradients;
      bad[row * dim + dim - 1] = 2e15F;
      const auto refused = copy_gradients(spec, 1000, rows, bad.data(), copy.data());
      CHECK(refused.error().code == Code::kInvalidArgument);
      CHECK(refused.error().message == "table 'bias': the gradient of key " + std::to_string(1000 + row) +
                                           " is 2e+15 in column " + std::to_string(dim - 1) +
                                           ", expected numbers up to 1e+15");
    }
  }
}
