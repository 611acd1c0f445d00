#include "device/device_dense_store.hpp"

#include <algorithm>
#include <utility>

#include <troupe/runtime/device_range.hpp>

#include "memory_errors.hpp"
#include "row_errors.hpp"

namespace troupe::shards {

Result<std::unique_ptr<RowStore>> DeviceDenseStore::create(const TableSpec& spec, const SlotSet& slots,
                                                           const DeviceHome& home) {
  auto rows = DeviceRows::create(spec, home);
  if (!rows) return rows.error();
  std::unique_ptr<DeviceDenseStore> store(new DeviceDenseStore(spec, slots));
  store->rows_ = *std::move(rows);
  auto counts = store->rows_->work().device_memory(sizeof(kernels::RowCounts));
  if (!counts) return counts.error();
  store->counts_ = *std::move(counts);
  auto made = store->rows_->work().stream().fill(store->counts_.data(), 0, sizeof(kernels::RowCounts));
  if (made) made = store->make_all();
  if (!made) return made.error();
  return std::unique_ptr<RowStore>(std::move(store));
}

Result<void> DeviceDenseStore::make_all() {
  if (auto room = rows_->reserve(runs_.rows()); !room) return room;
  std::vector<std::uint64_t> keys;
  for (const DenseRuns::Run& run : runs_.all()) {
    for (std::uint64_t row = run.begin; row < run.end;) {
      const std::uint64_t some = std::min(run.end - row, std::uint64_t{rows_->piece_keys()});
      keys.clear();
      numbers_.clear();
      for (const std::uint64_t end = row + some; row < end; ++row) {
        keys.push_back(row);
        numbers_.push_back(run.number(row));
      }
      auto done = rows_->bring(rows_->piece().keys, keys);
      if (done) rows_->end_piece();
      if (done) done = rows_->bring(rows_->piece().numbers, numbers_);
      if (done) done = rows_->make(keys.size(), true);
      if (!done) return done;
      rows_->end_piece();
    }
  }
  return {};
}

// ---- Rows in batches ----------------------------------------------------------------------------

/// Room for what these rows were, if a cut needs it: which have been kept is known here, too.
Result<void> DeviceDenseStore::make_room(const RowKeys& keys) {
  if (!rows_->cut_is_open()) return {};
  runs_.for_each_number(keys, [this](std::uint64_t number) {
    if (!rows_->cut_wants(number) || kept_[number]) return;
    kept_[number] = true;
    ++kept_count_;
  });
  return rows_->reserve_kept(kept_count_);
}

Result<Completion> DeviceDenseStore::give(const RowKeys& keys, std::size_t most, Values values, bool changes,
                                          Stream* stream, std::shared_ptr<DeviceReading> reading,
                                          OfPiece work) {
  if (auto good = runs_.check(keys); !good) return good.error();
  if (changes) {
    if (auto room = make_room(keys); !room) return room.error();
  }
  DeviceWork& device = rows_->work();
  if (auto ordered = device.begin_after(stream); !ordered) return ordered.error();
  if (!reading) reading = std::make_shared<DeviceReading>(device.home().watch.get());
  RowKeys left = keys;
  for (std::size_t at = 0; at < keys.size();) {
    const std::size_t some = std::min(most, left.size());
    numbers_.clear();
    runs_.for_each_number(left.subspan(0, some), [&](std::uint64_t number) { numbers_.push_back(number); });
    const auto* const from = static_cast<const std::byte*>(values.data);
    auto done = rows_->bring(rows_->piece().numbers, numbers_, from ? from + at * values.bytes : nullptr,
                             some * values.bytes);
    if (done) done = work(at, some);
    if (!done && changes && at > 0) device.break_off(done.error());  // pieces before it are done
    if (!done) return done.error();
    at += some;
    if (at < keys.size()) rows_->end_piece();  // the last ends with all of it
    left = left.subspan(some, left.size() - some);
  }
  // As DeviceStore::end().
  Result<Event> event = with_memory_errors(spec_, [&]() -> Result<Event> {
    auto sealed = device.seal();
    if (!sealed) return sealed;
    if (auto ordered = device.end_before(stream); !ordered) return ordered.error();
    return sealed;
  });
  if (!event && (!changes || event.error().code == Code::kInternal)) return event.error();
  if (!event) return Completion();
  reading->ends_with(*std::move(event));
  return Completion(std::move(reading));
}

Result<void> DeviceDenseStore::wait() {
  return rows_->work().finish();
}

Result<void> DeviceDenseStore::keep(std::size_t count) {
  return rows_->keep(count, reinterpret_cast<kernels::RowCounts*>(counts_.data()));
}

Result<Completion> DeviceDenseStore::read(const RowKeys& keys, IfMissing /*missing*/, RowsOut out,
                                          Stream* stream) {
  const DeviceRange range("dense table read");
  return with_memory_errors(spec_, [&]() -> Result<Completion> {
    auto reading = std::make_shared<DeviceReading>(rows_->work().home().watch.get());
    return give(keys, rows_->most_read(out.memory), {}, false, stream, reading,
                [&](std::size_t first, std::size_t count) {
                  return rows_->read(count, {}, out, first, {}, *reading);
                });
  });
}

Result<Completion> DeviceDenseStore::make(const RowKeys& keys, Stream* stream) {
  return with_memory_errors(spec_, [&]() -> Result<Completion> {
    if (!rows_->cut_is_open()) {
      if (auto good = runs_.check(keys); !good) return good.error();
      return Completion();
    }
    return give(keys, rows_->piece_keys(), {}, true, stream, nullptr,
                [&](std::size_t, std::size_t count) { return keep(count); });
  });
}

Result<Completion> DeviceDenseStore::update(const RowKeys& keys, const float* gradients, float scale,
                                            Stream* stream) {
  const DeviceRange range("dense table update");
  return with_memory_errors(spec_, [&]() -> Result<Completion> {
    return give(keys, rows_->piece_rows(), {gradients, spec_.dim * sizeof(float)}, true, stream, nullptr,
                [&](std::size_t, std::size_t count) -> Result<void> {
                  if (auto kept = keep(count); !kept) return kept;
                  return rows_->step(count, scale);
                });
  });
}

Result<Completion> DeviceDenseStore::insert(const RowBatch& rows, Stream* stream) {
  const DeviceRange range("dense table insert");
  return with_memory_errors(spec_, [&]() -> Result<Completion> {
    if (rows.records.size() != rows.keys.size() * layout().bytes()) return batch_error(spec_, layout(), rows);
    if (const auto once = last_of_each(rows, layout().bytes(), 0)) return insert(*once, stream);
    return give(rows.keys, rows_->page_rows(), {rows.records.data(), layout().bytes()}, true, stream, nullptr,
                [&](std::size_t, std::size_t count) -> Result<void> {
                  if (auto kept = keep(count); !kept) return kept;
                  return rows_->write(count);
                });
  });
}

Result<void> DeviceDenseStore::copy(std::span<const std::uint64_t> keys, RowBatch& into) {
  return with_memory_errors(spec_, [&]() -> Result<void> {
    auto given = give(keys, rows_->page_rows(), {}, false, nullptr, nullptr,
                      [&](std::size_t, std::size_t count) { return rows_->append_listed(count, into); });
    return given ? Result<void>() : given.error();
  });
}

Result<ExtractPage> DeviceDenseStore::extract(const SlotSet& slots, std::uint64_t cursor, std::uint64_t most,
                                              RowBatch& into) const {
  return with_memory_errors(spec_, [&]() -> Result<ExtractPage> {
    ExtractPage extracted{.rows = 0, .next_cursor = cursor, .done = cursor >= rows()};
    while (!extracted.done && extracted.rows < most) {
      const auto some = static_cast<std::size_t>(std::min(
          {most - extracted.rows, rows() - extracted.next_cursor, std::uint64_t{rows_->page_rows()}}));
      auto page = rows_->begin_page(extracted.next_cursor, some, DeviceRows::PageOf::kRecords);
      if (!page) return page.error();
      if (auto there = DeviceRows::wait_for(*page); !there) return there.error();
      for (std::size_t i = 0; i < some; ++i) {
        if (!slots.contains(slot_of(spec_, page->keys()[i]))) continue;
        rows_->append(*page, i, into);
        ++extracted.rows;
      }
      extracted.next_cursor += some;
      extracted.done = extracted.next_cursor >= rows();
    }
    return extracted;
  });
}

Result<std::uint64_t> DeviceDenseStore::erase(std::span<const std::uint64_t> /*keys*/) {
  return runs_.stay_forever();
}
Result<std::uint64_t> DeviceDenseStore::erase(const SlotSet& /*slots*/) {
  return runs_.stay_forever();
}
Result<std::uint64_t> DeviceDenseStore::evict(std::uint64_t /*most*/) {
  return runs_.stay_forever();
}

// ---- Cuts ---------------------------------------------------------------------------------------

Result<std::uint64_t> DeviceDenseStore::open_cut() {
  if (rows_->cut_is_open()) return cut_error(spec_);
  return with_memory_errors(spec_, [&]() -> Result<std::uint64_t> {
    kept_.assign(rows(), false);
    kept_count_ = 0;
    rows_->open_cut(rows());
    return rows();
  });
}

Result<ExtractPage> DeviceDenseStore::read_cut(std::uint64_t cursor, std::uint64_t most, RowBatch& into) {
  return with_memory_errors(spec_, [&] { return rows_->read_cut(cursor, most, into); });
}

void DeviceDenseStore::close_cut() {
  // If the device has failed, so does all that comes later.
  (void)rows_->close_cut(reinterpret_cast<kernels::RowCounts*>(counts_.data()));
}

}  // namespace troupe::shards
