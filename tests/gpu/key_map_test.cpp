// The map from keys to slots, on the host and on a GPU, against a plain map.
#include <troupe/kernels/key_map.hpp>

#include <algorithm>
#include <map>
#include <numeric>
#include <set>
#include <unordered_map>

#include "places.hpp"

using namespace troupe::kernels;
using namespace troupe::test;

namespace {

template <class Where>
struct Table {
  Table(Where& where, std::int64_t buckets, std::int64_t row_dim) : at(where), dim(row_dim) {
    const auto slots = static_cast<std::size_t>(buckets * kBucketSlots);
    // 128-byte aligned: pools and Buffer::allocate give that for whole buckets on their own.
    map = {at.put(std::vector<std::uint64_t>(slots, 7)), at.put(std::vector<std::uint32_t>(slots, 7)),
           buckets};
    rows = {at.put(std::vector<float>(slots * static_cast<std::size_t>(dim), -1.0F)), dim, dim};
    at.finish(clear_map(at.place(), map));
  }

  struct Outcome {
    std::vector<std::uint64_t> slots;
    std::vector<std::uint8_t> is_new;
    std::vector<std::uint64_t> evicted;
  };
  /// Rows of the value that `value_of` has for each key.
  Outcome assign(const std::vector<std::uint64_t>& keys, std::uint32_t now, Full full, float plus = 0) {
    const std::size_t n = keys.size();
    std::vector<float> values;
    for (const std::uint64_t key : keys)
      for (std::int64_t j = 0; j < dim; ++j) values.push_back(value_of(key, j) + plus);
    auto* const slots = at.put(std::vector<std::uint64_t>(n, 5));
    auto* const is_new = at.put(std::vector<std::uint8_t>(n, 5));
    auto* const evicted = at.put(std::vector<std::uint64_t>(n, 5));
    at.finish(insert_or_assign(at.place(), map, rows, at.put(keys), at.put(values),
                               static_cast<std::int64_t>(n), now, full, slots, is_new, evicted));
    return {at.get(slots, n), at.get(is_new, n), at.get(evicted, n)};
  }
  /// The same, some at a time: a batch as large as the map finds it emptier than it will be.
  Outcome assign_in_batches(const std::vector<std::uint64_t>& keys, std::size_t batch) {
    Outcome all;
    for (std::size_t i = 0; i < keys.size(); i += batch) {
      const auto end = keys.begin() + static_cast<std::ptrdiff_t>(std::min(i + batch, keys.size()));
      const Outcome some = assign({keys.begin() + static_cast<std::ptrdiff_t>(i), end}, 1, Full::kRefuse);
      all.slots.insert(all.slots.end(), some.slots.begin(), some.slots.end());
      all.is_new.insert(all.is_new.end(), some.is_new.begin(), some.is_new.end());
    }
    return all;
  }
  /// The slots of keys, after checking that their rows are theirs.
  std::vector<std::uint64_t> find(const std::vector<std::uint64_t>& keys, std::uint32_t now = 0,
                                  float plus = 0) {
    const std::size_t n = keys.size();
    auto* const slots = at.put(std::vector<std::uint64_t>(n, 5));
    auto* const out = at.put(std::vector<float>(n * static_cast<std::size_t>(dim), -2.0F));
    at.finish(find_rows(at.place(), map, rows, at.put(keys), static_cast<std::int64_t>(n), now, slots, out));
    auto found = at.get(slots, n);
    const auto values = at.get(out, n * static_cast<std::size_t>(dim));
    for (std::size_t i = 0; i < n; ++i) {
      for (std::int64_t j = 0; j < dim; ++j) {
        const float expected = found[i] == kNoRow ? 0.0F : value_of(keys[i], j) + plus;
        REQUIRE(values[i * static_cast<std::size_t>(dim) + static_cast<std::size_t>(j)] == expected);
      }
    }
    return found;
  }
  std::map<std::uint64_t, std::uint64_t> all() {
    const auto slots = static_cast<std::size_t>(map.slots());
    auto* const keys = at.put(std::vector<std::uint64_t>(slots, 5));
    auto* const places = at.put(std::vector<std::uint64_t>(slots, 5));
    auto* const count = at.put(std::vector<std::uint64_t>{0});
    // In two pieces, the second after the first.
    at.finish(export_keys(at.place(), map, 0, map.buckets / 2, keys, places, count));
    at.finish(export_keys(at.place(), map, map.buckets / 2, map.buckets / 2, keys, places, count));
    const std::uint64_t n = at.get(count, 1)[0];
    REQUIRE(n <= slots);
    const auto found = at.get(keys, slots);
    const auto where = at.get(places, slots);
    std::map<std::uint64_t, std::uint64_t> entries;
    for (std::size_t i = 0; i < n; ++i) entries[found[i]] = where[i];
    REQUIRE(entries.size() == n);
    return entries;
  }
  static float value_of(std::uint64_t key, std::int64_t j) {
    return static_cast<float>(key % 65521) + static_cast<float>(j);
  }

  Where& at;
  std::int64_t dim;
  KeyMap map;
  SlotRows rows;
};

std::vector<std::uint64_t> distinct_keys(std::size_t n, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  std::set<std::uint64_t> keys{0};  // which is a key like others
  while (keys.size() < n) keys.insert(random() >> (random() % 60));
  keys.erase(kNoRow);
  std::vector<std::uint64_t> shuffled(keys.begin(), keys.end());
  std::shuffle(shuffled.begin(), shuffled.end(), random);
  return shuffled;
}

}  // namespace

TEST_CASE_TEMPLATE("keys keep their slots and rows, and erased ones are gone", Where, OnHost, OnGpu) {
  Where at;
  if (!at.here()) return;
  for (const std::int64_t dim : {1, 4, 30, 64, 128}) {
    CAPTURE(dim);
    Table<Where> table(at, 128, dim);
    const auto keys = distinct_keys(1200, 1);  // of 2,048 slots
    const auto placed = table.assign_in_batches(keys, 100);
    CHECK(std::count(placed.is_new.begin(), placed.is_new.end(), 1) == static_cast<long>(keys.size()));
    CHECK(std::set<std::uint64_t>(placed.slots.begin(), placed.slots.end()).size() == keys.size());
    CHECK(table.find(keys) == placed.slots);
    // Once more, with half of them others.
    std::vector<std::uint64_t> mixed(keys.begin(), keys.begin() + 200);
    mixed.reserve(400);
    for (std::uint64_t i = 0; i < 200; ++i) mixed.push_back(std::uint64_t{1} << 62 | i);
    const auto again = table.assign(mixed, 2, Full::kRefuse, 1000.0F);
    for (std::size_t i = 0; i < mixed.size(); ++i) {
      REQUIRE(again.is_new[i] == (i < 200 ? 0 : 1));
      if (i < 200) REQUIRE(again.slots[i] == placed.slots[i]);
    }
    CHECK(table.find(mixed, 0, 1000.0F) == again.slots);

    auto* const freed = at.put(std::vector<std::uint64_t>(mixed.size(), 5));
    at.finish(
        erase_keys(at.place(), table.map, at.put(mixed), static_cast<std::int64_t>(mixed.size()), freed));
    CHECK(at.get(freed, mixed.size()) == again.slots);
    CHECK(table.find(mixed) == std::vector<std::uint64_t>(mixed.size(), kNoRow));
    const auto left = table.all();
    CHECK(left.size() == keys.size() - 200);
    for (std::size_t i = 200; i < keys.size(); ++i) REQUIRE(left.at(keys[i]) == placed.slots[i]);
    // Another insertion of what is there finds it, also where the first bucket has room again.
    const std::vector<std::uint64_t> rest(keys.begin() + 200, keys.end());
    const auto same = table.assign(rest, 3, Full::kRefuse);
    CHECK(std::count(same.is_new.begin(), same.is_new.end(), 1) == 0);
  }
}

TEST_CASE_TEMPLATE("a full map refuses what has no room and keeps what it has", Where, OnHost, OnGpu) {
  Where at;
  if (!at.here()) return;
  Table<Where> table(at, 4, 4);  // 64 slots
  const auto keys = distinct_keys(500, 2);
  const auto placed = table.assign(keys, 1, Full::kRefuse);
  std::size_t there = 0;
  for (std::size_t i = 0; i < keys.size(); ++i) {
    REQUIRE((placed.slots[i] != kNoRow) == (placed.is_new[i] == 1));
    there += placed.is_new[i];
  }
  CHECK(there == 64);
  CHECK(table.find(keys) == placed.slots);
  CHECK(table.all().size() == 64);
}

TEST_CASE_TEMPLATE("a load of eight tenths finds room for all", Where, OnHost, OnGpu) {
  Where at;
  if (!at.here()) return;
  Table<Where> table(at, 4096, 1);
  const auto keys = distinct_keys(static_cast<std::size_t>(table.map.slots()) * 8 / 10, 3);
  const auto placed = table.assign_in_batches(keys, 512);
  CHECK(std::count(placed.slots.begin(), placed.slots.end(), kNoRow) == 0);
}

TEST_CASE_TEMPLATE("eviction takes the slot of what was used longest ago, and never of what this batch uses",
                   Where, OnHost, OnGpu) {
  Where at;
  if (!at.here()) return;
  Table<Where> table(at, 2, 4);  // 32 slots, which any key may have
  const auto keys = distinct_keys(200, 4);
  const std::vector<std::uint64_t> old(keys.begin(), keys.begin() + 32);
  table.assign(old, 1, Full::kEvict);
  REQUIRE(table.all().size() == 32);
  // Twelve are used later; a batch of those and twenty new ones leaves just these.
  std::vector<std::uint64_t> batch(old.begin(), old.begin() + 12);
  batch.insert(batch.end(), keys.begin() + 100, keys.begin() + 120);
  std::mt19937_64 random(5);
  std::shuffle(batch.begin(), batch.end(), random);
  const auto placed = table.assign(batch, 2, Full::kEvict);
  std::set<std::uint64_t> gone;
  for (std::size_t i = 0; i < batch.size(); ++i) {
    REQUIRE(placed.slots[i] != kNoRow);
    REQUIRE((placed.evicted[i] != kNoRow) == (placed.is_new[i] == 1));
    if (placed.is_new[i]) gone.insert(placed.evicted[i]);
  }
  CHECK(gone == std::set<std::uint64_t>(old.begin() + 12, old.end()));
  CHECK(table.find(batch) == placed.slots);
  // A batch of more new keys than there are slots: as many as there are get one.
  const std::vector<std::uint64_t> many(keys.begin() + 120, keys.begin() + 170);
  const auto crowded = table.assign(many, 3, Full::kEvict);
  CHECK(std::count(crowded.is_new.begin(), crowded.is_new.end(), 1) == 32);
  CHECK(std::count(crowded.slots.begin(), crowded.slots.end(), kNoRow) == 18);
  CHECK(table.find(many) == crowded.slots);
}

TEST_CASE_TEMPLATE("whatever is inserted and evicted, every key that is there has its own row", Where, OnHost,
                   OnGpu) {
  Where at;
  if (!at.here()) return;
  Table<Where> table(at, 256, 8);  // 4,096 slots
  const auto keys = distinct_keys(20000, 6);
  std::mt19937_64 random(7);
  for (std::uint32_t now = 1; now <= 20; ++now) {
    std::set<std::uint64_t> chosen;
    while (chosen.size() < 1500) chosen.insert(keys[random() % (2000 + 850 * now)]);
    const std::vector<std::uint64_t> batch(chosen.begin(), chosen.end());
    const auto placed = table.assign(batch, now, Full::kEvict);
    REQUIRE(table.find(batch) == placed.slots);
    const auto all = table.all();
    REQUIRE(all.size() <= 4096);
    std::vector<std::uint64_t> present;
    std::vector<std::uint64_t> where;
    for (const auto& [key, slot] : all) present.push_back(key), where.push_back(slot);
    REQUIRE(table.find(present) == where);
  }
}

TEST_CASE_TEMPLATE("no key is found in no map, and the key that is none is never there", Where, OnHost,
                   OnGpu) {
  Where at;
  if (!at.here()) return;
  Table<Where> table(at, 2, 4);
  CHECK(table.find({}).empty());
  CHECK(table.find({0, kNoRow}) == std::vector<std::uint64_t>{kNoRow, kNoRow});
  const auto placed = table.assign({kNoRow, 0}, 1, Full::kEvict);
  CHECK(placed.slots[0] == kNoRow);
  CHECK(placed.slots[1] != kNoRow);
  CHECK(table.all().size() == 1);
}
