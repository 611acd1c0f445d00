#include "host_store.hpp"

#include <algorithm>
#include <cstring>
#include <utility>

#include "hashing.hpp"
#include "memory_errors.hpp"
#include "row_errors.hpp"

namespace troupe::shards {
namespace {

constexpr std::uint64_t kMissing = kernels::HashIndex::kMissing;

}  // namespace

HostStore::HostStore(const TableSpec& spec, const SlotSet& slots)
    : spec_(spec), slots_(slots), rows_(spec), index_(0, secret_seed()) {}

std::uint64_t HostStore::bytes() const {
  return numbered_ * rows_.row_bytes() + keys_.capacity() * sizeof(std::uint64_t) +
         static_cast<std::uint64_t>(index_.capacity()) * 2 * sizeof(std::uint64_t);
}

// ---- Finding and making rows --------------------------------------------------------------------

Result<void> HostStore::check_owned(std::span<const std::uint64_t> keys) const {
  for (std::size_t i = 0; i < keys.size(); ++i) {
    // A key that has a row was checked when the row was made.
    if (numbers_[i] != kMissing) continue;
    if (!slots_.contains(slot_of(spec_, keys[i]))) return slot_error(spec_, keys[i]);
  }
  return {};
}

Result<void> HostStore::find(std::span<const std::uint64_t> keys) {
  if (numbers_.size() < keys.size()) numbers_.resize(keys.size());
  const auto found = index_.find_batch(keys, std::span(numbers_.data(), keys.size()));
  return static_cast<std::uint64_t>(found) == keys.size() ? Result<void>() : check_owned(keys);
}

Result<void> HostStore::find_or_make(std::span<const std::uint64_t> keys) {
  if (numbers_.size() < keys.size()) numbers_.resize(keys.size());
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
  rows_.reserve(most);
  if (keys_.capacity() < most) keys_.reserve(std::max<std::uint64_t>(most, 2 * keys_.capacity()));
  if (!gone_.empty()) gone_.reserve(most);
  if (!used_.empty()) used_.reserve(most);
  new_keys_.clear();
  for (std::size_t i = 0; i < keys.size(); ++i)
    if (numbers_[i] == kMissing) new_keys_.push_back(keys[i]);
  index_.prepare(new_keys_);
  const auto number_next = [&](std::uint64_t key) {
    keys_.push_back(key);
    if (!gone_.empty()) gone_.push_back(false);
    if (!used_.empty()) used_.push_back(1);
    rows_.make(numbered_++, key);
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
    rows_.make(number, keys[i]);
  }
}

// ---- Rows in batches ----------------------------------------------------------------------------

void HostStore::mark_used(std::size_t count) {
  if (used_.empty()) return;
  for (std::size_t i = 0; i < count; ++i)
    if (numbers_[i] != kMissing) used_[numbers_[i]] = 1;
}

Result<Completion> HostStore::read(const RowKeys& wanted, IfMissing missing, RowsOut out,
                                   Stream* /*stream*/) {
  return with_memory_errors(spec_, [&]() -> Result<Completion> {
    if (auto good = check_ranges(spec_, wanted); !good) return good.error();
    const std::span<const std::uint64_t> keys = wanted.list();
    Result<void> found = missing == IfMissing::kMake ? find_or_make(keys) : find(keys);
    if (!found) return found.error();
    mark_used(keys.size());
    rows_.reserve_read(keys.size());
    for (std::size_t i = 0; i < keys.size(); ++i) {
      if (numbers_[i] == kMissing)
        rows_.name_none(i);
      else
        rows_.name(i, numbers_[i]);
    }
    rows_.read(keys.size(), out.data);
    for (std::size_t i = 0; i < keys.size() && missing == IfMissing::kShow; ++i)
      if (!rows_.named(i)) rows_.show(keys[i], out.data + i * spec_.dim);
    return Completion();
  });
}

Result<Completion> HostStore::make(const RowKeys& wanted, Stream* /*stream*/) {
  return with_memory_errors(spec_, [&]() -> Result<Completion> {
    if (auto good = check_ranges(spec_, wanted); !good) return good.error();
    const std::span<const std::uint64_t> keys = wanted.list();
    rows_.reserve_step(keys.size());  // for the read or update to come
    if (Result<void> made = find_or_make(keys); !made) return made.error();
    keep_for_cut(std::span(numbers_.data(), keys.size()));
    return Completion();
  });
}

Result<Completion> HostStore::update(const RowKeys& pushed, const float* gradients, float scale,
                                     Stream* /*stream*/) {
  return with_memory_errors(spec_, [&]() -> Result<Completion> {
    if (auto good = check_ranges(spec_, pushed); !good) return good.error();
    const std::span<const std::uint64_t> keys = pushed.list();
    rows_.reserve_step(keys.size());
    if (Result<void> found = find_or_make(keys); !found) return found.error();
    keep_for_cut(std::span(numbers_.data(), keys.size()));
    // Nothing can fail from here on.
    mark_used(keys.size());
    for (std::size_t i = 0; i < keys.size(); ++i) rows_.name(i, numbers_[i]);
    rows_.step(keys.size(), gradients, scale);
    return Completion();
  });
}

Result<Completion> HostStore::insert(const RowBatch& rows, Stream* /*stream*/) {
  return with_memory_errors(spec_, [&]() -> Result<Completion> {
    if (rows.records.size() != rows.keys.size() * layout().bytes()) return batch_error(spec_, layout(), rows);
    if (Result<void> found = find_or_make(rows.keys); !found) return found.error();
    keep_for_cut(std::span(numbers_.data(), rows.keys.size()));
    mark_used(rows.keys.size());
    const std::byte* from = rows.records.data();
    for (std::size_t i = 0; i < rows.keys.size(); ++i, from += layout().bytes())
      std::memcpy(rows_.record(numbers_[i]), from, layout().bytes());
    return Completion();
  });
}

void HostStore::append(std::uint64_t number, RowBatch& into) const {
  into.keys.push_back(keys_[number]);
  const std::byte* from = rows_.record(number);
  into.records.insert(into.records.end(), from, from + layout().bytes());
}

Result<void> HostStore::copy(std::span<const std::uint64_t> keys, RowBatch& into) {
  return with_memory_errors(spec_, [&]() -> Result<void> {
    if (Result<void> found = find(keys); !found) return found;
    for (std::size_t i = 0; i < keys.size(); ++i) {
      if (numbers_[i] == kMissing) return Error{Code::kInternal, "a row to be copied is not there"};
      append(numbers_[i], into);
    }
    return {};
  });
}

Result<ExtractPage> HostStore::extract(const SlotSet& slots, std::uint64_t cursor, std::uint64_t most,
                                       RowBatch& into) const {
  return with_memory_errors(spec_, [&]() -> Result<ExtractPage> {
    ExtractPage page{.rows = 0, .next_cursor = cursor, .done = false};
    for (; page.rows < most && page.next_cursor < numbered_; ++page.next_cursor) {
      if (is_gone(page.next_cursor) || !slots.contains(slot_of(spec_, keys_[page.next_cursor]))) continue;
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
  for (std::uint64_t number = 0; number < numbered_; ++number) {
    if (is_gone(number) || !slots.contains(slot_of(spec_, keys_[number]))) continue;
    const std::uint64_t key = keys_[number];
    const Result<std::uint64_t> one = erase(std::span(&key, 1));
    if (!one) return one.error();
    erased += *one;
  }
  return erased;
}

// The clock algorithm (Corbato 1968): a hand goes round; who was used since it came last is passed over once.
Result<std::uint64_t> HostStore::evict(std::uint64_t most) {
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
  if (cut_) return cut_error(spec_);
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
      at->second = {keys_[number],
                    std::vector<std::byte>(rows_.record(number), rows_.record(number) + layout().bytes())};
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
