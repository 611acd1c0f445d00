#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include <troupe/kernels/row_index.hpp>
#include <troupe/shards/row_store.hpp>

#include "device/count_reports.hpp"
#include "device/device_rows.hpp"

namespace troupe::shards {

/// An embedding table's rows in a GPU's memory, found by key through an index that lies there, too. How many
/// rows there are is known once the device has told; until then the host goes by the most there can be, and
/// has the memory for them before anything is given to the device.
class DeviceStore final : public RowStore {
 public:
  static Result<std::unique_ptr<RowStore>> create(const TableSpec& spec, const SlotSet& slots,
                                                  const DeviceHome& home);

  ~DeviceStore() override {
    if (pull_) pull_->store = nullptr;
  }
  DeviceStore(const DeviceStore&) = delete;
  DeviceStore& operator=(const DeviceStore&) = delete;

  const RowLayout& layout() const override { return rows_->layout(); }
  std::uint64_t rows() const override { return reports_->known().rows; }
  Result<void> wait() override;
  std::uint64_t bytes() const override { return rows_->bytes() + index_memory_.size() + free_memory_.size(); }
  Result<Buffer> memory_for(std::size_t bytes) override;
  Result<Completion> read(const RowKeys& wanted, IfMissing missing, RowsOut out, Stream* stream) override;
  Result<Completion> make(const RowKeys& wanted, Stream* stream) override;
  Result<Completion> update(const RowKeys& pushed, const float* gradients, float scale,
                            Stream* stream) override;
  Result<Completion> insert(const RowBatch& rows, Stream* stream) override;
  Result<void> copy(std::span<const std::uint64_t> keys, RowBatch& into) override;
  Result<ExtractPage> extract(const SlotSet& slots, std::uint64_t cursor, std::uint64_t most,
                              RowBatch& into) const override;
  Result<std::uint64_t> erase(std::span<const std::uint64_t> keys) override;
  Result<std::uint64_t> erase(const SlotSet& slots) override;
  Result<std::uint64_t> evict(std::uint64_t most) override;
  Result<std::uint64_t> open_cut() override;
  Result<ExtractPage> read_cut(std::uint64_t cursor, std::uint64_t most, RowBatch& into) override;
  void close_cut() override;

 private:
  /// What is done with the rows of a piece, whose keys are there and have numbers.
  using OfPiece = UniqueFunction<Result<void>(std::size_t first, std::size_t count)>;
  struct Values {
    const void* data = nullptr;  // what is brought with each key
    std::size_t bytes = 0;
  };

  DeviceStore(const TableSpec& spec, const SlotSet& slots) : spec_(spec), slots_(slots) {}
  Result<void> check(const RowKeys& keys) const;
  Result<void> check_owned(std::span<const std::uint64_t> keys) const;
  enum class Ends : std::uint8_t { kRead, kMade, kChanged };
  struct Pull;
  /// `pull` is told when it has been read.
  Result<Completion> end(Stream* stream, std::shared_ptr<DeviceReading> reading, Ends how,
                         Pull* pull = nullptr);
  /// Whether so many keys more surely have room.
  bool fits(std::uint64_t keys);
  /// Room for so many rows more, and for what else comes with them; exactly those that are missing, if there
  /// is not enough for all.
  Result<void> make_room(std::span<const std::uint64_t> keys, std::uint64_t more);
  Result<void> grow(std::uint64_t rows);
  Result<void> grow_index(std::uint64_t rows);
  Result<void> grow_free_list(std::uint64_t numbers);
  Result<std::uint64_t> count_missing(std::span<const std::uint64_t> keys);
  /// What is done first with the keys of a piece.
  enum class First : std::uint8_t { kNothing, kFind, kMake };
  Result<void> in_pieces(std::span<const std::uint64_t> keys, std::size_t most, Values values, First first,
                         OfPiece work, bool changes = false) const;
  Result<void> find(std::size_t count) const;
  Result<void> find_or_make(std::size_t count) const;
  /// A read that makes rows, of one piece: the device has read what is there, and says whether something is
  /// missing. Most times nothing is. The piece's keys stay where they are until the next operation, before
  /// which, or before the read has ended, missing rows are made.
  struct Pull {
    const DeviceStore* store = nullptr;  // null: that has been seen to, or will not be
    std::size_t count = 0;
    std::uint64_t ticket = 0;
    Event read;
    Event made;
  };
  Result<Event> settle() const;
  Result<std::uint64_t> erase_owned(std::span<const std::uint64_t> keys);
  /// Looks at keys and marks of rows from `first` on, in their order, until `visit` says no; the number of
  /// the row that is next.
  template <class Visit>
  Result<std::uint64_t> walk(std::uint64_t first, Visit visit);
  Result<void> forget_used(std::span<const std::uint64_t> numbers);
  kernels::RowCounts* counts() const { return reports_->on_device(); }

  TableSpec spec_;
  SlotSet slots_;
  bool owns_all_ = false;
  std::unique_ptr<DeviceRows> rows_;
  std::unique_ptr<CountReports> reports_;
  kernels::RowIndex index_;
  Buffer absent_;  // a word, pinned: the ticket of the last read that has missed a row
  std::uint64_t tickets_ = 0;
  mutable std::shared_ptr<Pull> pull_;  // not settled
  Buffer index_memory_, free_memory_;
  std::uint64_t refused_at_ = UINT64_MAX;  // the capacity at which there was no memory for more
  bool knows_used_ = false;                // whether evict() has been called
  std::uint64_t hand_ = 0;                 // where it looks next
};

}  // namespace troupe::shards
