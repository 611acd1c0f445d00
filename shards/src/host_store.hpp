#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <unordered_map>
#include <vector>

#include <troupe/kernels/hash_index.hpp>
#include <troupe/shards/row_store.hpp>

#include "host_rows.hpp"

namespace troupe::shards {

/// An embedding table's rows, found by key through an index. Rows have numbers; those of erased rows are used
/// again.
class HostStore final : public RowStore {
 public:
  HostStore(const TableSpec& spec, const SlotSet& slots);

  const RowLayout& layout() const override { return rows_.layout(); }
  std::uint64_t rows() const override { return numbered_ - free_.size(); }
  std::uint64_t bytes() const override;
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
  void close_cut() override { cut_.reset(); }

 private:
  /// What is still to be read of a cut.
  struct Cut {
    std::uint64_t end = 0;   // rows numbered below it belong to the cut
    std::uint64_t next = 0;  // rows numbered below it have been read
    std::vector<bool> gone;  // which were erased before; empty: none
    // What rows were that have changed since, and have not been read.
    std::unordered_map<std::uint64_t, std::pair<std::uint64_t, std::vector<std::byte>>> kept;
  };

  /// numbers_[i] = the row of keys[i].
  Result<void> find(std::span<const std::uint64_t> keys);
  Result<void> find_or_make(std::span<const std::uint64_t> keys);
  void make_missing(std::span<const std::uint64_t> keys, std::uint64_t missing);
  Result<void> check_owned(std::span<const std::uint64_t> keys) const;

  bool is_gone(std::uint64_t number) const { return !gone_.empty() && gone_[number]; }
  void append(std::uint64_t number, RowBatch& into) const;
  void mark_used(std::size_t count);
  void keep_for_cut(std::span<const std::uint64_t> numbers);
  void erase_row(std::uint64_t number);

  TableSpec spec_;
  SlotSet slots_;
  HostRows rows_;
  std::uint64_t numbered_ = 0;       // numbers given out, those of erased rows included
  kernels::HashIndex index_;         // key -> row number
  std::vector<std::uint64_t> keys_;  // by row number
  std::vector<std::uint64_t> free_;  // numbers of erased rows
  std::vector<bool> gone_;           // which those are; empty until a row is erased
  std::vector<std::uint8_t> used_;   // since evict() last looked; empty until it is first called
  std::uint64_t hand_ = 0;           // where evict() looks next
  std::optional<Cut> cut_;

  // Scratch that keeps its size between calls.
  std::vector<std::uint64_t> numbers_;
  std::vector<std::uint64_t> new_keys_;
};

}  // namespace troupe::shards
