#include "device/tiered_store.hpp"

#include <algorithm>
#include <cassert>
#include <unordered_set>
#include <utility>

#include "hashing.hpp"
#include "memory_errors.hpp"
#include "row_errors.hpp"

namespace troupe::shards {
namespace {

// Flags of rows.
constexpr std::uint8_t kLives = 1;
constexpr std::uint8_t kNear = 2;
constexpr std::uint8_t kLately = 4;   // used since coldest() came by
constexpr std::uint8_t kUsed = 8;     // since evict() came by
constexpr std::uint8_t kStays = 16;   // is wanted now
constexpr std::uint8_t kListed = 32;  // stands in near_order_

/// Of a cursor of both: the far store's.
constexpr std::uint64_t kFar = std::uint64_t{1} << 63U;

std::uint8_t without(std::uint8_t flags, std::uint8_t gone) {
  return static_cast<std::uint8_t>(flags & ~gone);
}

/// Of several, in the order of one stream.
class AllOf final : public Completion::Pending, public std::enable_shared_from_this<AllOf> {
 public:
  explicit AllOf(std::vector<Completion> parts) : parts_(std::move(parts)) {}
  bool done() override {
    return std::all_of(parts_.begin(), parts_.end(), [](const Completion& each) { return each.done(); });
  }
  Result<void> wait(Duration timeout) override {
    for (const Completion& each : parts_)
      if (auto waited = each.wait(timeout); !waited) return waited;
    return {};
  }
  // The last one is done after all others, which then take what is theirs.
  void when_done(UniqueFunction<void(Result<void>)> told) override {
    parts_.back().then([self = shared_from_this(), told = std::move(told)](Result<void> outcome) mutable {
      if (outcome) (void)self->done();
      told(std::move(outcome));
    });
  }

 private:
  std::vector<Completion> parts_;
};

/// One page of a walk over two stores, near and then far.
template <class OfNear, class OfFar>
Result<ExtractPage> page_of_both(std::uint64_t cursor, OfNear of_near, OfFar of_far) {
  const bool far = (cursor & kFar) != 0;
  auto page = far ? of_far(cursor & ~kFar) : of_near(cursor);
  if (!page) return page.error();
  if (far || page->done) page->next_cursor = far ? page->next_cursor | kFar : kFar;
  page->done = far && page->done;
  return page;
}

}  // namespace

TieredStore::TieredStore(const TableSpec& spec, const SlotSet& slots, std::unique_ptr<RowStore> near,
                         std::unique_ptr<RowStore> far, std::uint64_t near_rows)
    : spec_(spec),
      slots_(slots),
      near_(std::move(near)),
      far_(std::move(far)),
      near_rows_(near_rows),
      seed_(secret_seed()),
      index_(0, seed_) {
  assert(near_rows >= 2);
}

std::uint64_t TieredStore::bytes() const {
  return near_->bytes() + far_->bytes() + keys_.capacity() * (sizeof(keys_[0]) + sizeof(flags_[0])) +
         static_cast<std::uint64_t>(index_.capacity()) * 2 * sizeof(std::uint64_t);
}

Result<void> TieredStore::check_owned(std::span<const std::uint64_t> keys) const {
  for (const std::uint64_t key : keys)
    if (!slots_.contains(slot_of(spec_, key))) return slot_error(spec_, key);
  return {};
}

Result<void> TieredStore::check(const RowKeys& keys) const {
  if (auto good = check_ranges(spec_, keys); !good) return good;
  return check_owned(keys.list());
}

// ---- Which row lies where -----------------------------------------------------------------------

void TieredStore::reserve_for(std::span<const std::uint64_t> keys) {
  index_.prepare(keys);
  const std::size_t most = keys_.size() + keys.size();
  if (keys_.capacity() < most) keys_.reserve(std::max(most, 2 * keys_.capacity()));
  if (flags_.capacity() < most) flags_.reserve(std::max(most, 2 * flags_.capacity()));
  reserve_order(keys.size());
}

void TieredStore::reserve_order(std::size_t more) {
  const std::size_t most = near_order_.size() + more;
  if (near_order_.capacity() < most) near_order_.reserve(std::max(most, 2 * near_order_.capacity()));
}

void TieredStore::set_near(std::uint64_t number) {
  ++near_count_;
  if (!is(number, kListed)) near_order_.push_back(number);
  flags_[number] |= kNear | kListed;
}

void TieredStore::take_up(std::uint64_t key, bool near) {
  const bool again = !free_.empty();
  const auto [number, inserted] = index_.find_or_insert(key, again ? free_.back() : keys_.size());
  if (!inserted) return;
  if (again) {
    free_.pop_back();
    keys_[number] = key;
  } else {
    keys_.push_back(key);
    flags_.push_back(0);
  }
  flags_[number] |= kLives | kLately | kUsed;
  if (near) set_near(number);
}

// The clock algorithm over those that lie near.
std::vector<std::uint64_t> TieredStore::coldest(std::uint64_t count) {
  std::vector<std::uint64_t> cold;
  cold.reserve(std::min<std::uint64_t>(count, near_order_.size()));
  std::size_t left = 2 * near_order_.size();
  for (; cold.size() < count && left > 0 && !near_order_.empty(); --left) {
    if (near_hand_ >= near_order_.size()) near_hand_ = 0;
    const std::uint64_t number = near_order_[near_hand_];
    const bool stale = !is(number, kNear);
    if (!stale && is(number, kLately | kStays)) {
      flags_[number] = without(flags_[number], kLately);
      ++near_hand_;
      continue;
    }
    near_order_[near_hand_] = near_order_.back();
    near_order_.pop_back();
    flags_[number] = without(flags_[number], kNear | kListed);
    if (stale) continue;
    --near_count_;
    cold.push_back(number);
  }
  return cold;
}

/// Of these rows, which `from` has; all or none.
Result<void> TieredStore::move_rows(RowStore& from, RowStore& to, std::span<const std::uint64_t> keys) {
  RowBatch rows;
  if (auto copied = from.copy(keys, rows); !copied) return copied;
  if (auto inserted = to.insert(rows); !inserted) return inserted.error();
  auto erased = from.erase(keys);
  if (erased) return {};
  // No store has more than the other knows of, or later a row would begin where this one ended.
  (void)to.erase(keys);
  return erased.error();
}

/// Some more than are needed go at once: each time the near store is waited for.
Result<void> TieredStore::make_room(std::uint64_t incoming) {
  if (near_count_ + incoming <= near_rows_) return {};
  const std::uint64_t needed = near_count_ + incoming - near_rows_;
  const std::uint64_t most = std::max(needed, near_rows_ / 8);
  Keys cold;
  cold.reserve(std::min<std::uint64_t>(most, near_order_.size()));
  const std::vector<std::uint64_t> numbers = coldest(most);
  for (const std::uint64_t number : numbers) cold.push_back(keys_[number]);
  auto moved = move_rows(*near_, *far_, cold);
  if (moved) return {};
  for (const std::uint64_t number : numbers) set_near(number);  // which they left room for
  return moved;
}

Result<void> TieredStore::bring_near(std::span<const std::uint64_t> keys, bool make) {
  Keys far, fresh;
  std::vector<std::uint64_t> far_numbers, wanted;
  std::unordered_set<std::uint64_t, KeyHash> seen(0, KeyHash{seed_});
  far.reserve(keys.size()), far_numbers.reserve(keys.size());
  wanted.reserve(keys.size()), fresh.reserve(keys.size());
  seen.reserve(keys.size());
  if (make) reserve_for(keys);
  reserve_order(keys.size());
  for (const std::uint64_t key : keys)
    if (make && !index_.find(key) && seen.insert(key).second) fresh.push_back(key);
  // Nothing throws from here on: rows that are to stay would stay for ever.
  for (const std::uint64_t key : keys) {
    const auto number = index_.find(key);
    if (!number || is(*number, kStays)) continue;
    flags_[*number] |= kLately | kUsed | kStays;
    wanted.push_back(*number);
    if (is(*number, kNear)) continue;
    far.push_back(key);
    far_numbers.push_back(*number);
  }
  auto done = with_memory_errors(spec_, [&] { return make_room(far.size() + fresh.size()); });
  if (done && !far.empty()) {
    done = with_memory_errors(spec_, [&] { return move_rows(*far_, *near_, far); });
    if (done)
      for (const std::uint64_t number : far_numbers) set_near(number);
  }
  if (done && !fresh.empty()) {
    auto made = near_->make(fresh);
    if (!made) done = made.error();
    if (done)
      for (const std::uint64_t key : fresh) take_up(key, true);
  }
  for (const std::uint64_t number : wanted) flags_[number] = without(flags_[number], kStays);
  return done;
}

template <class Work>
Result<Completion> TieredStore::in_pieces(std::span<const std::uint64_t> keys, bool make, Work work) {
  std::vector<Completion> parts;
  const auto most = static_cast<std::size_t>(near_rows_ / 2);
  for (std::size_t at = 0; at < keys.size();) {
    const auto piece = keys.subspan(at, std::min(most, keys.size() - at));
    if (auto near = bring_near(piece, make); !near) return near.error();
    Result<Completion> done = work(at, piece);
    if (!done) return done;
    parts.push_back(*std::move(done));
    at += piece.size();
  }
  if (parts.empty()) return Completion();
  if (parts.size() == 1) return std::move(parts.front());
  return Completion(std::make_shared<AllOf>(std::move(parts)));
}

// ---- Rows in batches ----------------------------------------------------------------------------

Result<Completion> TieredStore::read(const RowKeys& wanted, IfMissing missing, RowsOut out, Stream* stream) {
  return with_memory_errors(spec_, [&]() -> Result<Completion> {
    if (auto good = check(wanted); !good) return good.error();
    return in_pieces(wanted.list(), missing == IfMissing::kMake,
                     [&](std::size_t first, std::span<const std::uint64_t> keys) {
                       return near_->read(keys, missing, {out.data + first * spec_.dim, out.memory}, stream);
                     });
  });
}

Result<Completion> TieredStore::make(const RowKeys& wanted, Stream* stream) {
  return with_memory_errors(spec_, [&]() -> Result<Completion> {
    if (auto good = check(wanted); !good) return good.error();
    return in_pieces(wanted.list(), true, [&](std::size_t, std::span<const std::uint64_t> keys) {
      return near_->make(keys, stream);
    });
  });
}

Result<Completion> TieredStore::update(const RowKeys& pushed, const float* gradients, float scale,
                                       Stream* stream) {
  return with_memory_errors(spec_, [&]() -> Result<Completion> {
    if (auto good = check(pushed); !good) return good.error();
    return in_pieces(pushed.list(), true, [&](std::size_t first, std::span<const std::uint64_t> keys) {
      return near_->update(keys, gradients + first * spec_.dim, scale, stream);
    });
  });
}

// Rows are overwritten where they lie; new ones come near while there is room, as when a table is restored.
Result<Completion> TieredStore::insert(const RowBatch& rows, Stream* stream) {
  return with_memory_errors(spec_, [&]() -> Result<Completion> {
    const std::size_t bytes = layout().bytes();
    if (rows.records.size() != rows.keys.size() * bytes) return batch_error(spec_, layout(), rows);
    if (auto good = check_owned(rows.keys); !good) return good.error();
    reserve_for(rows.keys);
    RowBatch near, far;
    std::unordered_set<std::uint64_t, KeyHash> fresh_near(0, KeyHash{seed_});
    std::uint64_t room = near_rows_ - std::min(near_rows_, near_count_);
    for (std::size_t i = 0; i < rows.keys.size(); ++i) {
      const std::uint64_t key = rows.keys[i];
      const auto number = index_.find(key);
      bool is_near = number ? is(*number, kNear) : fresh_near.contains(key);
      if (!number && !is_near && room > 0) {
        fresh_near.insert(key);
        --room;
        is_near = true;
      }
      RowBatch& into = is_near ? near : far;
      const std::byte* const from = rows.records.data() + i * bytes;
      into.keys.push_back(key);
      into.records.insert(into.records.end(), from, from + bytes);
    }
    auto into_far = far_->insert(far, stream);
    if (!into_far) return into_far.error();
    for (const std::uint64_t key : far.keys) take_up(key, false);
    auto into_near = near_->insert(near, stream);
    if (!into_near) return into_near;
    for (const std::uint64_t key : near.keys) take_up(key, true);
    return into_near;
  });
}

Result<void> TieredStore::copy(std::span<const std::uint64_t> keys, RowBatch& into) {
  return with_memory_errors(spec_, [&]() -> Result<void> {
    // Runs of keys of one store, so that rows come in their order.
    for (std::size_t at = 0; at < keys.size();) {
      const bool near = is(*index_.find(keys[at]), kNear);
      std::size_t end = at + 1;
      while (end < keys.size() && is(*index_.find(keys[end]), kNear) == near) ++end;
      const auto run = keys.subspan(at, end - at);
      if (auto done = near ? near_->copy(run, into) : far_->copy(run, into); !done) return done;
      at = end;
    }
    return {};
  });
}

Result<ExtractPage> TieredStore::extract(const SlotSet& slots, std::uint64_t cursor, std::uint64_t most,
                                         RowBatch& into) const {
  return with_memory_errors(spec_, [&]() -> Result<ExtractPage> {
    ExtractPage all{.rows = 0, .next_cursor = cursor, .done = false};
    while (!all.done && all.rows < most) {
      const std::uint64_t left = most - all.rows;
      auto page = page_of_both(
          all.next_cursor, [&](std::uint64_t at) { return near_->extract(slots, at, left, into); },
          [&](std::uint64_t at) { return far_->extract(slots, at, left, into); });
      if (!page) return page;
      all = {all.rows + page->rows, page->next_cursor, page->done};
    }
    return all;
  });
}

// ---- Forgetting rows ----------------------------------------------------------------------------

Result<std::uint64_t> TieredStore::erase(std::span<const std::uint64_t> keys) {
  return with_memory_errors(spec_, [&]() -> Result<std::uint64_t> {
    if (auto good = check_owned(keys); !good) return good.error();
    Keys near, far;
    for (const std::uint64_t key : keys) {
      const auto number = index_.find(key);
      if (number) (is(*number, kNear) ? near : far).push_back(key);
    }
    const std::size_t freed = free_.size() + near.size() + far.size();
    if (free_.capacity() < freed) free_.reserve(std::max(freed, 2 * free_.capacity()));
    std::uint64_t erased = 0;
    for (const bool is_near : {true, false}) {
      auto some = (is_near ? near_ : far_)->erase(is_near ? near : far);
      if (!some) return some;
      erased += *some;
      for (const std::uint64_t key : is_near ? near : far) {
        const auto number = index_.find(key);
        if (!number) continue;  // it came before
        index_.erase(key);
        flags_[*number] &= kListed;
        free_.push_back(*number);
        if (is_near) --near_count_;
      }
    }
    return erased;
  });
}

Result<std::uint64_t> TieredStore::erase(const SlotSet& slots) {
  return with_memory_errors(spec_, [&]() -> Result<std::uint64_t> {
    Keys gone;
    for (std::size_t number = 0; number < keys_.size(); ++number)
      if (is(number, kLives) && slots.contains(slot_of(spec_, keys_[number]))) gone.push_back(keys_[number]);
    return erase(gone);
  });
}

// As HostStore's.
Result<std::uint64_t> TieredStore::evict(std::uint64_t most) {
  return with_memory_errors(spec_, [&]() -> Result<std::uint64_t> {
    if (!std::exchange(knows_used_, true))
      for (std::uint8_t& each : flags_) each = without(each, kUsed);
    Keys gone;
    gone.reserve(rows() - std::min(rows(), most));
    for (std::uint64_t left = rows(); left > most; ++hand_) {
      if (hand_ >= keys_.size()) hand_ = 0;
      if (!is(hand_, kLives)) continue;
      const bool used = is(hand_, kUsed);
      // What has been chosen is not looked at again: it counts as one that is gone.
      flags_[hand_] = without(flags_[hand_], used ? kUsed : kLives);
      if (used) continue;
      gone.push_back(keys_[hand_]);
      --left;
    }
    auto erased = erase(gone);
    if (!erased)
      for (const std::uint64_t key : gone) flags_[*index_.find(key)] |= kLives;
    return erased;
  });
}

// ---- Cuts ---------------------------------------------------------------------------------------

Result<std::uint64_t> TieredStore::open_cut() {
  if (cut_) return cut_error(spec_);
  auto near = near_->open_cut();
  if (!near) return near;
  auto far = far_->open_cut();
  if (!far) {
    near_->close_cut();
    return far;
  }
  cut_ = true;
  return *near + *far;
}

Result<ExtractPage> TieredStore::read_cut(std::uint64_t cursor, std::uint64_t most, RowBatch& into) {
  return page_of_both(
      cursor, [&](std::uint64_t at) { return near_->read_cut(at, most, into); },
      [&](std::uint64_t at) { return far_->read_cut(at, most, into); });
}

void TieredStore::close_cut() {
  cut_ = false;
  near_->close_cut();
  far_->close_cut();
}

}  // namespace troupe::shards
