#include "host_store.hpp"

#include <algorithm>
#include <array>
#include <cstring>
#include <string>

#include <troupe/kernels/cast.hpp>
#include <troupe/kernels/gather.hpp>

#include "hashing.hpp"
#include "memory_errors.hpp"

namespace troupe::shards {
namespace {

constexpr std::uint64_t kMissing = kernels::HashIndex::kMissing;
/// Half rows that are wide at once while they are stepped: they stay in the first-level cache.
constexpr std::size_t kWideRows = 16;
constexpr std::size_t kRowsAhead = 16;

std::uint64_t floats_of(const RowLayout& layout) {
  return layout.bytes() / sizeof(float);
}

void widen(DType from, const void* weights, std::uint64_t dim, float* out) {
  const auto n = static_cast<std::int64_t>(dim);
  if (from == DType::kFloat16) {
    kernels::float16_to_float32(static_cast<const std::uint16_t*>(weights), n, out);
  } else {
    kernels::bfloat16_to_float32(static_cast<const std::uint16_t*>(weights), n, out);
  }
}

void narrow(DType to, const float* weights, std::uint64_t dim, void* out) {
  const auto n = static_cast<std::int64_t>(dim);
  if (to == DType::kFloat16) {
    kernels::float32_to_float16(weights, n, static_cast<std::uint16_t*>(out));
  } else {
    kernels::float32_to_bfloat16(weights, n, static_cast<std::uint16_t*>(out));
  }
}

void prefetch(const void* record, std::size_t bytes) {
  for (std::size_t at = 0; at < bytes; at += 64) __builtin_prefetch(static_cast<const char*>(record) + at);
}

}  // namespace

std::unique_ptr<RowStore> make_host_store(const TableSpec& spec, const SlotSet& slots) {
  return std::make_unique<HostStore>(spec, slots);
}

HostStore::HostStore(const TableSpec& spec, const SlotSet& slots)
    : spec_(spec),
      slots_(slots),
      layout_(spec.optimizer.layout(spec.weights, spec.dim)),
      slabs_(floats_of(layout_)),
      index_(0, secret_seed()) {
  if (spec_.kind == TableKind::kDense) make_dense_rows();
}

// ---- Finding and making rows --------------------------------------------------------------------

void HostStore::make_dense_rows() {
  for (std::uint32_t slot = 0; slot < spec_.slots; ++slot) {
    const RowRange range = rows_of_slot(spec_, slot);
    if (!slots_.contains(slot) || range.begin == range.end) continue;
    if (!runs_.empty() && runs_.back().end == range.begin) {
      runs_.back().end = range.end;
    } else {
      runs_.push_back({range.begin, range.end, numbered_});
    }
    numbered_ += range.end - range.begin;
  }
  slabs_.reserve(numbered_);
  for (const Run& run : runs_) {
    for (std::uint64_t key = run.begin; key < run.end; ++key) make_row(run.base + key - run.begin, key);
  }
}

void HostStore::make_row(std::uint64_t number, std::uint64_t key) {
  std::byte* row = record(number);
  if (layout_.weights == DType::kFloat32) {
    initialize_row(spec_, key, reinterpret_cast<float*>(row));
  } else {
    if (wide_.size() < spec_.dim) wide_.resize(spec_.dim);
    std::memset(row, 0, layout_.state_offset());  // with the padding
    initialize_row(spec_, key, wide_.data());
    narrow(layout_.weights, wide_.data(), spec_.dim, row);
  }
  auto* state = reinterpret_cast<float*>(row + layout_.state_offset());
  for (std::size_t i = 0; i < layout_.state.size(); ++i)
    state = std::fill_n(state, layout_.extent(i), layout_.state[i].first_value);
}

std::uint64_t HostStore::key(std::uint64_t number) const {
  if (spec_.kind == TableKind::kEmbedding) return keys_[number];
  const auto run = std::prev(std::upper_bound(runs_.begin(), runs_.end(), number,
                                              [](std::uint64_t n, const Run& r) { return n < r.base; }));
  return run->begin + number - run->base;
}

std::uint64_t HostStore::bytes() const {
  std::uint64_t total = numbered_ * slabs_.row_bytes();
  if (spec_.kind == TableKind::kEmbedding) {
    total += keys_.capacity() * sizeof(std::uint64_t);
    total += static_cast<std::uint64_t>(index_.capacity()) * 2 * sizeof(std::uint64_t);
  }
  return total;
}

Error HostStore::slot_error(std::uint64_t key) const {
  return {Code::kFailedPrecondition,
          "table '" + spec_.name + "': key " + std::to_string(key) + " lies in slot " +
              std::to_string(slot_of(spec_, key)) +
              ", which this shard does not own: get the present slot map and ask its owner"};
}

Error HostStore::dense_error(std::uint64_t key) const {
  if (key < spec_.rows) return slot_error(key);
  return {Code::kInvalidArgument, "table '" + spec_.name + "': row " + std::to_string(key) +
                                      " is out of range, it has " + std::to_string(spec_.rows) + " rows"};
}

Error HostStore::dense_forever() const {
  return {Code::kFailedPrecondition,
          "table '" + spec_.name + "': it is dense, whose rows are there as long as the table"};
}

// Rows usually come in ranges, so the run of the last key is tried first.
Result<void> HostStore::find_dense(std::span<const std::uint64_t> keys) {
  Run run{0, 0, 0};
  for (std::size_t i = 0; i < keys.size(); ++i) {
    const std::uint64_t key = keys[i];
    if (key < run.begin || key >= run.end) {
      const auto next = std::upper_bound(runs_.begin(), runs_.end(), key,
                                         [](std::uint64_t k, const Run& r) { return k < r.begin; });
      if (next == runs_.begin() || key >= std::prev(next)->end) return dense_error(key);
      run = *std::prev(next);
    }
    numbers_[i] = run.base + key - run.begin;
  }
  return {};
}

Result<void> HostStore::check_owned(std::span<const std::uint64_t> keys) const {
  for (std::size_t i = 0; i < keys.size(); ++i) {
    // A key that has a row was checked when the row was made.
    if (numbers_[i] != kMissing) continue;
    if (!slots_.contains(slot_of(spec_, keys[i]))) return slot_error(keys[i]);
  }
  return {};
}

Result<void> HostStore::find(std::span<const std::uint64_t> keys) {
  if (numbers_.size() < keys.size()) numbers_.resize(keys.size());
  if (spec_.kind == TableKind::kDense) return find_dense(keys);
  const auto found = index_.find_batch(keys, std::span(numbers_.data(), keys.size()));
  return static_cast<std::uint64_t>(found) == keys.size() ? Result<void>() : check_owned(keys);
}

Result<void> HostStore::find_or_make(std::span<const std::uint64_t> keys) {
  if (numbers_.size() < keys.size()) numbers_.resize(keys.size());
  if (spec_.kind == TableKind::kDense) return find_dense(keys);
  const auto found =
      static_cast<std::uint64_t>(index_.find_batch(keys, std::span(numbers_.data(), keys.size())));
  if (found == keys.size()) return {};
  if (Result<void> owned = check_owned(keys); !owned) return owned;
  make_missing(keys, keys.size() - found);
  return {};
}

// All memory first, so that no key can be in the index without a row.
void HostStore::make_missing(std::span<const std::uint64_t> keys, std::uint64_t missing) {
  const std::uint64_t most = numbered_ + missing;
  slabs_.reserve(most);
  if (keys_.capacity() < most) keys_.reserve(std::max<std::uint64_t>(most, 2 * keys_.capacity()));
  if (!gone_.empty()) gone_.reserve(most);
  if (!used_.empty()) used_.reserve(most);
  if (layout_.weights != DType::kFloat32) wide_.reserve(spec_.dim);
  new_keys_.clear();
  for (std::size_t i = 0; i < keys.size(); ++i)
    if (numbers_[i] == kMissing) new_keys_.push_back(keys[i]);
  index_.prepare(new_keys_);
  const auto number_next = [&](std::uint64_t key) {
    keys_.push_back(key);
    if (!gone_.empty()) gone_.push_back(false);
    if (!used_.empty()) used_.push_back(1);
    make_row(numbered_++, key);
  };
  if (free_.empty() || cut_) {
    index_.find_or_insert_batch(keys, numbered_, std::span(numbers_.data(), keys.size()));
    for (std::size_t i = 0; i < keys.size(); ++i)
      if (numbers_[i] == numbered_) number_next(keys[i]);  // numbered in the order in which they come
    return;
  }
  for (std::size_t i = 0; i < keys.size(); ++i) {
    if (numbers_[i] != kMissing) continue;
    const bool again = !free_.empty();
    const auto [number, inserted] = index_.find_or_insert(keys[i], again ? free_.back() : numbered_);
    numbers_[i] = number;
    if (!inserted) continue;  // the key came before in this batch
    if (!again) {
      number_next(keys[i]);
      continue;
    }
    free_.pop_back();
    gone_[number] = false;
    keys_[number] = keys[i];
    make_row(number, keys[i]);
  }
}

// ---- Rows in batches ----------------------------------------------------------------------------

void HostStore::mark_used(std::size_t count) {
  if (used_.empty()) return;
  for (std::size_t i = 0; i < count; ++i)
    if (numbers_[i] != kMissing) used_[numbers_[i]] = 1;
}

Result<Completion> HostStore::read(std::span<const std::uint64_t> keys, IfMissing missing, float* out,
                                   Stream* /*stream*/) {
  return with_memory_errors(spec_, [&]() -> Result<Completion> {
    Result<void> found = missing == IfMissing::kMake ? find_or_make(keys) : find(keys);
    if (!found) return found.error();
    mark_used(keys.size());
    if (rows_.size() < keys.size()) rows_.resize(keys.size());
    for (std::size_t i = 0; i < keys.size(); ++i)
      rows_[i] = numbers_[i] == kMissing ? nullptr : slabs_.row(numbers_[i]);
    const std::uint64_t dim = spec_.dim;
    if (layout_.weights == DType::kFloat32) {
      kernels::gather_rows(rows_.data(), static_cast<std::int64_t>(keys.size()),
                           static_cast<std::int64_t>(dim), out);
    } else {
      for (std::size_t i = 0; i < keys.size(); ++i) {
        if (i + kRowsAhead < keys.size()) prefetch(rows_[i + kRowsAhead], layout_.weight_bytes());
        if (rows_[i] != nullptr) widen(layout_.weights, rows_[i], dim, out + i * dim);
      }
    }
    if (missing == IfMissing::kMake || spec_.kind == TableKind::kDense) return Completion();
    for (std::size_t i = 0; i < keys.size(); ++i) {
      if (rows_[i] != nullptr) continue;
      float* row = out + i * dim;
      initialize_row(spec_, keys[i], row);
      if (layout_.weights == DType::kFloat32) continue;
      std::vector<std::uint16_t> half(dim);  // as it would be once it is made
      narrow(layout_.weights, row, dim, half.data());
      widen(layout_.weights, half.data(), dim, row);
    }
    return Completion();
  });
}

void HostStore::reserve_scratch(std::size_t keys) {
  if (rows_.size() < keys) rows_.resize(keys);
  if (layout_.weights == DType::kFloat32) return;
  const std::size_t wide = kWideRows * (spec_.dim + layout_.state_floats());
  if (wide_.size() < wide) wide_.resize(wide);
}

Result<Completion> HostStore::make(std::span<const std::uint64_t> keys, Stream* /*stream*/) {
  return with_memory_errors(spec_, [&]() -> Result<Completion> {
    reserve_scratch(keys.size());  // for the read or update to come
    if (Result<void> made = find_or_make(keys); !made) return made.error();
    keep_for_cut(std::span(numbers_.data(), keys.size()));
    return Completion();
  });
}

Result<Completion> HostStore::update(std::span<const std::uint64_t> keys, const float* gradients, float scale,
                                     Stream* /*stream*/) {
  return with_memory_errors(spec_, [&]() -> Result<Completion> {
    reserve_scratch(keys.size());
    if (Result<void> found = find_or_make(keys); !found) return found.error();
    keep_for_cut(std::span(numbers_.data(), keys.size()));
    // Nothing can fail from here on.
    mark_used(keys.size());
    for (std::size_t i = 0; i < keys.size(); ++i) rows_[i] = slabs_.row(numbers_[i]);
    std::array<float, OptimizerDef::kMaxParameters> parameters{};
    const std::span<const float> numbers = spec_.optimizer.numbers();
    std::copy(numbers.begin(), numbers.end(), parameters.begin());
    parameters[0] *= scale;  // the learning rate
    const StepBatch batch{.rows = rows_.data(),
                          .gradients = gradients,
                          .count = static_cast<std::int64_t>(keys.size()),
                          .dim = static_cast<std::int64_t>(spec_.dim),
                          .parameters = std::span(parameters.data(), numbers.size())};
    if (layout_.weights == DType::kFloat32) {
      spec_.optimizer.def().step(batch);
    } else {
      step_half_rows(keys.size(), gradients, batch);
    }
    return Completion();
  });
}

/// Optimizers see float32 rows with their state behind: some rows at a time are made so, stepped, and put
/// back.
void HostStore::step_half_rows(std::size_t count, const float* gradients, const StepBatch& batch) {
  const std::uint64_t dim = spec_.dim;
  const std::uint64_t state = layout_.state_floats();
  std::array<float*, kWideRows> wide{};
  for (std::size_t i = 0; i < kWideRows; ++i) wide[i] = wide_.data() + i * (dim + state);
  for (std::size_t first = 0; first < count; first += kWideRows) {
    const std::size_t some = std::min(kWideRows, count - first);
    for (std::size_t i = 0; i < some; ++i) {
      if (first + i + kRowsAhead < count) prefetch(rows_[first + i + kRowsAhead], layout_.bytes());
      const std::byte* row = reinterpret_cast<const std::byte*>(rows_[first + i]);
      widen(layout_.weights, row, dim, wide[i]);
      std::memcpy(wide[i] + dim, row + layout_.state_offset(), state * sizeof(float));
    }
    StepBatch part = batch;
    part.rows = wide.data();
    part.gradients = gradients + first * dim;
    part.count = static_cast<std::int64_t>(some);
    spec_.optimizer.def().step(part);
    for (std::size_t i = 0; i < some; ++i) {
      std::byte* row = reinterpret_cast<std::byte*>(rows_[first + i]);
      narrow(layout_.weights, wide[i], dim, row);
      std::memcpy(row + layout_.state_offset(), wide[i] + dim, state * sizeof(float));
    }
  }
}

Result<Completion> HostStore::insert(const RowBatch& rows, Stream* /*stream*/) {
  return with_memory_errors(spec_, [&]() -> Result<Completion> {
    if (rows.records.size() != rows.keys.size() * layout_.bytes()) {
      return Error{Code::kInvalidArgument, "table '" + spec_.name + "': " + std::to_string(rows.keys.size()) +
                                               " rows of " + std::to_string(layout_.bytes()) +
                                               " bytes came in " + std::to_string(rows.records.size())};
    }
    if (Result<void> found = find_or_make(rows.keys); !found) return found.error();
    keep_for_cut(std::span(numbers_.data(), rows.keys.size()));
    mark_used(rows.keys.size());
    const std::byte* from = rows.records.data();
    for (std::size_t i = 0; i < rows.keys.size(); ++i, from += layout_.bytes())
      std::memcpy(record(numbers_[i]), from, layout_.bytes());
    return Completion();
  });
}

void HostStore::append(std::uint64_t number, RowBatch& into) const {
  into.keys.push_back(key(number));
  const std::byte* from = record(number);
  into.records.insert(into.records.end(), from, from + layout_.bytes());
}

Result<ExtractPage> HostStore::extract(const SlotSet& slots, std::uint64_t cursor, std::uint64_t most,
                                       RowBatch& into) const {
  return with_memory_errors(spec_, [&]() -> Result<ExtractPage> {
    ExtractPage page{.rows = 0, .next_cursor = cursor, .done = false};
    for (; page.rows < most && page.next_cursor < numbered_; ++page.next_cursor) {
      if (is_gone(page.next_cursor) || !slots.contains(slot_of(spec_, key(page.next_cursor)))) continue;
      append(page.next_cursor, into);
      ++page.rows;
    }
    page.done = page.next_cursor >= numbered_;
    return page;
  });
}

// ---- Forgetting rows ----------------------------------------------------------------------------

/// Precondition: memory for it in free_, gone_ and the cut has been had.
void HostStore::erase_row(std::uint64_t number) {
  index_.erase(keys_[number]);
  free_.push_back(number);
  gone_[number] = true;
}

Result<std::uint64_t> HostStore::erase(std::span<const std::uint64_t> keys) {
  return with_memory_errors(spec_, [&]() -> Result<std::uint64_t> {
    if (spec_.kind == TableKind::kDense) return dense_forever();
    if (Result<void> found = find(keys); !found) return found.error();
    if (gone_.empty()) gone_.resize(numbered_);
    free_.reserve(free_.size() + keys.size());
    keep_for_cut(std::span(numbers_.data(), keys.size()));
    std::uint64_t erased = 0;
    for (std::size_t i = 0; i < keys.size(); ++i) {
      if (numbers_[i] == kMissing || gone_[numbers_[i]]) continue;
      erase_row(numbers_[i]);
      ++erased;
    }
    return erased;
  });
}

Result<std::uint64_t> HostStore::erase(const SlotSet& slots) {
  std::uint64_t erased = 0;
  for (std::uint64_t number = 0; number < numbered_ && spec_.kind == TableKind::kEmbedding; ++number) {
    if (is_gone(number) || !slots.contains(slot_of(spec_, keys_[number]))) continue;
    const std::uint64_t key = keys_[number];
    const Result<std::uint64_t> one = erase(std::span(&key, 1));
    if (!one) return one.error();
    erased += *one;
  }
  if (spec_.kind == TableKind::kDense) return dense_forever();
  return erased;
}

// The clock algorithm (Corbato 1968): a hand goes round; who was used since it came last is passed over once.
Result<std::uint64_t> HostStore::evict(std::uint64_t most) {
  if (spec_.kind == TableKind::kDense) return dense_forever();
  std::uint64_t erased = 0;
  return with_memory_errors(spec_, [&]() -> Result<std::uint64_t> {
    if (used_.size() < numbered_) used_.resize(numbered_);
    for (; rows() > most; ++hand_) {
      if (hand_ >= numbered_) hand_ = 0;
      if (is_gone(hand_)) continue;
      if (std::exchange(used_[hand_], 0) != 0) continue;
      const std::uint64_t key = keys_[hand_];
      const Result<std::uint64_t> one = erase(std::span(&key, 1));
      if (!one) return one.error();
      erased += *one;
    }
    return erased;
  });
}

// ---- Cuts ---------------------------------------------------------------------------------------

Result<std::uint64_t> HostStore::open_cut() {
  if (cut_)
    return Error{Code::kFailedPrecondition, "table '" + spec_.name + "': a checkpoint is being made already"};
  return with_memory_errors(spec_, [&]() -> Result<std::uint64_t> {
    cut_ = Cut{.end = numbered_, .next = 0, .gone = gone_, .kept = {}};
    return rows();
  });
}

void HostStore::keep_for_cut(std::span<const std::uint64_t> numbers) {
  if (!cut_) return;
  for (const std::uint64_t number : numbers) {
    if (number >= cut_->end || number < cut_->next || is_gone(number)) continue;
    const auto [at, first] = cut_->kept.try_emplace(number);
    if (!first) continue;
    try {
      at->second = {key(number), std::vector<std::byte>(record(number), record(number) + layout_.bytes())};
    } catch (...) {
      cut_->kept.erase(at);
      throw;
    }
  }
}

Result<ExtractPage> HostStore::read_cut(std::uint64_t cursor, std::uint64_t most, RowBatch& into) {
  return with_memory_errors(spec_, [&]() -> Result<ExtractPage> {
    ExtractPage page{.rows = 0, .next_cursor = cursor, .done = false};
    for (; page.rows < most && page.next_cursor < cut_->end; ++page.next_cursor) {
      if (!cut_->gone.empty() && cut_->gone[page.next_cursor]) continue;
      const auto kept = cut_->kept.find(page.next_cursor);
      if (kept == cut_->kept.end()) {
        append(page.next_cursor, into);
      } else {
        into.keys.push_back(kept->second.first);
        into.records.insert(into.records.end(), kept->second.second.begin(), kept->second.second.end());
        cut_->kept.erase(kept);
      }
      ++page.rows;
    }
    cut_->next = page.next_cursor;
    page.done = page.next_cursor >= cut_->end;
    return page;
  });
}

}  // namespace troupe::shards
