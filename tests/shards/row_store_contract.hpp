#pragma once

#include <functional>
#include <map>
#include <memory>

#include <troupe/shards/row_store.hpp>

#include "reference_optimizers.hpp"
#include "support.hpp"

/// What every RowStore does, wherever its rows lie. A new kind of store runs these with its own factory.
namespace troupe::shards::test {

using MakeStore = std::function<std::unique_ptr<RowStore>(const TableSpec& spec, const SlotSet& slots)>;

/// Waits for operations that complete later; a host store's are done at once.
inline void finished(const Result<Completion>& result) {
  REQUIRE_MESSAGE(result.ok(), (result.ok() ? "" : result.error().message));
  const Result<void> waited = result->wait();
  REQUIRE_MESSAGE(waited.ok(), (waited.ok() ? "" : waited.error().message));
  REQUIRE(result->done());
}

inline std::vector<float> read_rows(RowStore& store, const std::vector<std::uint64_t>& keys,
                                    IfMissing missing = IfMissing::kShow) {
  std::vector<float> out(keys.size() * store.layout().dim, -99);
  finished(store.read(keys, missing, out.data()));
  return out;
}

inline RowBatch every_row(const RowStore& store, const SlotSet& slots, std::uint64_t page_rows) {
  RowBatch batch;
  ExtractPage page;
  while (!page.done) {
    const std::size_t before = batch.keys.size();
    page = store.extract(slots, page.next_cursor, page_rows, batch).value();
    REQUIRE(page.rows <= page_rows);
    REQUIRE(batch.keys.size() == before + page.rows);
    REQUIRE(batch.records.size() == batch.keys.size() * store.layout().bytes());
  }
  return batch;
}

/// Records by key.
inline std::map<std::uint64_t, std::vector<std::byte>> by_key(const RowBatch& rows, std::size_t bytes) {
  std::map<std::uint64_t, std::vector<std::byte>> all;
  for (std::size_t i = 0; i < rows.keys.size(); ++i) {
    const auto [at, first] = all.try_emplace(rows.keys[i]);
    CHECK_MESSAGE(first, "key ", rows.keys[i], " came twice");
    at->second.assign(rows.records.data() + i * bytes, rows.records.data() + (i + 1) * bytes);
  }
  return all;
}

/// How near float32, or float16 and bfloat16 rows, come to double precision after some steps.
inline double tolerance(DType weights) {
  return weights == DType::kFloat32 ? 1e-4 : weights == DType::kFloat16 ? 1e-2 : 6e-2;
}

inline void store_steps_as_the_formula(const MakeStore& make, const TableSpec& spec) {
  INFO(spec.to_json());
  const auto store = make(spec, SlotSet::all(spec.slots));
  std::mt19937_64 random(11);
  std::vector<std::uint64_t> keys(37);
  for (std::size_t i = 0; i < keys.size(); ++i) keys[i] = i * 3;
  std::vector<ReferenceRow> rows(keys.size());
  const std::vector<float> first = read_rows(*store, keys);
  for (std::size_t i = 0; i < rows.size(); ++i) {
    rows[i].weights.assign(first.data() + i * spec.dim, first.data() + (i + 1) * spec.dim);
    rows[i].begin(spec.optimizer);
  }
  for (int turn = 0; turn < 6; ++turn) {
    const std::vector<float> gradients = random_floats(random, keys.size() * spec.dim);
    const float scale = turn % 2 == 0 ? 1.0F : 0.5F;
    finished(store->update(keys, gradients.data(), scale));
    for (std::size_t i = 0; i < rows.size(); ++i) {
      const float* g = gradients.data() + i * spec.dim;
      reference_step(spec.optimizer, rows[i], std::vector<double>(g, g + spec.dim), double{scale});
    }
  }
  const std::vector<float> got = read_rows(*store, keys);
  for (std::size_t i = 0; i < rows.size(); ++i)
    for (std::size_t j = 0; j < spec.dim; ++j) {
      const double expected = rows[i].weights[j];
      INFO("row ", i, " column ", j, ": ", got[i * spec.dim + j], " expected ", expected);
      REQUIRE(std::abs(double{got[i * spec.dim + j]} - expected) <=
              tolerance(spec.weights) * (0.5 + std::abs(expected)));
    }
}

inline void store_makes_and_shows(const MakeStore& make, const TableSpec& spec) {
  const auto store = make(spec, SlotSet::all(spec.slots));
  const std::vector<std::uint64_t> keys = {7, 8, 7, UINT64_MAX, 9};
  const std::vector<float> shown = read_rows(*store, keys);
  CHECK(store->rows() == 0);
  CHECK(read_rows(*store, keys, IfMissing::kMake) == shown);
  CHECK(store->rows() == 4);
  finished(store->make(keys));
  CHECK(store->rows() == 4);
  CHECK(every_row(*store, SlotSet::all(spec.slots), 3).keys ==
        std::vector<std::uint64_t>{7, 8, UINT64_MAX, 9});
}

inline void store_takes_what_another_gave(const MakeStore& make, const TableSpec& spec) {
  const auto store = make(spec, SlotSet::all(spec.slots));
  std::vector<std::uint64_t> keys(500);
  for (std::size_t i = 0; i < keys.size(); ++i) keys[i] = i;
  std::mt19937_64 random(3);
  finished(store->update(keys, random_floats(random, keys.size() * spec.dim).data(), 1));
  const SlotMap halves = SlotMap::balanced(spec.slots, 2);
  std::size_t rows = 0;
  for (const std::uint32_t half : {0U, 1U}) {
    const auto other = make(spec, halves.slots_of(half));
    const RowBatch part = every_row(*store, halves.slots_of(half), 17);
    rows += part.keys.size();
    RowBatch copied;
    REQUIRE(store->copy(part.keys, copied).ok());
    CHECK(copied.keys == part.keys);
    CHECK(copied.records == part.records);
    finished(other->insert(part));
    const std::size_t bytes = store->layout().bytes();
    CHECK(by_key(every_row(*other, halves.slots_of(half), 1000), bytes) == by_key(part, bytes));
    // Rows go on from their state.
    const auto gradients = random_floats(random, part.keys.size() * spec.dim);
    finished(store->update(part.keys, gradients.data(), 1));
    finished(other->update(part.keys, gradients.data(), 1));
    CHECK(read_rows(*other, part.keys) == read_rows(*store, part.keys));
    RowBatch foreign = every_row(*store, halves.slots_of(1 - half), 1000);
    const std::uint64_t before = other->rows();
    CHECK(other->insert(foreign).error().code == Code::kFailedPrecondition);
    CHECK(other->rows() == before);
    foreign.records.pop_back();
    CHECK(store->insert(foreign).error().code == Code::kInvalidArgument);
  }
  CHECK(rows == keys.size());
}

inline void store_forgets(const MakeStore& make, const TableSpec& spec) {
  const auto store = make(spec, SlotSet::all(spec.slots));
  std::vector<std::uint64_t> keys(100);
  for (std::size_t i = 0; i < keys.size(); ++i) keys[i] = i;
  const std::vector<float> first = read_rows(*store, keys);
  const std::vector<float> ones(keys.size() * spec.dim, 1.0F);
  finished(store->update(keys, ones.data(), 1));
  CHECK(store->erase(std::vector<std::uint64_t>{3, 5, 3, 1000}).value() == 2);
  CHECK(store->rows() == 98);
  // They begin anew, in the places of others, whose rows stay.
  const auto others = read_rows(*store, {4, 6});
  CHECK(read_rows(*store, {5}, IfMissing::kMake) == read_rows(*make(spec, SlotSet::all(spec.slots)), {5}));
  CHECK(read_rows(*store, {2000, 2001}, IfMissing::kMake) ==
        read_rows(*make(spec, SlotSet::all(spec.slots)), {2000, 2001}));
  CHECK(read_rows(*store, {4, 6}) == others);
  CHECK(store->rows() == 101);
  const SlotMap halves = SlotMap::balanced(spec.slots, 2);
  const std::size_t half = every_row(*store, halves.slots_of(0), 1000).keys.size();
  CHECK(store->erase(halves.slots_of(0)).value() == half);
  CHECK(every_row(*store, halves.slots_of(0), 1000).keys.empty());
  CHECK(store->rows() == 101 - half);
}

inline void store_evicts_the_unused(const MakeStore& make, const TableSpec& spec) {
  const auto store = make(spec, SlotSet::all(spec.slots));
  std::vector<std::uint64_t> keys(1000);
  for (std::size_t i = 0; i < keys.size(); ++i) keys[i] = i;
  read_rows(*store, keys, IfMissing::kMake);
  CHECK(store->evict(1000).value() == 0);  // from here on it knows who is used
  std::vector<std::uint64_t> used;
  for (std::uint64_t key = 0; key < 1000; key += 10) used.push_back(key);
  read_rows(*store, used);
  CHECK(store->evict(100).value() == 900);
  const auto left = by_key(every_row(*store, SlotSet::all(spec.slots), 64), store->layout().bytes());
  CHECK(left.size() == 100);
  for (const std::uint64_t key : used) CHECK(left.contains(key));
  CHECK(store->evict(0).value() == 100);
  CHECK(store->rows() == 0);
}

inline void store_cuts(const MakeStore& make, const TableSpec& spec) {
  const auto store = make(spec, SlotSet::all(spec.slots));
  const SlotSet all = SlotSet::all(spec.slots);
  std::mt19937_64 random(5);
  const bool embedding = spec.kind == TableKind::kEmbedding;
  std::vector<std::uint64_t> keys(90);
  for (std::size_t i = 0; i < keys.size(); ++i) keys[i] = i;
  finished(store->update(keys, random_floats(random, keys.size() * spec.dim).data(), 1));
  if (embedding) CHECK(store->erase(std::vector<std::uint64_t>{10, 80}).value() == 2);
  const auto before = by_key(every_row(*store, all, 1000), store->layout().bytes());
  CHECK(store->open_cut().value() == before.size());
  CHECK(store->open_cut().error().code == Code::kFailedPrecondition);
  RowBatch cut;
  ExtractPage page;
  for (std::uint64_t turn = 0; !page.done; ++turn) {
    page = store->read_cut(page.next_cursor, 7, cut).value();
    // Between pages: rows change, go and come, those read and those to be read.
    const auto some = embedding ? std::vector<std::uint64_t>{turn, 89 - turn, 40 + turn, 1000 + turn}
                                : std::vector<std::uint64_t>{turn, 89 - turn, 40 + turn};
    finished(store->update(some, random_floats(random, some.size() * spec.dim).data(), 1));
    if (embedding) REQUIRE(store->erase(std::vector<std::uint64_t>{20 + turn, 70 + turn}).ok());
  }
  store->close_cut();
  CHECK(by_key(cut, store->layout().bytes()) == before);
  CHECK(by_key(every_row(*store, all, 1000), store->layout().bytes()) != before);
  CHECK(store->open_cut().ok());
  store->close_cut();
}

/// Dense tables: ranges are what the list of their rows is, rows of other shards are refused as such.
inline void store_takes_ranges(const MakeStore& make, const TableSpec& spec) {
  INFO(spec.to_json());
  // Every second group of slots: several runs of rows.
  SlotSet owned = SlotSet::none(spec.slots);
  for (std::uint32_t slot = 0; slot < spec.slots; ++slot)
    if (slot / 128 % 2 == 0) owned.insert(slot);
  const std::vector<RowRange> runs = rows_of_slots(spec, owned);
  REQUIRE(runs.size() > 2);
  const auto by_range = make(spec, owned), by_key = make(spec, owned);
  std::mt19937_64 random(13);
  for (int turn = 0; turn < 5; ++turn) {
    std::vector<RowRange> ranges;
    std::vector<std::uint64_t> keys;
    for (const RowRange& run : runs) {
      const std::uint64_t begin = run.begin + random() % run.size();
      const RowRange range{begin, begin + 1 + random() % (run.end - begin)};
      ranges.push_back(range);
      for (std::uint64_t row = range.begin; row < range.end; ++row) keys.push_back(row);
    }
    const RowKeys rows((std::span<const RowRange>(ranges)));
    const auto gradients = random_floats(random, keys.size() * spec.dim);
    finished(by_range->make(rows));
    finished(by_range->update(rows, gradients.data(), 0.5F));
    finished(by_key->update(keys, gradients.data(), 0.5F));
    std::vector<float> out(keys.size() * spec.dim);
    finished(by_range->read(rows, IfMissing::kMake, out.data()));
    REQUIRE(out == read_rows(*by_key, keys));
    const std::size_t begin = keys.size() / 3, count = keys.size() / 2;
    const RowKeys part = rows.subspan(begin, count);
    finished(by_range->update(part, gradients.data(), 1));
    finished(by_key->update(std::span(keys).subspan(begin, count), gradients.data(), 1));
  }
  const std::size_t bytes = by_key->layout().bytes();
  const auto before = every_row(*by_range, owned, 33);
  CHECK(test::by_key(before, bytes) == test::by_key(every_row(*by_key, owned, 33), bytes));
  const std::vector<float> gradients((spec.rows + 1) * spec.dim, 1.0F);
  const auto refused = [&](RowRange range, Code code, std::uint64_t row) {
    INFO("rows ", range.begin, " to ", range.end);
    const std::vector<RowRange> ranges{{runs[0].begin, runs[0].begin + 1}, range};
    const auto pushed = by_range->update(RowKeys(std::span(ranges)), gradients.data(), 1);
    CHECK(pushed.error().code == code);
    CHECK(pushed.error().message.find(std::to_string(row)) != std::string::npos);
    std::vector<float> out(gradients.size());
    CHECK(by_range->read(RowKeys(std::span(ranges)), IfMissing::kMake, out.data()).error().code == code);
  };
  refused({runs[0].end - 1, runs[1].begin + 1}, Code::kFailedPrecondition, runs[0].end);
  refused({runs[0].end, runs[0].end + 1}, Code::kFailedPrecondition, runs[0].end);
  refused({runs[1].begin, spec.rows + 1}, Code::kInvalidArgument, spec.rows + 1);
  CHECK(test::by_key(every_row(*by_range, owned, 33), bytes) == test::by_key(before, bytes));
}

}  // namespace troupe::shards::test
