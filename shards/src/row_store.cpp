#include "row_store.hpp"

#include <algorithm>
#include <string>
#include <variant>

#include <troupe/kernels/optimizer.hpp>

namespace troupe::shards {
namespace {

std::uint64_t floats_per_row(const TableSpec& spec) {
  const auto dim = static_cast<std::int64_t>(spec.dim);
  std::int64_t state = kernels::sgd_state(dim);
  if (std::holds_alternative<Adagrad>(spec.optimizer)) state = kernels::adagrad_state(dim);
  if (std::holds_alternative<Adam>(spec.optimizer)) state = kernels::adam_state(dim);
  return static_cast<std::uint64_t>(dim + state);
}

}  // namespace

RowStore::RowStore(const TableSpec& spec, const SlotSet& slots)
    : spec_(spec), slots_(slots), slabs_(floats_per_row(spec)), index_(0, spec.seed) {
  if (spec_.kind == TableKind::kDense) make_dense_rows();
}

void RowStore::make_dense_rows() {
  for (std::uint32_t slot = 0; slot < spec_.slots; ++slot) {
    const RowRange range = rows_of_slot(spec_, slot);
    if (!slots_.contains(slot) || range.begin == range.end) continue;
    if (!runs_.empty() && runs_.back().end == range.begin) {
      runs_.back().end = range.end;
    } else {
      runs_.push_back({range.begin, range.end, size_});
    }
    size_ += range.end - range.begin;
  }
  slabs_.reserve(size_);
  for (const Run& run : runs_) {
    for (std::uint64_t key = run.begin; key < run.end; ++key) make_row(run.base + key - run.begin, key);
  }
}

void RowStore::make_row(std::uint64_t number, std::uint64_t key) {
  float* row = slabs_.row(number);
  initialize_row(spec_, key, row);
  const auto* adagrad = std::get_if<Adagrad>(&spec_.optimizer);
  std::fill(row + spec_.dim, row + floats_per_row(spec_), adagrad ? adagrad->initial_accumulator : 0.0F);
}

std::uint64_t RowStore::key(std::uint64_t number) const {
  if (spec_.kind == TableKind::kEmbedding) return keys_[number];
  const auto run = std::prev(std::upper_bound(runs_.begin(), runs_.end(), number,
                                              [](std::uint64_t n, const Run& r) { return n < r.base; }));
  return run->begin + number - run->base;
}

std::uint64_t RowStore::bytes() const {
  std::uint64_t total = size_ * slabs_.row_bytes();
  if (spec_.kind == TableKind::kEmbedding) {
    total += keys_.capacity() * sizeof(std::uint64_t);
    total += static_cast<std::uint64_t>(index_.capacity()) * 2 * sizeof(std::uint64_t);
  }
  return total;
}

Error RowStore::slot_error(std::uint64_t key) const {
  return {Code::kFailedPrecondition,
          "table '" + spec_.name + "': key " + std::to_string(key) + " lies in slot " +
              std::to_string(slot_of(spec_, key)) +
              ", which this shard does not own: get the present slot map and ask its owner"};
}

Error RowStore::dense_error(std::uint64_t key) const {
  if (key < spec_.rows) return slot_error(key);
  return {Code::kInvalidArgument, "table '" + spec_.name + "': row " + std::to_string(key) +
                                      " is out of range, it has " + std::to_string(spec_.rows) + " rows"};
}

// Rows usually come in ranges, so the run of the last key is tried first.
Result<void> RowStore::locate_dense(std::span<const std::uint64_t> keys, std::vector<float*>& rows) const {
  Run run{0, 0, 0};
  for (std::size_t i = 0; i < keys.size(); ++i) {
    const std::uint64_t key = keys[i];
    if (key < run.begin || key >= run.end) {
      const auto next = std::upper_bound(runs_.begin(), runs_.end(), key,
                                         [](std::uint64_t k, const Run& r) { return k < r.begin; });
      if (next == runs_.begin() || key >= std::prev(next)->end) return dense_error(key);
      run = *std::prev(next);
    }
    rows[i] = slabs_.row(run.base + key - run.begin);
  }
  return {};
}

Result<void> RowStore::check_owned(std::span<const std::uint64_t> keys) const {
  for (std::size_t i = 0; i < keys.size(); ++i) {
    // A key that has a row was checked when the row was made.
    if (numbers_[i] != kernels::HashIndex::kMissing) continue;
    if (!slots_.contains(slot_of(spec_, keys[i]))) return slot_error(keys[i]);
  }
  return {};
}

Result<void> RowStore::locate(std::span<const std::uint64_t> keys, std::vector<float*>& rows) {
  if (rows.size() < keys.size()) rows.resize(keys.size());
  if (spec_.kind == TableKind::kDense) return locate_dense(keys, rows);
  if (numbers_.size() < keys.size()) numbers_.resize(keys.size());
  const std::span numbers(numbers_.data(), keys.size());
  const auto found = static_cast<std::uint64_t>(index_.find_batch(keys, numbers));
  if (found != keys.size()) {
    if (Result<void> owned = check_owned(keys); !owned) return owned;
    // All memory first, so that no key can be in the index without a row.
    const std::uint64_t most = size_ + (keys.size() - found);
    slabs_.reserve(most);
    if (keys_.capacity() < most) keys_.reserve(std::max<std::uint64_t>(most, 2 * keys_.capacity()));
    index_.reserve(static_cast<std::int64_t>(most));
    index_.find_or_insert_batch(keys, size_, numbers);
    for (std::size_t i = 0; i < keys.size(); ++i) {
      if (numbers[i] != size_) continue;  // new rows are numbered in the order in which they come
      make_row(size_++, keys[i]);
      keys_.push_back(keys[i]);
    }
  }
  for (std::size_t i = 0; i < keys.size(); ++i) rows[i] = slabs_.row(numbers[i]);
  return {};
}

Result<void> RowStore::find(std::span<const std::uint64_t> keys, std::vector<float*>& rows) {
  if (rows.size() < keys.size()) rows.resize(keys.size());
  if (spec_.kind == TableKind::kDense) return locate_dense(keys, rows);
  if (numbers_.size() < keys.size()) numbers_.resize(keys.size());
  const std::span numbers(numbers_.data(), keys.size());
  index_.find_batch(keys, numbers);
  if (Result<void> owned = check_owned(keys); !owned) return owned;
  for (std::size_t i = 0; i < keys.size(); ++i) {
    rows[i] = numbers[i] == kernels::HashIndex::kMissing ? nullptr : slabs_.row(numbers[i]);
  }
  return {};
}

}  // namespace troupe::shards
