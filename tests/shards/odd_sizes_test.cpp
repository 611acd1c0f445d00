// Keys and sizes that are unlikely, or chosen to do harm.
#include <algorithm>
#include <bit>
#include <chrono>
#include <functional>
#include <span>
#include <vector>

#include <troupe/kernels/hash_index.hpp>

#include "hashing.hpp"
#include "snapshot_support.hpp"

namespace troupe::shards {
namespace {

using test::dense_spec;
using test::embedding_spec;
using test::TemporaryFolder;

/// Of an odd number, modulo 2^64.
std::uint64_t inverse_of(std::uint64_t odd) {
  std::uint64_t inverse = odd;
  for (int i = 0; i < 6; ++i) inverse *= 2 - odd * inverse;
  return inverse;
}
std::uint64_t undo_shift(std::uint64_t x, unsigned shift) {
  std::uint64_t original = x;
  for (unsigned done = shift; done < 64; done += shift) original = x ^ (original >> shift);
  return original;
}
std::uint64_t mix(std::uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9U;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebU;
  return x ^ (x >> 31);
}
/// The number of which the tables' mix is `mixed`.
std::uint64_t unmix(std::uint64_t mixed) {
  mixed = undo_shift(mixed, 31) * inverse_of(0x94d049bb133111ebU);
  mixed = undo_shift(mixed, 27) * inverse_of(0xbf58476d1ce4e5b9U);
  return undo_shift(mixed, 30);
}

double seconds_of(const std::function<void()>& work) {
  const auto begun = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begun).count();
}

constexpr std::uint64_t kEvilKeys = 200'000;

}  // namespace

TEST_CASE("keys that were chosen to meet in one place of a table take no longer than others") {
  REQUIRE(mix(unmix(12345)) == 12345);
  // Where all would meet if the seed were the one that everybody knows: in a list's distinct keys, and in an
  // index of the size that it has in the end. Each would then pass by all before it: for minutes.
  std::vector<std::uint64_t> in_list, in_index;
  const std::uint64_t capacity = std::bit_ceil(kEvilKeys * 8 / 5);
  const std::uint64_t factor = mix(mix(0) + capacity) | 1U;
  for (std::uint64_t i = 1; i <= kEvilKeys; ++i) {
    in_list.push_back(unmix(i << 40));
    in_index.push_back(unmix((i << 40) * inverse_of(factor)) - mix(0));
  }
  kernels::HashIndex known;
  std::vector<std::uint64_t> numbers(1000);
  known.reserve(kEvilKeys);
  known.find_or_insert_batch(std::span(in_index).first(1000), 0, numbers);
  CHECK(known.longest_probe() > 900);  // the keys are what they should be
  for (const auto* keys : {&in_list, &in_index}) {
    TableShard shard = TableShard::create(embedding_spec(1)).value();
    const std::vector<float> gradients(keys->size(), 1);
    std::vector<float> rows(keys->size());
    const double seconds = seconds_of([&] {
      REQUIRE(shard.push({.worker = 1, .sequence = 1}, *keys, gradients).ok());
      REQUIRE(shard.pull(*keys, rows.data()).ok());
    });
    CHECK(shard.row_count() == kEvilKeys);
    CHECK(seconds < 10);
  }
}

TEST_CASE("ten million keys of one slot") {
#ifdef TROUPE_SANITIZER
  constexpr std::uint64_t kKeys = 500'000;
#else
  constexpr std::uint64_t kKeys = 10'000'000;
#endif
  constexpr std::uint64_t kSome = 500'000;
  TableSpec spec = embedding_spec(1);
  spec.slots = 64;
  const SlotMap map = SlotMap::balanced(spec.slots, 64);
  TableShard shard = TableShard::create(spec, map.slots_of(map.shard_of(17))).value();
  std::vector<std::uint64_t> keys(kSome);
  std::vector<float> rows(kSome), again(kSome);
  const double seconds = seconds_of([&] {
    for (std::uint64_t begin = 0; begin < kKeys; begin += kSome) {
      // The slot is the top six bits of a key's mix.
      for (std::uint64_t i = 0; i < kSome; ++i)
        keys[i] = unmix(std::uint64_t{17} << 58U | (begin + i)) - kSlotSalt;
      REQUIRE(slot_of(spec, keys[begin % kSome]) == 17);
      REQUIRE(shard.pull(keys, rows.data()).ok());
    }
    REQUIRE(shard.pull(keys, again.data()).ok());
  });
  CHECK(again == rows);
  CHECK(shard.row_count() == kKeys);
  CHECK(seconds < 60);
}

TEST_CASE("an empty table, and requests for nothing") {
  const TemporaryFolder folder;
  TableShard shard = TableShard::create(embedding_spec(3)).value();
  CHECK(shard.pull({}, nullptr).value().version == 0);
  CHECK(shard.peek({}, nullptr).ok());
  const auto pushed = shard.push({.worker = 1, .sequence = 1}, {}, {}).value();
  CHECK(pushed.applied);
  CHECK(pushed.version == 1);
  CHECK_FALSE(shard.push({.worker = 1, .sequence = 1}, {}, {}).value().applied);
  CHECK(shard.push({.worker = 1, .sequence = 2}, {}, {}).value().applied);
  CHECK(shard.push_pull({.worker = 1, .sequence = 3}, {}, {}, {}, nullptr).value().push.version == 3);

  Manifest manifest;
  manifest.tables.push_back(shard.spec());
  manifest.files.push_back(write_table_shard(folder / "tmp", 0, shard).value());
  REQUIRE(commit(folder / "tmp", folder / "a", manifest).ok());
  TableShard into = TableShard::create(embedding_spec(3)).value();
  CHECK(load_rows(folder / "a", read_manifest(folder / "a").value(), "entity", into).value() == 0);
  CHECK(into.version() == 3);
  CHECK_FALSE(into.push({.worker = 1, .sequence = 2}, {}, {}).value().applied);
}

TEST_CASE("rows of one number and of four megabytes are pushed, pulled, saved and loaded") {
  for (const std::uint64_t dim : {std::uint64_t{1}, TableSpec::kMaxDim})
    for (const TableSpec& spec : {embedding_spec(dim, Adagrad{}), dense_spec(3, dim, Sgd{0.5F, 0})}) {
      CAPTURE(dim);
      CAPTURE(spec.name);
      const TemporaryFolder folder;
      TableShard shard = TableShard::create(spec).value();
      const std::vector<std::uint64_t> keys{2, 0, 2};
      std::vector<float> gradients(3 * dim), rows(3 * dim);
      for (std::size_t i = 0; i < gradients.size(); ++i) gradients[i] = static_cast<float>(i % 7) - 3;
      REQUIRE(shard.push({.worker = 1, .sequence = 1}, keys, gradients).value().applied);
      REQUIRE(shard.pull(keys, rows.data()).ok());
      CHECK(std::equal(rows.begin(), rows.begin() + static_cast<std::ptrdiff_t>(dim),
                       rows.begin() + static_cast<std::ptrdiff_t>(2 * dim)));
      std::vector<float> first(dim);
      initialize_row(spec, 0, first.data());
      CHECK(rows[dim] != first[0]);

      Manifest manifest;
      manifest.tables.push_back(spec);
      manifest.files.push_back(write_table_shard(folder / "tmp", 0, shard).value());
      REQUIRE(commit(folder / "tmp", folder / "a", manifest).ok());
      TableShard into = TableShard::create(spec).value();
      const auto loaded = load_rows(folder / "a", read_manifest(folder / "a").value(), spec.name, into);
      REQUIRE(loaded.ok());
      CHECK(*loaded == (spec.kind == TableKind::kDense ? 3 : 2));
      std::vector<float> again(3 * dim);
      REQUIRE(into.peek(keys, again.data()).ok());
      CHECK(again == rows);
    }
}

}  // namespace troupe::shards
