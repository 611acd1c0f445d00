// An embedding table's rows in a GPU's memory: forgetting them, and cuts.
#include <algorithm>
#include <utility>

#include "device/device_store.hpp"
#include "hashing.hpp"
#include "memory_errors.hpp"
#include "row_errors.hpp"

namespace troupe::shards {

// ---- Forgetting rows ----------------------------------------------------------------------------

Result<std::uint64_t> DeviceStore::erase_owned(std::span<const std::uint64_t> keys) {
  if (auto settled = settle(); !settled) return settled.error();
  if (auto told = reports_->wait(); !told) return told.error();
  const kernels::RowCounts before = reports_->known();
  if (auto grown = grow_free_list(before.free + keys.size()); !grown) return grown.error();
  if (auto room = rows_->reserve_kept(before.kept + keys.size()); !room) return room.error();
  reports_->expect(keys.size());
  auto done = in_pieces(
      keys, rows_->piece_keys(), {}, First::kFind, [&](std::size_t, std::size_t count) -> Result<void> {
        if (auto kept = rows_->keep(count, counts()); !kept) return kept;
        auto* const free_list = reinterpret_cast<std::uint64_t*>(free_memory_.data());
        auto given =
            rows_->work().launch([index = index_, counts = counts(), free_list, piece = rows_->piece(),
                                  n = static_cast<std::int64_t>(count)](kernels::Place place) {
              return kernels::erase_numbers(place, index, counts, free_list, piece.keys, n, piece.numbers);
            });
        return given ? rows_->mask(count, 0) : given;
      });
  if (!done) return done.error();
  if (auto told = reports_->wait(); !told) return told.error();
  return before.rows - reports_->known().rows;
}

Result<std::uint64_t> DeviceStore::erase(std::span<const std::uint64_t> keys) {
  return with_memory_errors(spec_, [&]() -> Result<std::uint64_t> {
    if (auto good = check_owned(keys); !good) return good.error();
    return erase_owned(keys);
  });
}

template <class Visit>
Result<std::uint64_t> DeviceStore::walk(std::uint64_t first, Visit visit) {
  const std::uint64_t numbered = reports_->known().numbered;
  while (first < numbered) {
    const auto some =
        static_cast<std::size_t>(std::min(numbered - first, std::uint64_t{rows_->piece_keys()}));
    auto page = rows_->begin_page(first, some, DeviceRows::PageOf::kMarks);
    if (!page) return page.error();
    if (auto there = DeviceRows::wait_for(*page); !there) return there.error();
    for (std::size_t i = 0; i < some; ++i, ++first)
      if (!visit(first, page->keys()[i], page->flags()[i])) return first;
  }
  return first;
}

Result<std::uint64_t> DeviceStore::erase(const SlotSet& slots) {
  return with_memory_errors(spec_, [&]() -> Result<std::uint64_t> {
    if (auto settled = settle(); !settled) return settled.error();
    if (auto told = reports_->wait(); !told) return told.error();
    std::vector<std::uint64_t> keys;
    auto walked = walk(0, [&](std::uint64_t, std::uint64_t key, std::uint8_t marks) {
      if ((marks & kernels::kRowLives) != 0 && slots.contains(slot_of(spec_, key))) keys.push_back(key);
      return true;
    });
    if (!walked) return walked.error();
    return erase_owned(keys);
  });
}

Result<void> DeviceStore::forget_used(std::span<const std::uint64_t> numbers) {
  for (std::size_t at = 0; at < numbers.size();) {
    const std::size_t some = std::min(rows_->piece_keys(), numbers.size() - at);
    auto done = rows_->bring(rows_->piece().numbers, numbers.subspan(at, some));
    if (done) done = rows_->mask(some, static_cast<std::uint8_t>(~kernels::kRowUsed));
    if (!done) return done;
    rows_->end_piece();
    at += some;
  }
  return {};
}

// The clock algorithm, as HostStore's.
Result<std::uint64_t> DeviceStore::evict(std::uint64_t most) {
  return with_memory_errors(spec_, [&]() -> Result<std::uint64_t> {
    if (auto settled = settle(); !settled) return settled.error();
    if (auto told = reports_->wait(); !told) return told.error();
    const std::uint64_t numbered = reports_->known().numbered;
    if (!std::exchange(knows_used_, true)) {
      auto forgotten = rows_->mask_all(numbered, static_cast<std::uint8_t>(~kernels::kRowUsed));
      if (!forgotten) return forgotten.error();
    }
    std::uint64_t erased = 0;
    while (reports_->known().rows > most) {
      const std::uint64_t too_many = reports_->known().rows - most;
      std::vector<std::uint64_t> keys, passed_over;
      auto walked = walk(hand_ < numbered ? hand_ : 0,
                         [&](std::uint64_t number, std::uint64_t key, std::uint8_t marks) {
                           if (keys.size() == too_many) return false;
                           if ((marks & kernels::kRowLives) == 0) return true;
                           if ((marks & kernels::kRowUsed) != 0)
                             passed_over.push_back(number);
                           else
                             keys.push_back(key);
                           return true;
                         });
      if (!walked) return walked.error();
      hand_ = *walked;
      if (auto forgotten = forget_used(passed_over); !forgotten) return forgotten.error();
      const Result<std::uint64_t> some = erase_owned(keys);
      if (!some) return some.error();
      erased += *some;
    }
    return erased;
  });
}

// ---- Cuts ---------------------------------------------------------------------------------------

Result<std::uint64_t> DeviceStore::open_cut() {
  if (rows_->cut_is_open()) return cut_error(spec_);
  if (auto settled = settle(); !settled) return settled.error();
  if (auto told = reports_->wait(); !told) return told.error();
  rows_->open_cut(reports_->known().numbered);
  return reports_->known().rows;
}

Result<ExtractPage> DeviceStore::read_cut(std::uint64_t cursor, std::uint64_t most, RowBatch& into) {
  return with_memory_errors(spec_, [&]() -> Result<ExtractPage> {
    if (auto settled = settle(); !settled) return settled.error();
    return rows_->read_cut(cursor, most, into);
  });
}

void DeviceStore::close_cut() {
  // If the device has failed, so does all that comes later.
  (void)settle();
  if (rows_->close_cut(counts())) (void)reports_->ask();
}

}  // namespace troupe::shards
