#include "dense_runs.hpp"

#include <algorithm>
#include <iterator>
#include <optional>

#include "row_errors.hpp"

namespace troupe::shards {

DenseRuns::DenseRuns(const TableSpec& spec, const SlotSet& slots) : spec_(spec) {
  for (const RowRange& range : rows_of_slots(spec, slots)) {
    runs_.push_back({range.begin, range.end, rows_});
    rows_ += range.size();
  }
}

DenseRuns::Run DenseRuns::run_of(std::uint64_t row) const {
  const auto next = std::upper_bound(runs_.begin(), runs_.end(), row,
                                     [](std::uint64_t r, const Run& run) { return r < run.begin; });
  return next == runs_.begin() || row >= std::prev(next)->end ? Run{} : *std::prev(next);
}

Error DenseRuns::not_here(std::uint64_t row) const {
  return row < spec_.rows ? slot_error(spec_, row) : row_error(spec_, row);
}

Error DenseRuns::stay_forever() const {
  return {Code::kFailedPrecondition,
          "table '" + spec_.name + "': it is dense, whose rows are there as long as the table"};
}

// Rows usually come in ranges, so the run of the last key is tried first.
Result<void> DenseRuns::check(const RowKeys& keys) const {
  if (!keys.in_ranges()) {
    Run run;
    for (const std::uint64_t key : keys.list()) {
      if (!run.has(key)) run = run_of(key);
      if (!run.has(key)) return not_here(key);
    }
    return {};
  }
  if (auto good = check_ranges(spec_, keys); !good) return good;
  std::optional<std::uint64_t> missing;
  keys.for_each_range([&](const RowRange& range) {
    if (missing) return;
    const Run run = run_of(range.begin);
    if (range.end > run.end) missing = std::max(range.begin, run.end);
  });
  return missing ? Result<void>(not_here(*missing)) : Result<void>();
}

}  // namespace troupe::shards
