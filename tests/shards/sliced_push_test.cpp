// A push in slices is the same as a push.
#include <algorithm>
#include <functional>
#include <limits>
#include <optional>
#include <set>
#include <utility>
#include <vector>

#include "support.hpp"

using namespace troupe::shards;
using namespace troupe::shards::test;
using troupe::Result;

namespace {

Result<PushReceipt> push_in_slices(TableShard& shard, const PushHeader& header,
                                   const std::vector<std::uint64_t>& keys,
                                   const std::vector<float>& gradients, std::mt19937_64& random,
                                   const std::function<void()>& between = {}) {
  shard.begin_push(header, keys, gradients);
  for (;;) {
    auto receipt = shard.go_on_with_push(1 + random() % 7);
    if (!receipt) return receipt.error();
    if (*receipt) return **receipt;
    if (between) between();
  }
}

std::vector<float> rows_of(const TableShard& shard, const std::vector<std::uint64_t>& keys) {
  std::vector<float> rows(keys.size() * shard.spec().dim);
  REQUIRE(shard.peek(keys, rows.data()).ok());
  return rows;
}

struct Push {
  std::vector<std::uint64_t> keys;
  std::vector<float> gradients;
};

/// Of small whole numbers: sums are exact in any order.
Push random_push(std::mt19937_64& random, std::uint64_t dim, std::uint64_t range) {
  Push push;
  push.keys.resize(random() % 40);
  for (auto& key : push.keys) key = random() % range;
  push.gradients.resize(push.keys.size() * dim);
  for (auto& gradient : push.gradients) gradient = static_cast<float>(random() % 9) - 4;
  return push;
}

std::vector<std::uint64_t> all_keys(std::uint64_t count) {
  std::vector<std::uint64_t> keys(count);
  for (std::uint64_t i = 0; i < count; ++i) keys[i] = i;
  return keys;
}

}  // namespace

TEST_CASE("pushes in slices have the effects, the answers and the errors of whole ones") {
  std::mt19937_64 random(troupe::test::test_seed());
  for (const bool dense : {false, true})
    for (const troupe::DType weights : {troupe::DType::kFloat32, troupe::DType::kFloat16}) {
      TableSpec spec = dense ? dense_spec(60, 5, Adagrad{}) : embedding_spec(5, Adagrad{});
      spec.weights = weights;
      TableShard whole = TableShard::create(spec).value(), sliced = TableShard::create(spec).value();
      for (std::uint64_t round = 0; round < 120; ++round) {
        CAPTURE(round);
        Push push = random_push(random, spec.dim, 60);
        if (round % 5 == 1 && !push.keys.empty()) {  // refused: by size, by number, by sum, by key
          const std::size_t at = random() % push.gradients.size();
          push.gradients[at] = round % 2 ? std::numeric_limits<float>::infinity() : 2e15F;
          if (round % 3 == 0) push.gradients.pop_back();
          if (round % 4 == 0 && dense) push.keys.back() = 60;
        }
        const PushHeader header{.worker = 1, .sequence = round - round % 7 / 6, .pulled_version = round / 2};
        const auto expected = whole.push(header, push.keys, push.gradients);
        const auto got = push_in_slices(sliced, header, push.keys, push.gradients, random);
        REQUIRE(got.ok() == expected.ok());
        if (!got) {
          CHECK(got.error().to_string() == expected.error().to_string());
        } else {
          CHECK(got->applied == expected->applied);
          CHECK(got->version == expected->version);
          CHECK(got->staleness == expected->staleness);
        }
      }
      CHECK(rows_of(sliced, all_keys(60)) == rows_of(whole, all_keys(60)));
      const ShardStats a = whole.stats(), b = sliced.stats();
      CHECK(b.pushes == a.pushes);
      CHECK(b.pushed_keys == a.pushed_keys);
      CHECK(b.repeated_pushes == a.repeated_pushes);
      CHECK(b.rejected_pushes == a.rejected_pushes);
      CHECK(b.rejected_pushes > 0);
      CHECK(b.repeated_pushes > 0);
    }
}

namespace {

/// Of a table in rounds: some pushes and an order that takes them, whole or in slices of a few keys.
class Round {
 public:
  Round(const TableSpec& spec, std::mt19937_64& random) : spec_(spec), random_(random) {
    whole_ = TableShard::create(spec).value(), sliced_ = TableShard::create(spec).value();
  }

  void push(std::uint64_t worker, bool in_ranges) {
    Push push = random_push(random_, spec_.dim, 60);
    std::vector<RowRange> ranges;
    if (in_ranges) {
      for (std::uint64_t row = random_() % 9; row < 60; row += 1 + random_() % 9) {
        const std::uint64_t end = std::min<std::uint64_t>(60, row + 1 + random_() % 9);
        ranges.push_back({row, end});
        row = end;
      }
      push.gradients.assign(RowKeys(std::span(std::as_const(ranges))).size() * spec_.dim, 0);
      for (auto& gradient : push.gradients) gradient = static_cast<float>(random_() % 9) - 4;
    }
    const RowKeys keys = in_ranges ? RowKeys(std::span(std::as_const(ranges))) : RowKeys(push.keys);
    const PushHeader header{.worker = worker, .sequence = order_.number};
    const auto expected = whole_->keep(header, keys, push.gradients);
    REQUIRE(expected.ok());
    const auto got = keep_in_slices(header, keys, push.gradients);
    REQUIRE(got.ok());
    CHECK(got->applied == *expected);
    order_.take.push_back({{worker, header.sequence}, static_cast<float>(1 + random_() % 3)});
  }
  Result<PushReceipt> keep_in_slices(const PushHeader& header, const RowKeys& keys,
                                     const std::vector<float>& gradients) {
    const std::size_t most = 1 + random_() % 7;
    std::size_t slices = 0;
    sliced_->begin_keep(header, keys, gradients);
    for (;; ++slices) {
      auto receipt = sliced_->go_on_with_push(most);
      if (!receipt) return receipt.error();
      if (!*receipt) continue;
      // Those for which there was no work are few.
      if ((*receipt)->applied) CHECK(slices * most >= 2 * distinct(keys));
      return **receipt;
    }
  }
  void carry_out() {
    const std::size_t most = 1 + random_() % 7;
    const std::uint64_t keys = sliced_->keys_of(order_);
    CHECK(whole_->keys_of(order_) == keys);
    for (int time = 0; time < 2; ++time) {  // and once again, which changes nothing
      REQUIRE(whole_->carry_out(order_).ok());
      sliced_->begin_order(order_);
      Result<bool> over = false;
      std::size_t slices = 0;
      do over = sliced_->go_on_with_order(most), ++slices;
      while (over && !*over);
      REQUIRE(over.ok());
      CHECK(slices * most >= (time == 0 ? std::min<std::size_t>(keys, 60) : 0));
      if (time == 1) CHECK(slices == 1);
    }
    CHECK(sliced_->order_number() == order_.number);
    CHECK(sliced_->keys_of(order_) == 0);
    ++order_.number;
    order_.take.clear();
  }
  void check() const {
    CHECK(rows_of(*sliced_, all_keys(60)) == rows_of(*whole_, all_keys(60)));
    CHECK(sliced_->version() == whole_->version());
    CHECK(sliced_->stats().pushes == whole_->stats().pushes);
    CHECK(sliced_->stats().pushed_keys == whole_->stats().pushed_keys);
  }

 private:
  static std::size_t distinct(const RowKeys& keys) {
    if (keys.in_ranges()) return keys.size();
    return std::set<std::uint64_t>(keys.list().begin(), keys.list().end()).size();
  }

  TableSpec spec_;
  std::mt19937_64& random_;
  std::optional<TableShard> whole_, sliced_;
  StepOrder order_{.number = 1, .take = {}, .rate_scale = 0.5F, .forget = {}, .left = {}};
};

}  // namespace

TEST_CASE("pushes for rounds, and the steps made of them, are in slices what they are as wholes") {
  std::mt19937_64 random(troupe::test::test_seed());
  for (const bool dense : {false, true}) {
    TableSpec spec = dense ? dense_spec(60, 5, Adagrad{}) : embedding_spec(5, Adagrad{});
    spec.consistency = Synchronous{};
    spec.clipping.value = 3;
    Round round(spec, random);
    for (int i = 0; i < 60; ++i) {
      for (std::uint64_t worker = 1; worker <= random() % 5; ++worker)
        round.push(worker, dense && (i % 3 == 0 || random() % 2 == 0));
      round.carry_out();
    }
    round.check();
  }
}

TEST_CASE("a step made in slices of ranges that overlap is the one that whole tensors make") {
  TableSpec spec = dense_spec(100, 2, Sgd{1, 0});
  spec.consistency = Synchronous{};
  spec.initializer = Zeros{};
  TableShard shard = TableShard::create(spec).value();
  const std::vector<RowRange> first{{0, 40}, {60, 100}}, second{{20, 70}};
  REQUIRE(shard.keep({.worker = 1}, RowKeys(std::span(first)), std::vector<float>(160, 1)).value());
  REQUIRE(shard.keep({.worker = 2}, RowKeys(std::span(second)), std::vector<float>(100, 2)).value());
  shard.begin_order(
      {.number = 1, .take = {{{1, 0}, 1.0F}, {{2, 0}, 0.5F}}, .rate_scale = 1, .forget = {}, .left = {}});
  int slices = 0;
  for (bool over = false; !over; ++slices) over = shard.go_on_with_order(7).value();
  CHECK(slices >= 3 * 100 / 7);
  const auto rows = rows_of(shard, all_keys(100));
  for (std::size_t row = 0; row < 100; ++row) {
    const bool both = (row >= 20 && row < 40) || (row >= 60 && row < 70);
    CHECK(rows[2 * row] == (both ? -2 : -1));
  }
}

TEST_CASE("a cut that is read between the slices of a push has the rows of before") {
  std::mt19937_64 random(troupe::test::test_seed());
  for (int round = 0; round < 20; ++round) {
    TableShard shard = TableShard::create(embedding_spec(3, Adagrad{})).value();
    std::vector<float> out(100 * 3);
    REQUIRE(shard.pull(all_keys(100), out.data()).ok());
    const auto before = rows_of(shard, all_keys(100));
    REQUIRE(shard.open_cut().value() == 100);
    ExtractPage page;
    RowBatch cut;
    const auto read = [&] {
      if (!page.done && random() % 3 == 0) page = shard.read_cut(page.next_cursor, 5, cut).value();
    };
    Push push = random_push(random, 3, 150);
    for (auto& gradient : push.gradients) gradient += 10;
    REQUIRE(
        push_in_slices(shard, {.worker = 1, .sequence = 1}, push.keys, push.gradients, random, read).ok());
    while (!page.done) page = shard.read_cut(page.next_cursor, 5, cut).value();
    shard.close_cut();
    REQUIRE(cut.keys.size() == 100);
    for (std::size_t i = 0; i < cut.keys.size(); ++i) {
      std::vector<float> row(3);
      std::memcpy(row.data(), cut.records.data() + i * shard.layout().bytes(), 3 * sizeof(float));
      const float* was = before.data() + cut.keys[i] * 3;
      CHECK(row == std::vector<float>(was, was + 3));
    }
  }
}

TEST_CASE("a pull that is continued counts as one") {
  TableShard shard = TableShard::create(embedding_spec(2)).value();
  std::vector<float> out(10 * 2);
  const auto keys = all_keys(10);
  REQUIRE(shard.pull(std::span(keys).first(4), out.data()).ok());
  REQUIRE(shard.pull_more(std::span(keys).subspan(4), out.data() + 8).ok());
  CHECK(shard.stats().pulls == 1);
  CHECK(shard.stats().pulled_keys == 10);
  CHECK(out == rows_of(shard, keys));
}
