#include "troupe/kernels/hash_index.hpp"

#include <unordered_map>

#include "support.hpp"
#include "support/seed.hpp"

using namespace troupe::kernels;

namespace {

using Reference = std::unordered_map<std::uint64_t, std::uint64_t>;

constexpr std::uint64_t kLastKey = ~std::uint64_t{0};

// A few keys that meet again and again, some of them at the edges of the key space.
std::uint64_t random_key(std::mt19937_64& random, std::uint64_t distinct) {
  const std::uint64_t key = random() % distinct;
  return random() % 50 == 0 ? kLastKey - key % 3 : key << (key % 40);
}

void check_equal(const HashIndex& index, const Reference& reference) {
  REQUIRE(index.size() == static_cast<std::int64_t>(reference.size()));
  std::int64_t visited = 0;
  index.for_each([&](std::uint64_t key, std::uint64_t value) {
    const auto place = reference.find(key);
    REQUIRE(place != reference.end());
    REQUIRE(place->second == value);
    ++visited;
  });
  CHECK(visited == index.size());
}

void one_operation(HashIndex& index, Reference& reference, std::mt19937_64& random, std::uint64_t distinct) {
  const std::uint64_t key = random_key(random, distinct);
  const std::uint64_t value = random();
  const auto place = reference.find(key);
  const bool there = place != reference.end();
  switch (random() % 5) {
    case 0: {
      const HashIndex::Found found = index.find_or_insert(key, value);
      REQUIRE(found.inserted == !there);
      REQUIRE(found.value == (there ? place->second : value));
      reference.emplace(key, value);
      break;
    }
    case 1:
      index.assign(key, value);
      reference[key] = value;
      break;
    case 2:
    case 3:
      REQUIRE(index.erase(key) == there);
      reference.erase(key);
      break;
    default:
      REQUIRE(index.find(key) == (there ? std::optional(place->second) : std::nullopt));
  }
}

void one_batch(HashIndex& index, Reference& reference, std::mt19937_64& random, std::uint64_t distinct) {
  std::vector<std::uint64_t> keys(random() % 200);
  for (auto& key : keys) key = random_key(random, distinct);
  std::vector<std::uint64_t> values(keys.size());
  const auto found = index.find_batch(keys, values, 77);
  std::int64_t expected_found = 0;
  for (std::size_t i = 0; i < keys.size(); ++i) {
    const auto place = reference.find(keys[i]);
    REQUIRE(values[i] == (place == reference.end() ? 77 : place->second));
    expected_found += place == reference.end() ? 0 : 1;
  }
  REQUIRE(found == expected_found);

  const std::uint64_t first = random();
  const auto inserted = index.find_or_insert_batch(keys, first, values);
  std::uint64_t next = first;
  for (std::size_t i = 0; i < keys.size(); ++i) {
    const auto [place, is_new] = reference.emplace(keys[i], next);
    next += is_new ? 1 : 0;
    REQUIRE(values[i] == place->second);
  }
  REQUIRE(inserted == static_cast<std::int64_t>(next - first));
}

}  // namespace

TEST_CASE("HashIndex does what std::unordered_map does") {
  std::mt19937_64 random(troupe::test::test_seed());
  for (const std::uint64_t distinct : {3U, 20U, 500U, 5000U}) {
    CAPTURE(distinct);
    HashIndex index(0, random());
    Reference reference;
    for (int turn = 0; turn < 20000; ++turn) {
      one_operation(index, reference, random, distinct);
      if (turn % 500 == 0) one_batch(index, reference, random, distinct);
      if (turn % 1000 == 0) check_equal(index, reference);
      if (turn == 12000) {
        index.clear();
        reference.clear();
      }
    }
    check_equal(index, reference);
  }
}

TEST_CASE("every key is legal, the one that marks empty places too") {
  HashIndex index;
  CHECK(index.empty());
  CHECK_FALSE(index.find(kLastKey).has_value());
  CHECK_FALSE(index.erase(kLastKey));
  CHECK(index.find_or_insert(kLastKey, 5).inserted);
  CHECK(index.find_or_insert(0, HashIndex::kMissing).inserted);
  CHECK_FALSE(index.find_or_insert(kLastKey, 6).inserted);
  CHECK(index.find(kLastKey) == 5);
  CHECK(index.find(0) == HashIndex::kMissing);
  index.assign(kLastKey, 9);
  CHECK(index.find(kLastKey) == 9);
  CHECK(index.size() == 2);
  CHECK(index.erase(kLastKey));
  CHECK(index.size() == 1);
}

TEST_CASE("an index grows only for new keys and never past its load factor") {
  HashIndex index(1000);
  const std::int64_t capacity = index.capacity();
  std::vector<std::uint64_t> keys(static_cast<std::size_t>(capacity / 8 * 5));
  for (std::size_t i = 0; i < keys.size(); ++i) keys[i] = i * i;
  std::vector<std::uint64_t> values(keys.size());
  CHECK(index.find_or_insert_batch(keys, 0, values) == static_cast<std::int64_t>(keys.size()));
  CHECK(index.find_or_insert_batch(keys, 0, values) == 0);
  CHECK_FALSE(index.find_or_insert(keys[5], 1).inserted);
  CHECK(index.capacity() == capacity);
  index.assign(kLastKey / 2, 3);
  CHECK(index.capacity() == 2 * capacity);
  CHECK(index.find(keys[5]) == 5);
  index.reserve(100000);
  CHECK(index.capacity() / 8 * 5 >= 100000);
  CHECK(index.find(keys[5]) == 5);
}

TEST_CASE("a large index grows a part at a time") {
  constexpr std::uint64_t kMany = 6'000'000;
  HashIndex index;
  std::int64_t capacity = index.capacity();
  int growths = 0;
  for (std::uint64_t key = 0; key < kMany; ++key) {
    index.assign(key, key);
    const std::int64_t now = index.capacity();
    if (now == capacity) continue;
    ++growths;
    if (capacity >= 1 << 23) CHECK(now - capacity <= capacity / 32);
    capacity = now;
  }
  CHECK(growths > 70);
  std::vector<std::uint64_t> keys(kMany), values(keys.size());
  for (std::size_t i = 0; i < keys.size(); ++i) keys[i] = keys.size() - 1 - i;
  CHECK(index.find_batch(keys, values) == static_cast<std::int64_t>(kMany));
  CHECK(keys == values);
  CHECK(index.longest_probe() < 200);
}

TEST_CASE("keys for which room was made are inserted without growth") {
  for (const std::uint64_t before : {0ULL, 1000ULL, 80'000ULL, 5'000'000ULL}) {
    HashIndex index;
    for (std::uint64_t key = 0; key < before; ++key) index.assign(key, key);
    for (std::uint64_t turn = 0; turn < 20; ++turn) {
      std::vector<std::uint64_t> keys(5000), values(keys.size());
      for (std::size_t i = 0; i < keys.size(); ++i) keys[i] = before + turn * keys.size() + i;
      index.prepare(keys);
      const std::int64_t capacity = index.capacity();
      CHECK(index.find_or_insert_batch(keys, before, values) == 5000);
      CHECK(index.capacity() == capacity);
    }
  }
}

TEST_CASE("sequential, strided and re-inserted keys keep probes short") {
  constexpr std::uint64_t kKeys = 40000;  // 0.61 of 65,536: near the fullest
  constexpr std::int64_t kLongest = 200;  // random keys: about 60
  for (unsigned shift = 0; shift <= 48; ++shift) {
    CAPTURE(shift);
    HashIndex index;
    for (std::uint64_t i = 0; i < kKeys; ++i) index.assign(i << shift, i);
    CHECK(index.longest_probe() < kLongest);
    HashIndex copy;  // keys arrive in the order of the other table's places
    index.for_each([&](std::uint64_t key, std::uint64_t value) { copy.assign(key, value); });
    CHECK(copy.longest_probe() < kLongest);
    CHECK(copy.size() == static_cast<std::int64_t>(kKeys));
  }
  for (const std::uint64_t stride : {3ULL, 1000ULL, 4097ULL, 0x9E3779B97F4A7C15ULL}) {
    CAPTURE(stride);
    HashIndex index;
    for (std::uint64_t i = 0; i < kKeys; ++i) index.assign(i * stride, i);
    CHECK(index.longest_probe() < kLongest);
  }
}

TEST_CASE("churn leaves no traces: probes stay short after many erasures") {
  HashIndex index(30000);
  const std::int64_t capacity = index.capacity();
  for (std::uint64_t i = 0; i < 500000; ++i) {
    index.assign(i, i);
    if (i >= 30000) CHECK(index.erase(i - 30000));
  }
  CHECK(index.capacity() == capacity);
  CHECK(index.size() == 30000);
  CHECK(index.longest_probe() < 200);
}

TEST_CASE("equal seeds and histories list their keys in the same order") {
  const auto listing = [](std::uint64_t seed) {
    HashIndex index(0, seed);
    for (std::uint64_t i = 0; i < 1000; ++i) index.assign(i * 7, i);
    std::vector<std::uint64_t> keys;
    index.for_each([&](std::uint64_t key, std::uint64_t) { keys.push_back(key); });
    return keys;
  };
  CHECK(listing(1) == listing(1));
  CHECK(listing(1) != listing(2));
}

TEST_CASE("an index that was moved holds the same keys") {
  HashIndex first;
  first.assign(1, 10);
  first.assign(kLastKey, 20);
  HashIndex second(std::move(first));
  CHECK(second.find(1) == 10);
  HashIndex third;
  third = std::move(second);
  CHECK(third.find(1) == 10);
  CHECK(third.find(kLastKey) == 20);
  CHECK(third.size() == 2);
}
