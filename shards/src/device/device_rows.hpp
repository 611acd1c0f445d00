#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include <troupe/kernels/record_slabs.hpp>
#include <troupe/shards/table_spec.hpp>

#include "device/device_work.hpp"

namespace troupe::shards {

/// Slabs that kernels find through an array of their addresses.
class SlabTable {
 public:
  std::size_t size() const { return slabs_.size(); }
  std::byte* const* on_device() const {
    return device_.empty() ? nullptr : reinterpret_cast<std::byte* const*>(device_.data());
  }
  std::byte* slab(std::size_t index) const { return slabs_[index].data(); }
  Result<void> add(DeviceWork& work, Buffer slab);
  void clear() { *this = SlabTable(); }

 private:
  Result<void> grow(DeviceWork& work);

  std::vector<Buffer> slabs_;
  Buffer host_;    // pinned: their addresses, each written once
  Buffer device_;  // likewise
};

/// The rows without those whose keys come again behind; nothing if there are none. Threads write in any
/// order: of a key that comes twice the last record is to count.
std::optional<RowBatch> last_of_each(const RowBatch& rows, std::size_t record_bytes, std::uint64_t seed);

/// Records in a GPU's memory, by number: how they are made, read, stepped, written and kept for a cut. Which
/// number a key has is the store's business. All is given to one stream, in pieces of at most piece_keys()
/// keys; what a piece needs of memory is there from the beginning.
class DeviceRows {
 public:
  static Result<std::unique_ptr<DeviceRows>> create(const TableSpec& spec, const DeviceHome& home);

  const RowLayout& layout() const { return layout_; }
  DeviceWork& work() { return work_; }
  std::uint64_t bytes() const { return slabs_.size() * slab_bytes(); }
  std::size_t piece_keys() const { return piece_keys_; }
  /// Keys of a piece with a row of float32 for each.
  std::size_t piece_rows() const { return piece_rows_; }
  /// Keys of a piece that is read into such memory: what the device does not write itself takes room here.
  std::size_t most_read(MemoryKind memory) const {
    return memory == MemoryKind::kHost ? piece_rows_ : piece_keys_;
  }
  /// Whole records that a piece has.
  std::size_t page_rows() const { return page_rows_; }
  std::uint64_t capacity() const { return std::uint64_t{slabs_.size()} << shift_; }
  /// Makes room for rows 0 .. count-1, keeping what there is if it fails.
  Result<void> reserve(std::uint64_t count);

  // ---- A piece: its keys first, which are then found

  /// Where the device has the piece's keys and their numbers; what is found out about keys comes to numbers.
  struct Piece {
    std::uint64_t* keys;
    std::uint64_t* numbers;
    std::uint64_t* slots;
    std::uint64_t* rows;
    std::uint64_t* block_counts;
    std::uint8_t* is_new;
    std::byte* values;
  };
  const Piece& piece() const { return piece_; }
  /// Brings keys, or numbers, to the device, and with the first what else: `extra` bytes to values.
  Result<void> bring(std::uint64_t* to, std::span<const std::uint64_t> keys, const void* extra = nullptr,
                     std::size_t extra_bytes = 0);
  /// The numbers that piece() has, by way of memory that is there whatever else is; waits for them. They hold
  /// until the next call.
  Result<std::span<const std::uint64_t>> fetch_numbers(std::size_t count);
  /// Ends a piece. If that fails, the next one begins by trying again.
  void end_piece() { (void)work_.seal(); }

  // ---- What is done with the `count` rows whose numbers piece() has

  /// First values of those that are new, or of all.
  Result<void> make(std::size_t count, bool all) const;
  /// Who is told, and how, that a row was missing when the device read it: see kernels::pull_rows().
  struct Absent {
    std::uint64_t* word = nullptr;
    std::uint64_t ticket = 0;
  };
  /// The weights of the `count` rows of piece().keys, found in `index`, to row `first` of `out`; those that
  /// are missing as they would be made. Without slots: of the rows whose numbers piece() has.
  Result<void> read(std::size_t count, const kernels::RowIndex& index, RowsOut out, std::size_t first,
                    Absent absent, DeviceReading& reading) const;
  /// One step with the gradients that are in values.
  Result<void> step(std::size_t count, float scale) const;
  /// Records that are in values.
  Result<void> write(std::size_t count) const;
  Result<void> mask(std::size_t count, std::uint8_t mask) const;
  Result<void> mask_all(std::uint64_t rows, std::uint8_t mask) const;

  // ---- Pages of rows, by number

  struct Page {
    std::uint64_t first = 0;
    std::size_t count = 0;
    std::size_t record_bytes = 0;
    Buffer memory;
    Event ready;
    std::span<const std::uint64_t> keys() const;
    std::span<const std::uint8_t> flags() const;
    const std::byte* record(std::size_t i) const;
  };
  enum class PageOf : std::uint8_t {
    kMarks,    ///< keys and marks only
    kRecords,  ///< and whole rows
    kCut,      ///< the same, as the cut has them
    kListed,   ///< whole rows, of the numbers that piece() has in place of first and so on
  };
  /// Begins to copy rows first .. first+count-1, of which there are so many.
  Result<Page> begin_page(std::uint64_t first, std::size_t count, PageOf what);
  static Result<void> wait_for(const Page& page) { return page.ready.wait(kPatience); }
  void append(const Page& page, std::size_t i, RowBatch& into) const;
  /// Appends the `count` rows whose numbers piece() has; waits for them.
  Result<void> append_listed(std::size_t count, RowBatch& into);

  // ---- A cut: rows numbered below its end, those that change kept until they have been read

  bool cut_is_open() const { return cut_.has_value(); }
  void open_cut(std::uint64_t end) { cut_.emplace(Cut{end, 0, {}}); }
  /// Whether the cut still has to have what this row is now.
  bool cut_wants(std::uint64_t number) const { return cut_ && number >= cut_->next && number < cut_->end; }
  /// Room for what so many rows were.
  Result<void> reserve_kept(std::uint64_t count);
  /// Keeps what the `count` rows of piece() are, if the cut needs it.
  Result<void> keep(std::size_t count, kernels::RowCounts* counts) const;
  Result<ExtractPage> read_cut(std::uint64_t cursor, std::uint64_t most, RowBatch& into);
  Result<void> close_cut(kernels::RowCounts* counts);

 private:
  struct Cut {
    std::uint64_t end;
    std::uint64_t next;         // rows numbered below it have been copied, or are being
    std::optional<Page> ahead;  // what is left of it is asked for next
  };

  DeviceRows(const TableSpec& spec, DeviceWork work);
  Result<void> make_scratch();
  /// Begins to copy the cut's next page, of at most so many rows.
  Result<void> go_ahead(std::uint64_t most);
  std::size_t slab_bytes() const { return static_cast<std::size_t>(marks_at_) + (std::size_t{1} << shift_); }
  kernels::RecordSlabs view() const;
  kernels::KeptSlabs kept_view() const;

  TableSpec spec_;
  RowLayout layout_;
  kernels::RecordShape shape_;
  kernels::Initial initial_;
  DeviceWork work_;
  std::size_t piece_keys_ = 0, piece_rows_ = 0, page_rows_ = 0, value_bytes_ = 0;
  unsigned shift_ = 0;
  std::int64_t stride_ = 0, keys_at_ = 0, kept_at_ = 0, marks_at_ = 0;
  SlabTable slabs_, kept_;
  Buffer scratch_, spare_;
  Piece piece_{};
  std::optional<Cut> cut_;
};

}  // namespace troupe::shards
