#include <troupe/shards/row_keys.hpp>

#include <cassert>
#include <optional>
#include <string>

#include <troupe/shards/table_spec.hpp>

namespace troupe::shards {

std::uint64_t RowKeys::operator[](std::size_t i) const {
  assert(i < size_);
  if (!in_ranges_) return keys_[i];
  std::uint64_t left = i + skip_;
  for (const RowRange& range : ranges_) {
    if (left < range.size()) return range.begin + left;
    left -= range.size();
  }
  return 0;
}

RowKeys RowKeys::subspan(std::size_t begin, std::size_t count) const {
  assert(begin <= size_ && count <= size_ - begin);
  RowKeys part = *this;
  part.size_ = count;
  if (!in_ranges_) {
    part.keys_ += begin;
    return part;
  }
  part.skip_ += begin;
  while (!part.ranges_.empty() && part.skip_ >= part.ranges_.front().size()) {
    part.skip_ -= part.ranges_.front().size();
    part.ranges_ = part.ranges_.subspan(1);
  }
  return part;
}

RowKeyList::RowKeyList(const RowKeys& rows) {
  if (rows.in_ranges()) {
    rows.for_each_range([this](const RowRange& range) { ranges.push_back(range); });
  } else {
    keys.assign(rows.list().begin(), rows.list().end());
  }
}

namespace {

/// What is wrong with the first bad one of some ranges, if there is one.
class RangeCheck {
 public:
  explicit RangeCheck(const TableSpec& spec) : spec_(spec) {}

  void add(const RowRange& range) {
    if (error_) return;
    if (spec_.kind != TableKind::kDense) {
      refuse(range, "cannot be asked for: it is not dense, so that its rows have no order; name their keys");
    } else if (range.begin >= range.end) {
      refuse(range, "are none");
    } else if (range.end > spec_.rows) {
      refuse(range, "are out of range, it has " + std::to_string(spec_.rows) + " rows");
    } else if (range.begin < end_) {
      refuse(range, "come after row " + std::to_string(end_ - 1) +
                        ": ranges are to ascend, and no row is to be in two of them");
    }
    end_ = range.end;
  }
  Result<void> result() const { return error_ ? Result<void>(*error_) : Result<void>(); }

 private:
  void refuse(const RowRange& range, const std::string& why) {
    error_ =
        Error{Code::kInvalidArgument, "table '" + spec_.name + "': rows " + std::to_string(range.begin) +
                                          " to " + std::to_string(range.end) + ", without the last, " + why};
  }

  const TableSpec& spec_;
  std::uint64_t end_ = 0;  // of the range before
  std::optional<Error> error_;
};

}  // namespace

Result<void> check_ranges(const TableSpec& spec, std::span<const RowRange> ranges) {
  RangeCheck check(spec);
  for (const RowRange& range : ranges) check.add(range);
  return check.result();
}

Result<void> check_ranges(const TableSpec& spec, const RowKeys& rows) {
  if (!rows.in_ranges()) return {};
  RangeCheck check(spec);
  rows.for_each_range([&](const RowRange& range) { check.add(range); });
  return check.result();
}

}  // namespace troupe::shards
