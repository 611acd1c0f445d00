// Rows found by key and kept as records, on the host and on a GPU, against a plain map and the host's rows.
#include <troupe/kernels/record_slabs.hpp>

#include <algorithm>
#include <cstring>
#include <map>
#include <unordered_map>

#include <troupe/kernels/vector.hpp>

#include "places.hpp"
#include "support/seed.hpp"

using namespace troupe::kernels;
using namespace troupe::test;

namespace {

template <class Where>
struct Index {
  explicit Index(Where& where, std::int64_t slots) : at(where) {
    index = make(slots);
    counts = at.put(std::vector<RowCounts>(1));
    free_list = at.put(std::vector<std::uint64_t>(20'000, 5));
  }
  RowIndex make(std::int64_t slots) {
    const auto words = static_cast<std::size_t>(slots) + 1;
    const RowIndex made{at.put(std::vector<std::uint64_t>(words, 7)),
                        at.put(std::vector<std::uint64_t>(words, 7)), slots, 99};
    at.finish(clear_index(at.place(), made));
    return made;
  }
  struct Outcome {
    std::vector<std::uint64_t> numbers;
    std::vector<std::uint8_t> is_new;
  };
  Outcome insert(const std::vector<std::uint64_t>& keys, bool use_free = true) {
    const std::size_t n = keys.size();
    const auto count = static_cast<std::int64_t>(n);
    const KeyBatch batch{.keys = at.put(keys),
                         .count = count,
                         .numbers = at.put(std::vector<std::uint64_t>(n, 5)),
                         .is_new = at.put(std::vector<std::uint8_t>(n, 5)),
                         .slots = at.put(std::vector<std::uint64_t>(n, 5)),
                         .block_counts = at.put(
                             std::vector<std::uint64_t>(static_cast<std::size_t>(insert_blocks(count)), 5))};
    at.finish(insert_numbers(at.place(), index, counts, free_list, use_free, batch));
    return {at.get(batch.numbers, n), at.get(batch.is_new, n)};
  }
  std::vector<std::uint64_t> find(const std::vector<std::uint64_t>& keys) {
    auto* const numbers = at.put(std::vector<std::uint64_t>(keys.size(), 5));
    at.finish(find_numbers(at.place(), index, at.put(keys), static_cast<std::int64_t>(keys.size()), numbers));
    return at.get(numbers, keys.size());
  }
  std::vector<std::uint64_t> erase(const std::vector<std::uint64_t>& keys) {
    auto* const numbers = at.put(std::vector<std::uint64_t>(keys.size(), 5));
    at.finish(erase_numbers(at.place(), index, counts, free_list, at.put(keys),
                            static_cast<std::int64_t>(keys.size()), numbers));
    return at.get(numbers, keys.size());
  }
  RowCounts there() { return at.get(counts, 1)[0]; }

  Where& at;
  RowIndex index;
  RowCounts* counts = nullptr;
  std::uint64_t* free_list = nullptr;
};

std::vector<std::uint64_t> some_keys(std::mt19937_64& random, std::size_t count, std::uint64_t range) {
  std::vector<std::uint64_t> keys(count);
  for (std::uint64_t& key : keys) key = random() % range == 0 ? kNoRow : random() % range;
  return keys;
}

}  // namespace

TEST_CASE_TEMPLATE("keys get numbers in the order in which they first come, however often they come", Where,
                   OnHost, OnGpu) {
  Where at;
  if (!at.here()) return;
  std::mt19937_64 random(test_seed());
  Index<Where> rows(at, 16384);
  std::unordered_map<std::uint64_t, std::uint64_t> expected;
  for (const std::size_t count : {1U, 31U, 255U, 256U, 257U, 4000U, 9000U}) {
    const auto keys = some_keys(random, count, 8000);
    const auto outcome = rows.insert(keys);
    for (std::size_t i = 0; i < count; ++i) {
      const auto [known, first] = expected.try_emplace(keys[i], expected.size());
      REQUIRE(outcome.numbers[i] == known->second);
      REQUIRE(outcome.is_new[i] == (first ? 1 : 0));
    }
    const RowCounts there = rows.there();
    CHECK(there.numbered == expected.size());
    CHECK(there.rows == expected.size());
    CHECK(there.filled == expected.size() - expected.count(kNoRow));
  }
  // Into a larger index, and a smaller one.
  for (const std::int64_t slots : {65536, 16384}) {
    const RowIndex to = rows.make(slots);
    at.finish(move_index(at.place(), rows.index, to, rows.counts));
    rows.index = to;
    CHECK(rows.there().filled == expected.size() - expected.count(kNoRow));
    const auto keys = some_keys(random, 5000, 16000);
    const auto found = rows.find(keys);
    for (std::size_t i = 0; i < keys.size(); ++i) {
      const auto known = expected.find(keys[i]);
      REQUIRE(found[i] == (known == expected.end() ? kNoRow : known->second));
    }
  }
}

TEST_CASE_TEMPLATE("erased keys are gone, and their numbers are given out again", Where, OnHost, OnGpu) {
  Where at;
  if (!at.here()) return;
  std::mt19937_64 random(test_seed());
  Index<Where> rows(at, 32768);
  std::map<std::uint64_t, std::uint64_t> expected;
  for (int turn = 0; turn < 12; ++turn) {
    const auto keys = some_keys(random, 700, 2000);
    const bool use_free = turn % 3 != 2;
    const RowCounts before = rows.there();
    const auto outcome = rows.insert(keys, use_free);
    for (std::size_t i = 0; i < keys.size(); ++i) {
      const auto [known, first] = expected.try_emplace(keys[i], outcome.numbers[i]);
      REQUIRE(outcome.numbers[i] == known->second);
      if (first && !use_free) REQUIRE(outcome.numbers[i] >= before.numbered);
    }
    std::map<std::uint64_t, std::uint64_t> by_number;
    for (const auto& [key, number] : expected) REQUIRE(by_number.emplace(number, key).second);
    const auto gone = some_keys(random, 300, 2000);
    const auto freed = rows.erase(gone);
    for (std::size_t i = 0; i < gone.size(); ++i) {
      if (freed[i] == kNoRow) continue;
      const auto known = expected.find(gone[i]);
      REQUIRE(known != expected.end());
      REQUIRE(freed[i] == known->second);
      expected.erase(known);
    }
    for (const std::uint64_t number : rows.find(gone)) REQUIRE(number == kNoRow);
    const RowCounts there = rows.there();
    REQUIRE(there.rows == expected.size());
    REQUIRE(there.numbered == there.rows + there.free);
  }
}

TEST_CASE_TEMPLATE("an index that is as full as it may be finds every key", Where, OnHost, OnGpu) {
  Where at;
  if (!at.here()) return;
  Index<Where> rows(at, 1024);
  std::vector<std::uint64_t> keys(1020);
  for (std::size_t i = 0; i < keys.size(); ++i) keys[i] = i << 32U;
  const auto outcome = rows.insert(keys);
  for (std::size_t i = 0; i < keys.size(); ++i) REQUIRE(outcome.numbers[i] == i);
  CHECK(rows.find(keys) == outcome.numbers);
}

TEST_CASE_TEMPLATE("first values are those of the host, bit for bit", Where, OnHost, OnGpu) {
  Where at;
  if (!at.here()) return;
  constexpr std::uint64_t kRows = 200;
  for (const Element element : {Element::kFloat32, Element::kFloat16, Element::kBFloat16}) {
    for (const std::int64_t dim : {1, 2, 3, 31, 32, 33, 130}) {
      for (const Initial::Kind kind :
           {Initial::Kind::kZeros, Initial::Kind::kUniform, Initial::Kind::kNormal}) {
        const Initial initial{kind, -0.75F, 1.5F, 42};
        RecordShape shape{.element = element, .dim = dim};
        const auto weight_bytes = dim * static_cast<std::int64_t>(size_of(element));
        shape.state_at = (weight_bytes + 3) / 4 * 4;
        shape.fields = 2;
        shape.field_floats[0] = dim, shape.field_floats[1] = 1;
        shape.first_values[0] = 0.25F, shape.first_values[1] = 3;
        shape.bytes = shape.state_at + (dim + 1) * 4;
        // Slabs of 64 rows.
        RecordSlabs slabs{.slabs = nullptr, .shift = 6, .stride = (shape.bytes + 15) / 16 * 16};
        slabs.keys_at = slabs.stride * 64;
        slabs.kept_at = slabs.keys_at + 512;
        slabs.marks_at = slabs.kept_at + 512;
        std::vector<std::byte*> addresses;
        for (std::uint64_t s = 0; s * 64 < kRows; ++s)
          addresses.push_back(
              at.put(std::vector<std::byte>(static_cast<std::size_t>(slabs.marks_at) + 64, std::byte{0xAB})));
        slabs.slabs = at.put(addresses);
        std::vector<std::uint64_t> keys, numbers;
        for (std::uint64_t i = 0; i < kRows; ++i) {
          keys.push_back(i * 0x9E3779B97F4A7C15U);
          numbers.push_back(kRows - 1 - i);
        }
        const auto* const device_keys = at.put(keys);
        const auto* const device_numbers = at.put(numbers);
        const auto n = static_cast<std::int64_t>(kRows);
        at.finish(make_records(at.place(), slabs, shape, initial, device_keys, device_numbers, nullptr, n));
        auto* const out_keys = at.put(std::vector<std::uint64_t>(kRows, 1));
        auto* const flags = at.put(std::vector<std::uint8_t>(kRows, 9));
        auto* const records =
            at.put(std::vector<std::byte>(kRows * static_cast<std::size_t>(shape.bytes), std::byte{1}));
        at.finish(read_records(at.place(), slabs, {}, 0, nullptr, n, shape.bytes, out_keys, flags, records));
        auto* const shown = at.put(std::vector<float>(kRows * static_cast<std::size_t>(dim), -9.0F));
        Index<Where> none(at, 64);
        auto* const absent = at.put(std::vector<std::uint64_t>(1, 0));
        at.finish(pull_rows(at.place(), none.index, slabs, shape, initial, device_keys, n, shown, absent, 7));
        CHECK(at.get(absent, 1)[0] == 7);
        // Those that are there are the same, in the order of their numbers; none is missing.
        auto* const there = at.put(std::vector<float>(kRows * static_cast<std::size_t>(dim), -9.0F));
        at.finish(pull_rows(at.place(), {}, slabs, shape, initial, device_numbers, n, there, absent, 8));
        CHECK(at.get(absent, 1)[0] == 7);
        REQUIRE(at.get(there, kRows * static_cast<std::size_t>(dim)) ==
                at.get(shown, kRows * static_cast<std::size_t>(dim)));
        const auto got = at.get(records, kRows * static_cast<std::size_t>(shape.bytes));
        const auto got_shown = at.get(shown, kRows * static_cast<std::size_t>(dim));
        REQUIRE(at.get(out_keys, kRows) == std::vector<std::uint64_t>(keys.rbegin(), keys.rend()));
        for (const std::uint8_t each : at.get(flags, kRows)) REQUIRE(each == (kRowLives | kRowUsed));
        std::vector<float> weights(static_cast<std::size_t>(dim));
        for (std::size_t i = 0; i < kRows; ++i) {
          initial_row(initial, keys[i], dim, weights.data());
          // As it is kept, with zeros for padding, and its state.
          std::vector<std::byte> expected(static_cast<std::size_t>(shape.bytes));
          (void)cast(Place::host(), Element::kFloat32, weights.data(), element, expected.data(), dim);
          std::vector<float> state(static_cast<std::size_t>(dim), 0.25F);
          state.push_back(3);
          std::memcpy(expected.data() + shape.state_at, state.data(), state.size() * sizeof(float));
          const auto first = got.begin() + static_cast<std::ptrdiff_t>((kRows - 1 - i) * expected.size());
          REQUIRE(std::equal(expected.begin(), expected.end(), first));
          std::vector<float> as_kept(static_cast<std::size_t>(dim));
          (void)cast(Place::host(), element, expected.data(), Element::kFloat32, as_kept.data(), dim);
          REQUIRE(std::equal(as_kept.begin(), as_kept.end(),
                             got_shown.begin() + static_cast<std::ptrdiff_t>(i) * dim));
        }
      }
    }
  }
}
