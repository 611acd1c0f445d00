#pragma once

#include <cstdint>
#include <vector>

#include <troupe/runtime/result.hpp>
#include <troupe/shards/partition.hpp>
#include <troupe/shards/row_keys.hpp>
#include <troupe/shards/table_spec.hpp>

namespace troupe::shards {

/// Which rows of a dense table a shard has, and their numbers within it: 0 and so on, in the order of the
/// rows. Found by subtraction.
class DenseRuns {
 public:
  /// Rows [begin, end) have the numbers from `base` on. No two runs touch.
  struct Run {
    std::uint64_t begin = 0;
    std::uint64_t end = 0;
    std::uint64_t base = 0;
    bool has(std::uint64_t row) const { return row >= begin && row < end; }
    std::uint64_t number(std::uint64_t row) const { return base + row - begin; }
  };

  DenseRuns(const TableSpec& spec, const SlotSet& slots);

  std::uint64_t rows() const { return rows_; }
  std::uint64_t bytes() const { return runs_.capacity() * sizeof(Run); }
  const std::vector<Run>& all() const { return runs_; }
  /// kInvalidArgument, or kFailedPrecondition, naming it, for a row that is not here.
  Result<void> check(const RowKeys& keys) const;
  /// The numbers of rows that check() has seen, in their order.
  template <class Visit>
  void for_each_number(const RowKeys& keys, Visit visit) const {
    Run run;
    if (keys.in_ranges()) {
      keys.for_each_range([&](const RowRange& range) {
        if (!run.has(range.begin)) run = run_of(range.begin);
        for (std::uint64_t row = range.begin; row < range.end; ++row) visit(run.number(row));
      });
      return;
    }
    for (const std::uint64_t key : keys.list()) {
      if (!run.has(key)) run = run_of(key);
      visit(run.number(key));
    }
  }
  /// That erasing such rows is refused.
  Error stay_forever() const;

 private:
  /// The run that has `row`; one without rows if none has.
  Run run_of(std::uint64_t row) const;
  Error not_here(std::uint64_t row) const;

  TableSpec spec_;
  std::uint64_t rows_ = 0;
  std::vector<Run> runs_;  // ascending
};

}  // namespace troupe::shards
