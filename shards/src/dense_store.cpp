#include "dense_store.hpp"

#include <algorithm>
#include <cstring>
#include <string>
#include <utility>

#include "host_store.hpp"
#include "memory_errors.hpp"
#include "row_errors.hpp"

namespace troupe::shards {
namespace {

/// Rows that are named at once: what names them stays in the first-level cache.
constexpr std::size_t kPiece_rows = 1024;

}  // namespace

std::unique_ptr<RowStore> make_host_store(const TableSpec& spec, const SlotSet& slots) {
  if (spec.kind == TableKind::kDense) return std::make_unique<DenseStore>(spec, slots);
  return std::make_unique<HostStore>(spec, slots);
}

DenseStore::DenseStore(const TableSpec& spec, const SlotSet& slots)
    : spec_(spec), rows_(spec), runs_(spec, slots) {
  rows_.reserve(runs_.rows());
  rows_.reserve_step(kPiece_rows);
  for (const DenseRuns::Run& run : runs_.all())
    for (std::uint64_t row = run.begin; row < run.end; ++row) rows_.make(run.number(row), row);
}

std::uint64_t DenseStore::bytes() const {
  return runs_.rows() * rows_.row_bytes() + runs_.bytes();
}

template <class Work>
void DenseStore::in_pieces(const RowKeys& keys, Work work) {
  RowKeys left = keys;
  for (std::size_t at = 0; at < keys.size();) {
    const std::size_t some = std::min(kPiece_rows, left.size());
    std::size_t i = 0;
    runs_.for_each_number(left.subspan(0, some), [&](std::uint64_t number) { rows_.name(i++, number); });
    work(at, some);
    at += some;
    left = left.subspan(some, left.size() - some);
  }
}

// ---- Rows in batches ----------------------------------------------------------------------------

Result<Completion> DenseStore::read(const RowKeys& keys, IfMissing /*missing*/, RowsOut out,
                                    Stream* /*stream*/) {
  if (auto good = runs_.check(keys); !good) return good.error();
  in_pieces(keys, [&](std::size_t at, std::size_t some) { rows_.read(some, out.data + at * spec_.dim); });
  return Completion();
}

Result<Completion> DenseStore::make(const RowKeys& keys, Stream* /*stream*/) {
  return with_memory_errors(spec_, [&]() -> Result<Completion> {
    if (auto good = runs_.check(keys); !good) return good.error();
    keep_for_cut(keys);
    return Completion();
  });
}

Result<Completion> DenseStore::update(const RowKeys& keys, const float* gradients, float scale,
                                      Stream* /*stream*/) {
  return with_memory_errors(spec_, [&]() -> Result<Completion> {
    if (auto good = runs_.check(keys); !good) return good.error();
    keep_for_cut(keys);
    // Nothing can fail from here on.
    in_pieces(keys,
              [&](std::size_t at, std::size_t some) { rows_.step(some, gradients + at * spec_.dim, scale); });
    return Completion();
  });
}

Result<Completion> DenseStore::insert(const RowBatch& rows, Stream* /*stream*/) {
  const std::size_t bytes = layout().bytes();
  return with_memory_errors(spec_, [&]() -> Result<Completion> {
    if (rows.records.size() != rows.keys.size() * bytes) return batch_error(spec_, layout(), rows);
    const RowKeys keys = rows.keys;
    if (auto good = runs_.check(keys); !good) return good.error();
    keep_for_cut(keys);
    const std::byte* from = rows.records.data();
    runs_.for_each_number(keys, [&](std::uint64_t number) {
      std::memcpy(rows_.record(number), from, bytes);
      from += bytes;
    });
    return Completion();
  });
}

Result<void> DenseStore::copy(std::span<const std::uint64_t> keys, RowBatch& into) {
  return with_memory_errors(spec_, [&]() -> Result<void> {
    if (auto good = runs_.check(keys); !good) return good;
    into.keys.insert(into.keys.end(), keys.begin(), keys.end());
    runs_.for_each_number(keys, [&](std::uint64_t number) {
      const std::byte* from = rows_.record(number);
      into.records.insert(into.records.end(), from, from + layout().bytes());
    });
    return {};
  });
}

template <class Wanted>
void DenseStore::append(ExtractPage& page, std::uint64_t most, RowBatch& into, Wanted wanted,
                        Cut* cut) const {
  const auto& runs = runs_.all();
  auto run = std::upper_bound(runs.begin(), runs.end(), page.next_cursor,
                              [](std::uint64_t number, const DenseRuns::Run& r) { return number < r.base; });
  for (; page.rows < most && page.next_cursor < runs_.rows(); ++page.next_cursor) {
    const std::uint64_t number = page.next_cursor;
    if (run != runs.end() && number >= run->base) ++run;
    const DenseRuns::Run& own = *std::prev(run);
    const std::uint64_t row = own.begin + number - own.base;
    if (!wanted(row)) continue;
    const auto kept = cut ? cut->kept.extract(number) : Kept::node_type();
    const std::byte* from = kept.empty() ? rows_.record(number) : kept.mapped().data();
    into.keys.push_back(row);
    into.records.insert(into.records.end(), from, from + layout().bytes());
    ++page.rows;
  }
  page.done = page.next_cursor >= runs_.rows();
}

Result<ExtractPage> DenseStore::extract(const SlotSet& slots, std::uint64_t cursor, std::uint64_t most,
                                        RowBatch& into) const {
  return with_memory_errors(spec_, [&]() -> Result<ExtractPage> {
    ExtractPage page{.rows = 0, .next_cursor = cursor, .done = false};
    append(
        page, most, into, [&](std::uint64_t row) { return slots.contains(slot_of(spec_, row)); }, nullptr);
    return page;
  });
}

Result<std::uint64_t> DenseStore::erase(std::span<const std::uint64_t> /*keys*/) {
  return runs_.stay_forever();
}
Result<std::uint64_t> DenseStore::erase(const SlotSet& /*slots*/) {
  return runs_.stay_forever();
}
Result<std::uint64_t> DenseStore::evict(std::uint64_t /*most*/) {
  return runs_.stay_forever();
}

// ---- Cuts ---------------------------------------------------------------------------------------

Result<std::uint64_t> DenseStore::open_cut() {
  if (cut_) return cut_error(spec_);
  cut_ = Cut{.next = 0, .kept = {}};
  return runs_.rows();
}

void DenseStore::keep_for_cut(const RowKeys& keys) {
  if (!cut_) return;
  runs_.for_each_number(keys, [&](std::uint64_t number) {
    if (number < cut_->next || cut_->kept.contains(number)) return;
    const std::byte* from = rows_.record(number);
    cut_->kept.emplace(number, std::vector<std::byte>(from, from + layout().bytes()));
  });
}

Result<ExtractPage> DenseStore::read_cut(std::uint64_t cursor, std::uint64_t most, RowBatch& into) {
  return with_memory_errors(spec_, [&]() -> Result<ExtractPage> {
    ExtractPage page{.rows = 0, .next_cursor = cursor, .done = false};
    append(
        page, most, into, [](std::uint64_t) { return true; }, &*cut_);
    cut_->next = page.next_cursor;
    return page;
  });
}

}  // namespace troupe::shards
