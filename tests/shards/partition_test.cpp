#include <troupe/shards/partition.hpp>
#include <troupe/shards/slot_groups.hpp>

#include <algorithm>
#include <numeric>

#include "support.hpp"

namespace troupe::shards {
namespace {

using test::dense_spec;
using test::embedding_spec;

TEST_CASE("slots of embedding keys are balanced whatever pattern the keys have") {
  TableSpec spec = embedding_spec(4);
  spec.slots = 64;
  constexpr std::uint64_t kKeys = 64000;
  for (const int shift : {0, 8, 32, 58}) {
    for (const std::uint64_t step : {1, 3, 1024}) {
      std::vector<int> counts(spec.slots);
      for (std::uint64_t i = 0; i < kKeys; ++i) ++counts[slot_of(spec, (i * step) << shift)];
      if (shift == 58) continue;  // only 64 different keys: no count to check, but no slot out of range
      INFO("shift ", shift, " step ", step);
      // 1000 expected, standard deviation 31.4: five of them either side.
      CHECK(*std::min_element(counts.begin(), counts.end()) > 840);
      CHECK(*std::max_element(counts.begin(), counts.end()) < 1160);
    }
  }
}

TEST_CASE("one slot takes every key") {
  TableSpec spec = embedding_spec(4);
  spec.slots = 1;
  CHECK(slot_of(spec, 0) == 0);
  CHECK(slot_of(spec, UINT64_MAX) == 0);
}

TEST_CASE("slots of a dense table are ranges of rows of equal size that cover it") {
  for (const std::uint64_t rows : {1U, 2U, 7U, 63U, 64U, 65U, 1000U, 4097U}) {
    TableSpec spec = dense_spec(rows, 2);
    spec.slots = 64;
    std::uint64_t next = 0;
    for (std::uint32_t slot = 0; slot < spec.slots; ++slot) {
      const RowRange range = rows_of_slot(spec, slot);
      REQUIRE(range.begin == next);
      REQUIRE(range.end - range.begin >= rows / 64);
      REQUIRE(range.end - range.begin <= rows / 64 + 1);
      for (std::uint64_t row = range.begin; row < range.end; ++row) REQUIRE(slot_of(spec, row) == slot);
      next = range.end;
    }
    CHECK(next == rows);
  }
}

TEST_CASE("the largest dense table's slots are computed without overflow") {
  TableSpec spec = dense_spec(TableSpec::kMaxRows, 1);
  spec.slots = TableSpec::kMaxSlots;
  CHECK(slot_of(spec, spec.rows - 1) == spec.slots - 1);
  CHECK(rows_of_slot(spec, spec.slots - 1).end == spec.rows);
}

TEST_CASE(
    "a balanced map gives each shard the same number of neighbouring groups, or slots if they are more") {
  for (const std::uint32_t shards : {1U, 2U, 3U, 7U, 64U, 65U, 1024U}) {
    const SlotMap map = SlotMap::balanced(1024, shards);
    const std::uint32_t unit = shards <= kSlotGroups ? 1024 / kSlotGroups : 1;
    const std::uint32_t units = 1024 / unit;
    std::uint32_t total = 0;
    GroupMask seen = 0;
    for (std::uint32_t shard = 0; shard < shards; ++shard) {
      const SlotSet slots = map.slots_of(shard);
      CHECK(slots.count() / unit >= units / shards);
      CHECK(slots.count() / unit <= units / shards + 1);
      total += slots.count();
      if (shards > kSlotGroups) continue;
      CHECK((seen & groups_of(slots)) == 0);  // a group belongs to one shard
      seen |= groups_of(slots);
    }
    CHECK(total == 1024);
    CHECK(std::is_sorted(map.owners().begin(), map.owners().end()));
  }
}

TEST_CASE("a key's group is that of its slot, however many slots there are") {
  for (const std::uint32_t slots : {1U, 2U, 16U, 64U, 1024U}) {
    for (TableSpec spec : {embedding_spec(1), dense_spec(777, 1)}) {
      spec.slots = slots;
      for (std::uint64_t key = 0; key < 777; ++key) {
        SlotSet one = SlotSet::none(slots);
        one.insert(slot_of(spec, key));
        CHECK((groups_of(one) >> group_of(spec, key) & 1U) == 1);
      }
      CHECK(groups_of(SlotSet::all(slots)) == ~GroupMask{0});
    }
  }
}

TEST_CASE("owners from outside are checked") {
  CHECK(SlotMap::from_owners({0, 1, 1, 0}, 2).ok());
  CHECK(SlotMap::from_owners({0, 1, 2, 0}, 2).error().code == Code::kInvalidArgument);
  CHECK(SlotMap::from_owners({0, 1, 1}, 2).error().code == Code::kInvalidArgument);
  CHECK(SlotMap::from_owners({}, 2).error().code == Code::kInvalidArgument);
}

TEST_CASE("a moved slot belongs to its new shard alone") {
  SlotMap map = SlotMap::balanced(8, 2);
  map.move(1, 2);
  CHECK(map.shards() == 3);
  CHECK(map.version() == 1);
  CHECK(map.shard_of(1) == 2);
  CHECK_FALSE(map.slots_of(0).contains(1));
  CHECK(map.slots_of(2).count() == 1);
}

TEST_CASE("sets of slots hold what was inserted") {
  SlotSet set = SlotSet::none(128);
  set.insert(0);
  set.insert(127);
  set.insert(64);
  set.erase(64);
  CHECK(set.count() == 2);
  CHECK(set.contains(127));
  CHECK_FALSE(set.contains(64));
  CHECK_FALSE(set.contains(128));
  CHECK(SlotSet::all(128).count() == 128);
}

/// Splits the keys, checks the parts, and puts a row for each back in its place.
void check_round_trip(Partitioner& partitioner, const TableSpec& spec,
                      const std::vector<std::uint64_t>& keys) {
  constexpr std::uint64_t kDim = 3;
  REQUIRE(partitioner.split(keys).ok());
  std::vector<float> rows(keys.size() * kDim);
  std::iota(rows.begin(), rows.end(), 1.0F);
  std::vector<float> back(rows.size(), -1);
  std::size_t total = 0;
  for (std::uint32_t shard = 0; shard < partitioner.map().shards(); ++shard) {
    const auto part = partitioner.keys(shard);
    const auto positions = partitioner.positions(shard);
    REQUIRE(part.size() == positions.size());
    REQUIRE(std::is_sorted(positions.begin(), positions.end()));
    for (std::size_t i = 0; i < part.size(); ++i) {
      REQUIRE(keys[positions[i]] == part[i]);
      REQUIRE(partitioner.map().shard_of(slot_of(spec, part[i])) == shard);
    }
    bool neighbours = true;
    for (std::size_t i = 1; i < positions.size(); ++i) neighbours &= positions[i] == positions[i - 1] + 1;
    REQUIRE(partitioner.contiguous(shard) == neighbours);
    std::vector<float> answer(part.size() * kDim);
    partitioner.gather(shard, rows.data(), kDim, answer.data());
    partitioner.scatter(shard, answer.data(), kDim, back.data());
    total += part.size();
  }
  CHECK(total == keys.size());
  CHECK(back == rows);
}

TEST_CASE("splitting and joining gives every key its own row") {
  const std::uint64_t seed = troupe::test::test_seed();
  std::mt19937_64 random(seed);
  for (const TableSpec& spec : {embedding_spec(3), dense_spec(500, 3), dense_spec(5000, 3)}) {
    for (const std::uint32_t shards : {1U, 2U, 5U, 300U}) {
      Partitioner partitioner(spec, SlotMap::balanced(spec.slots, shards));
      for (const std::size_t count : {0, 1, 1000, 17}) {
        check_round_trip(partitioner, spec, test::random_keys(random, count, spec.rows ? spec.rows : 2000));
      }
      SlotMap moved = partitioner.map();
      for (int i = 0; i < 100; ++i) moved.move(random() % moved.slots(), random() % (shards + 1));
      partitioner.set_map(moved);
      check_round_trip(partitioner, spec, test::random_keys(random, 800, spec.rows ? spec.rows : 2000));
    }
  }
}

TEST_CASE("a range of dense rows is contiguous in each shard") {
  const TableSpec spec = dense_spec(3000, 3);
  Partitioner partitioner(spec, SlotMap::balanced(spec.slots, 3));
  std::vector<std::uint64_t> keys(2500);
  std::iota(keys.begin(), keys.end(), 200);
  check_round_trip(partitioner, spec, keys);
  for (std::uint32_t shard = 0; shard < 3; ++shard) CHECK(partitioner.contiguous(shard));
}

TEST_CASE("a range of dense rows is cut where the shard changes, in any map") {
  std::mt19937_64 random(troupe::test::test_seed());
  for (const std::uint64_t rows : {1U, 10U, 500U, 5000U}) {
    const TableSpec spec = dense_spec(rows, 3);
    Partitioner partitioner(spec, SlotMap::balanced(spec.slots, 3));
    for (int turn = 0; turn < 40; ++turn) {
      const std::uint64_t begin = random() % rows;
      const RowRange range{begin, begin + 1 + random() % (rows - begin)};
      const auto parts = partitioner.split(range).value();
      std::uint64_t at = range.begin;
      for (std::size_t i = 0; i < parts.size(); ++i) {
        REQUIRE(parts[i].rows.begin == at);
        REQUIRE(parts[i].rows.end > at);
        if (i > 0) REQUIRE(parts[i].shard != parts[i - 1].shard);
        for (; at < parts[i].rows.end; ++at)
          REQUIRE(partitioner.map().shard_of(slot_of(spec, at)) == parts[i].shard);
      }
      CHECK(at == range.end);
      SlotMap moved = partitioner.map();
      moved.move(random() % moved.slots(), random() % 4);
      partitioner.set_map(moved);
    }
    CHECK(partitioner.split(RowRange{0, rows + 1}).error().code == Code::kInvalidArgument);
  }
}

TEST_CASE("a row number out of range is refused and leaves no answer") {
  const TableSpec spec = dense_spec(10, 3);
  Partitioner partitioner(spec, SlotMap::balanced(spec.slots, 2));
  REQUIRE(partitioner.split(std::vector<std::uint64_t>{1, 2}).ok());
  const Result<void> result = partitioner.split(std::vector<std::uint64_t>{1, 10});
  REQUIRE_FALSE(result.ok());
  CHECK(result.error().code == Code::kInvalidArgument);
  CHECK(result.error().message == "table 'bias': row 10 is out of range, it has 10 rows");
  CHECK(partitioner.keys(0).empty());
  CHECK(partitioner.keys(1).empty());
}

}  // namespace
}  // namespace troupe::shards
