#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include <troupe/shards/row_store.hpp>

#include "dense_runs.hpp"
#include "device/device_rows.hpp"

namespace troupe::shards {

/// A dense table's rows in a GPU's memory, in the order of their numbers in the table.
class DeviceDenseStore final : public RowStore {
 public:
  static Result<std::unique_ptr<RowStore>> create(const TableSpec& spec, const SlotSet& slots,
                                                  const DeviceHome& home);

  const RowLayout& layout() const override { return rows_->layout(); }
  std::uint64_t rows() const override { return runs_.rows(); }
  Result<void> wait() override;
  std::uint64_t bytes() const override { return rows_->bytes() + runs_.bytes(); }
  Result<Buffer> memory_for(std::size_t bytes) override { return rows_->work().pinned_memory(bytes); }
  Result<Completion> read(const RowKeys& keys, IfMissing missing, RowsOut out, Stream* stream) override;
  Result<Completion> make(const RowKeys& keys, Stream* stream) override;
  Result<Completion> update(const RowKeys& keys, const float* gradients, float scale,
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
  /// What is done with the rows of a piece, whose numbers are there.
  using OfPiece = UniqueFunction<Result<void>(std::size_t first, std::size_t count)>;
  struct Values {
    const void* data = nullptr;  // what is brought with each row
    std::size_t bytes = 0;
  };

  DeviceDenseStore(const TableSpec& spec, const SlotSet& slots) : spec_(spec), runs_(spec, slots) {}
  Result<void> make_all();
  Result<void> make_room(const RowKeys& keys);
  Result<Completion> give(const RowKeys& keys, std::size_t most, Values values, bool changes, Stream* stream,
                          std::shared_ptr<DeviceReading> reading, OfPiece work);
  Result<void> keep(std::size_t count);

  TableSpec spec_;
  DenseRuns runs_;
  std::unique_ptr<DeviceRows> rows_;
  Buffer counts_;                       // of the device: how many rows a cut has kept
  std::vector<std::uint64_t> numbers_;  // of a piece
  // Of the cut that is open: which rows have been kept, and how many.
  std::vector<bool> kept_;
  std::uint64_t kept_count_ = 0;
};

}  // namespace troupe::shards
