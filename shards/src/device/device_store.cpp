#include "device/device_store.hpp"

#include <algorithm>
#include <bit>
#include <cstring>
#include <optional>
#include <unordered_set>
#include <utility>

#include <troupe/runtime/device_range.hpp>

#include "device/device_dense_store.hpp"
#include "device/tiered_store.hpp"
#include "hashing.hpp"
#include "memory_errors.hpp"
#include "row_errors.hpp"

namespace troupe::shards {
namespace {

using kernels::kNoRow;

constexpr std::int64_t kFewestSlots = 1024;

std::uint64_t most_filled(const kernels::RowIndex& index) {
  return static_cast<std::uint64_t>(index.slots) / 8 * 5;
}

}  // namespace

MakeRowStore make_device_stores(DeviceHome home) {
  return [home = std::move(home)](const TableSpec& spec, const SlotSet& slots) {
    return spec.kind == TableKind::kDense ? DeviceDenseStore::create(spec, slots, home)
                                          : DeviceStore::create(spec, slots, home);
  };
}

// ---- Room ---------------------------------------------------------------------------------------

MakeRowStore make_tiered_stores(DeviceHome home, std::uint64_t device_bytes) {
  return [make_near = make_device_stores(std::move(home)), device_bytes](
             const TableSpec& spec, const SlotSet& slots) -> Result<std::unique_ptr<RowStore>> {
    auto near = make_near(spec, slots);
    if (!near || spec.kind == TableKind::kDense) return near;
    // A row takes room for alignment, its key and marks, and its place in an index that may be growing.
    constexpr std::uint64_t kBeside = 16 + 17 + 64;
    const std::uint64_t bytes = spec.optimizer.layout(spec.weights, spec.dim).bytes() + kBeside;
    const std::uint64_t rows = std::max<std::uint64_t>(2, device_bytes / bytes);
    return std::unique_ptr<RowStore>(
        std::make_unique<TieredStore>(spec, slots, *std::move(near), make_host_store(spec, slots), rows));
  };
}

Result<std::unique_ptr<RowStore>> DeviceStore::create(const TableSpec& spec, const SlotSet& slots,
                                                      const DeviceHome& home) {
  auto rows = DeviceRows::create(spec, home);
  if (!rows) return rows.error();
  std::unique_ptr<DeviceStore> store(new DeviceStore(spec, slots));
  store->owns_all_ = slots.count() == slots.slots();
  store->rows_ = *std::move(rows);
  store->index_.seed = secret_seed();
  auto reports = CountReports::create(store->rows_->work());
  if (!reports) return reports.error();
  store->reports_ = *std::move(reports);
  auto absent = store->rows_->work().pinned_memory(sizeof(std::uint64_t));
  if (!absent) return absent.error();
  store->absent_ = *std::move(absent);
  if (auto passed = store->rows_->work().finish(); !passed) return passed.error();
  std::memset(store->absent_.data(), 0, store->absent_.size());
  if (auto grown = store->grow_index(0); !grown) return grown.error();
  return std::unique_ptr<RowStore>(std::move(store));
}

bool DeviceStore::fits(std::uint64_t keys) {
  const kernels::RowCounts& known = reports_->known();
  const std::uint64_t most = reports_->under_way() + keys;
  const std::uint64_t again = rows_->cut_is_open() ? 0 : std::min(known.free, most);
  return known.numbered + most - again <= rows_->capacity() && known.filled + most <= most_filled(index_);
}

Result<void> DeviceStore::grow(std::uint64_t rows) {
  const kernels::RowCounts& known = reports_->known();
  const std::uint64_t again = rows_->cut_is_open() ? 0 : std::min(known.free, rows);
  if (auto grown = rows_->reserve(known.numbered + rows - again); !grown) return grown;
  if (known.filled + rows > most_filled(index_)) return grow_index(rows);
  return {};
}

Result<void> DeviceStore::make_room(std::span<const std::uint64_t> keys, std::uint64_t more) {
  const std::uint64_t wanted = keys.size() + more;
  if (!fits(wanted)) {
    if (auto told = reports_->wait(); !told) return told;
  }
  if (!fits(wanted)) {
    // Where there was no memory before, rows that are there need none: that is looked at first.
    std::optional<std::uint64_t> missing;
    if (refused_at_ == rows_->capacity()) {
      auto counted = count_missing(keys);
      if (!counted) return counted.error();
      missing = *counted;
    }
    if (!missing || !fits(*missing)) {
      auto grown = grow(missing.value_or(wanted));
      if (!grown) {
        if (grown.error().code != Code::kResourceExhausted) return grown;
        refused_at_ = rows_->capacity();
        auto counted = missing ? Result<std::uint64_t>(*missing) : count_missing(keys);
        if (!counted) return counted.error();
        if (!fits(*counted)) return with_context(std::move(grown).error(), "table '" + spec_.name + "'");
      }
    }
  }
  if (!rows_->cut_is_open()) return {};
  auto kept = rows_->reserve_kept(reports_->known().kept + reports_->under_way() + wanted);
  if (kept) return kept;
  if (auto told = reports_->wait(); !told) return told;
  return rows_->reserve_kept(reports_->known().kept + wanted);
}

/// Precondition: nothing is under way, if there are keys.
Result<void> DeviceStore::grow_index(std::uint64_t rows) {
  DeviceWork& work = rows_->work();
  const std::uint64_t all = reports_->known().rows + rows;
  kernels::RowIndex to = index_;
  to.slots =
      static_cast<std::int64_t>(std::bit_ceil(std::max(2 * all, static_cast<std::uint64_t>(kFewestSlots))));
  const std::size_t words = static_cast<std::size_t>(to.slots) + 1;
  auto memory = work.device_memory(2 * words * sizeof(std::uint64_t));
  if (!memory) return memory.error();
  to.keys = reinterpret_cast<std::uint64_t*>(memory->data());
  to.numbers = to.keys + words;
  auto given = work.launch([from = index_, to, counts = counts()](kernels::Place place) {
    const kernels::Launch cleared = kernels::clear_index(place, to);
    return cleared.ok() && from.slots > 0 ? kernels::move_index(place, from, to, counts) : cleared;
  });
  if (!given) return given;
  index_ = to;
  index_memory_ = *std::move(memory);
  if (auto asked = reports_->ask(); !asked) return asked.error();
  return reports_->wait();
}

Result<void> DeviceStore::grow_free_list(std::uint64_t numbers) {
  const std::size_t needed = static_cast<std::size_t>(numbers) * sizeof(std::uint64_t);
  if (needed <= free_memory_.size()) return {};
  DeviceWork& work = rows_->work();
  auto memory = work.device_memory(std::max(needed, 2 * free_memory_.size()));
  if (!memory) return memory.error();
  if (auto copied = work.copy(memory->data(), free_memory_.data(), free_memory_.size()); !copied)
    return copied;
  free_memory_ = *std::move(memory);
  return {};
}

Result<std::uint64_t> DeviceStore::count_missing(std::span<const std::uint64_t> keys) {
  std::unordered_set<std::uint64_t, KeyHash> missing(0, KeyHash{index_.seed});
  auto looked = in_pieces(keys, rows_->piece_keys(), {}, First::kFind,
                          [&](std::size_t first, std::size_t count) -> Result<void> {
                            auto numbers = rows_->fetch_numbers(count);
                            if (!numbers) return numbers.error();
                            for (std::size_t i = 0; i < count; ++i)
                              if ((*numbers)[i] == kNoRow) missing.insert(keys[first + i]);
                            return {};
                          });
  if (!looked) return looked.error();
  return missing.size();
}

// ---- Pieces -------------------------------------------------------------------------------------

Result<void> DeviceStore::check_owned(std::span<const std::uint64_t> keys) const {
  if (owns_all_) return {};
  for (const std::uint64_t key : keys)
    if (!slots_.contains(slot_of(spec_, key))) return slot_error(spec_, key);
  return {};
}

Result<void> DeviceStore::check(const RowKeys& keys) const {
  if (auto good = check_ranges(spec_, keys); !good) return good;
  return check_owned(keys.list());
}

// What has been given to the device is done, whatever fails here: only a device that has failed is told of,
// and what is to be read.
Result<Completion> DeviceStore::end(Stream* stream, std::shared_ptr<DeviceReading> reading, Ends how,
                                    Pull* pull) {
  Result<Event> event = with_memory_errors(spec_, [&]() -> Result<Event> {
    auto told = how == Ends::kRead ? rows_->work().seal() : reports_->ask();
    if (!told) return told;
    if (auto ordered = rows_->work().end_before(stream); !ordered) return ordered.error();
    return told;
  });
  if (!event && (how != Ends::kChanged || event.error().code == Code::kInternal)) return event.error();
  if (!event) return Completion();
  if (pull) pull->read = *event;
  reading->ends_with(*std::move(event));
  return Completion(std::move(reading));
}

Result<void> DeviceStore::find(std::size_t count) const {
  return rows_->work().launch(
      [index = index_, piece = rows_->piece(), n = static_cast<std::int64_t>(count)](kernels::Place place) {
        return kernels::find_numbers(place, index, piece.keys, n, piece.numbers);
      });
}

Result<void> DeviceStore::find_or_make(std::size_t count) const {
  const DeviceRows::Piece& piece = rows_->piece();
  const kernels::KeyBatch batch{.keys = piece.keys,
                                .count = static_cast<std::int64_t>(count),
                                .numbers = piece.numbers,
                                .is_new = piece.is_new,
                                .slots = piece.slots,
                                .block_counts = piece.block_counts};
  const auto* const free_list = reinterpret_cast<const std::uint64_t*>(free_memory_.data());
  auto given = rows_->work().launch([index = index_, counts = counts(), free_list,
                                     use_free = !rows_->cut_is_open(), batch](kernels::Place place) {
    return kernels::insert_numbers(place, index, counts, free_list, use_free, batch);
  });
  return given ? rows_->make(count, false) : given;
}

/// Rows that the last read has missed are made, or may have: who knows asks for nothing, and nobody waits.
Result<Event> DeviceStore::settle() const {
  if (!pull_) return Event();
  const std::shared_ptr<Pull> pull = std::exchange(pull_, nullptr);
  pull->store = nullptr;
  std::uint64_t missed = 0;
  if (pull->read.done()) std::memcpy(&missed, absent_.data(), sizeof missed);
  if (pull->read.done() && missed != pull->ticket) return Event();
  reports_->expect(pull->count);
  if (auto made = find_or_make(pull->count); !made) return made.error();
  auto told = reports_->ask();
  if (told) pull->made = *told;
  return told;
}

Result<void> DeviceStore::in_pieces(std::span<const std::uint64_t> keys, std::size_t most, Values values,
                                    First first, OfPiece work, bool changes) const {
  for (std::size_t at = 0; at < keys.size();) {
    const std::size_t some = std::min(most, keys.size() - at);
    const auto* const from = static_cast<const std::byte*>(values.data);
    auto done = rows_->bring(rows_->piece().keys, keys.subspan(at, some),
                             from ? from + at * values.bytes : nullptr, some * values.bytes);
    if (done && first != First::kNothing) done = first == First::kMake ? find_or_make(some) : find(some);
    if (done) done = work(at, some);
    if (!done && changes && at > 0) rows_->work().break_off(done.error());  // pieces before it are done
    if (!done) return done;
    at += some;
    if (at < keys.size()) rows_->end_piece();  // the last ends with all of it
  }
  return {};
}

// ---- Rows in batches ----------------------------------------------------------------------------

Result<void> DeviceStore::wait() {
  if (auto settled = settle(); !settled) return settled.error();
  if (auto told = reports_->wait(); !told) return told;
  return rows_->work().finish();
}

Result<Buffer> DeviceStore::memory_for(std::size_t bytes) {
  return rows_->work().pinned_memory(bytes);
}

Result<Completion> DeviceStore::read(const RowKeys& wanted, IfMissing missing, RowsOut out, Stream* stream) {
  const DeviceRange range("table read");
  return with_memory_errors(spec_, [&]() -> Result<Completion> {
    if (auto good = check(wanted); !good) return good.error();
    if (auto settled = settle(); !settled) return settled.error();
    const std::span<const std::uint64_t> keys = wanted.list();
    const bool make = missing == IfMissing::kMake;
    if (auto ordered = rows_->work().begin_after(stream); !ordered) return ordered.error();
    if (make) {
      if (auto room = make_room(keys, 0); !room) return room.error();
    }
    auto reading = std::make_shared<DeviceReading>(rows_->work().home().watch.get());
    const std::size_t most = rows_->most_read(out.memory);
    const bool make_first = make && keys.size() > most;
    DeviceRows::Absent absent;
    if (make && !make_first) absent = {reinterpret_cast<std::uint64_t*>(absent_.data()), ++tickets_};
    if (make_first) reports_->expect(keys.size());
    auto done = in_pieces(keys, most, {}, make_first ? First::kMake : First::kNothing,
                          [&](std::size_t first, std::size_t count) {
                            return rows_->read(count, index_, out, first, absent, *reading);
                          });
    if (!done) return done.error();
    if (absent.ticket == 0) return end(stream, std::move(reading), make_first ? Ends::kMade : Ends::kRead);
    auto pull = std::make_shared<Pull>(Pull{this, keys.size(), absent.ticket, {}, {}});
    reading->ends_then_with([pull]() -> Result<Event> {
      return pull->store ? pull->store->settle() : Result<Event>(pull->made);
    });
    auto ended = end(stream, std::move(reading), Ends::kRead, pull.get());
    if (ended) pull_ = std::move(pull);
    return ended;
  });
}

// What comes after it, for the same keys, finds room even where all of them are taken for new.
Result<Completion> DeviceStore::make(const RowKeys& wanted, Stream* stream) {
  const DeviceRange range("table make");
  return with_memory_errors(spec_, [&]() -> Result<Completion> {
    if (auto good = check(wanted); !good) return good.error();
    if (auto settled = settle(); !settled) return settled.error();
    const std::span<const std::uint64_t> keys = wanted.list();
    if (auto ordered = rows_->work().begin_after(stream); !ordered) return ordered.error();
    if (auto room = make_room(keys, keys.size()); !room) return room.error();
    auto reading = std::make_shared<DeviceReading>(rows_->work().home().watch.get());
    reports_->expect(keys.size());
    auto done = in_pieces(keys, rows_->piece_keys(), {}, First::kMake,
                          [&](std::size_t, std::size_t count) { return rows_->keep(count, counts()); });
    if (!done) return done.error();
    return end(stream, std::move(reading), Ends::kChanged);
  });
}

Result<Completion> DeviceStore::update(const RowKeys& pushed, const float* gradients, float scale,
                                       Stream* stream) {
  const DeviceRange range("table update");
  return with_memory_errors(spec_, [&]() -> Result<Completion> {
    if (auto good = check(pushed); !good) return good.error();
    if (auto settled = settle(); !settled) return settled.error();
    const std::span<const std::uint64_t> keys = pushed.list();
    if (auto ordered = rows_->work().begin_after(stream); !ordered) return ordered.error();
    if (auto room = make_room(keys, 0); !room) return room.error();
    auto reading = std::make_shared<DeviceReading>(rows_->work().home().watch.get());
    reports_->expect(keys.size());
    auto done = in_pieces(
        keys, rows_->piece_rows(), {gradients, spec_.dim * sizeof(float)}, First::kMake,
        [&](std::size_t, std::size_t count) -> Result<void> {
          if (auto kept = rows_->keep(count, counts()); !kept) return kept;
          return rows_->step(count, scale);
        },
        true);
    if (!done) return done.error();
    return end(stream, std::move(reading), Ends::kChanged);
  });
}

Result<Completion> DeviceStore::insert(const RowBatch& rows, Stream* stream) {
  const DeviceRange range("table insert");
  return with_memory_errors(spec_, [&]() -> Result<Completion> {
    if (rows.records.size() != rows.keys.size() * layout().bytes()) return batch_error(spec_, layout(), rows);
    if (auto good = check_owned(rows.keys); !good) return good.error();
    if (const auto once = last_of_each(rows, layout().bytes(), index_.seed)) return insert(*once, stream);
    if (auto settled = settle(); !settled) return settled.error();
    if (auto ordered = rows_->work().begin_after(stream); !ordered) return ordered.error();
    if (auto room = make_room(rows.keys, 0); !room) return room.error();
    auto reading = std::make_shared<DeviceReading>(rows_->work().home().watch.get());
    reports_->expect(rows.keys.size());
    auto done = in_pieces(
        rows.keys, rows_->page_rows(), {rows.records.data(), layout().bytes()}, First::kMake,
        [&](std::size_t, std::size_t count) -> Result<void> {
          if (auto kept = rows_->keep(count, counts()); !kept) return kept;
          return rows_->write(count);
        },
        true);
    if (!done) return done.error();
    return end(stream, std::move(reading), Ends::kChanged);
  });
}

Result<void> DeviceStore::copy(std::span<const std::uint64_t> keys, RowBatch& into) {
  return with_memory_errors(spec_, [&]() -> Result<void> {
    if (auto settled = settle(); !settled) return settled.error();
    return in_pieces(keys, rows_->page_rows(), {}, First::kFind,
                     [&](std::size_t, std::size_t count) { return rows_->append_listed(count, into); });
  });
}

Result<ExtractPage> DeviceStore::extract(const SlotSet& slots, std::uint64_t cursor, std::uint64_t most,
                                         RowBatch& into) const {
  return with_memory_errors(spec_, [&]() -> Result<ExtractPage> {
    if (auto settled = settle(); !settled) return settled.error();
    if (auto told = reports_->wait(); !told) return told.error();
    const std::uint64_t numbered = reports_->known().numbered;
    ExtractPage extracted{.rows = 0, .next_cursor = cursor, .done = cursor >= numbered};
    while (!extracted.done && extracted.rows < most) {
      const auto some = static_cast<std::size_t>(std::min(
          {most - extracted.rows, numbered - extracted.next_cursor, std::uint64_t{rows_->page_rows()}}));
      auto page = rows_->begin_page(extracted.next_cursor, some, DeviceRows::PageOf::kRecords);
      if (!page) return page.error();
      if (auto there = DeviceRows::wait_for(*page); !there) return there.error();
      for (std::size_t i = 0; i < some; ++i) {
        if ((page->flags()[i] & kernels::kRowLives) == 0) continue;
        if (!slots.contains(slot_of(spec_, page->keys()[i]))) continue;
        rows_->append(*page, i, into);
        ++extracted.rows;
      }
      extracted.next_cursor += some;
      extracted.done = extracted.next_cursor >= numbered;
    }
    return extracted;
  });
}

}  // namespace troupe::shards
