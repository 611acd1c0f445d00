#pragma once

#include <cstdint>
#include <optional>
#include <unordered_map>
#include <vector>

#include <troupe/shards/row_store.hpp>

#include "dense_runs.hpp"
#include "host_rows.hpp"

namespace troupe::shards {

/// A dense table's rows. They are all there from the beginning and lie in the order of their numbers in the
/// table, so that a row is found by subtraction: no index, no key.
class DenseStore final : public RowStore {
 public:
  DenseStore(const TableSpec& spec, const SlotSet& slots);

  const RowLayout& layout() const override { return rows_.layout(); }
  std::uint64_t rows() const override { return runs_.rows(); }
  std::uint64_t bytes() const override;
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
  void close_cut() override { cut_.reset(); }

 private:
  /// What rows were, by number.
  using Kept = std::unordered_map<std::uint64_t, std::vector<std::byte>>;
  /// What is still to be read of a cut.
  struct Cut {
    std::uint64_t next = 0;  // rows numbered below it have been read
    Kept kept;               // of those that have changed since and have not been read
  };

  /// Some rows at a time, named in rows_: work(how many came before, how many these are).
  template <class Work>
  void in_pieces(const RowKeys& keys, Work work);
  void keep_for_cut(const RowKeys& keys);
  /// Rows from `page.next_cursor` on, as they are or as the cut kept them.
  template <class Wanted>
  void append(ExtractPage& page, std::uint64_t most, RowBatch& into, Wanted wanted, Cut* cut) const;

  TableSpec spec_;
  HostRows rows_;
  DenseRuns runs_;
  std::optional<Cut> cut_;
};

}  // namespace troupe::shards
