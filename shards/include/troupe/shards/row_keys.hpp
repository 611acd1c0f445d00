#pragma once

#include <algorithm>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include <troupe/runtime/result.hpp>

namespace troupe::shards {

struct TableSpec;

/// Rows [begin, end) of a dense table.
struct RowRange {
  std::uint64_t begin = 0;
  std::uint64_t end = 0;
  std::uint64_t size() const { return end - begin; }
  friend bool operator==(const RowRange&, const RowRange&) = default;
};

/// Which rows an operation is about: keys one by one, or ranges of a dense table's rows, which take neither
/// memory nor a look for each row. A view of one or the other, as a span is.
class RowKeys {
 public:
  RowKeys() = default;
  template <class List>
  requires std::convertible_to<const List&, std::span<const std::uint64_t>>
  // NOLINTNEXTLINE(google-explicit-constructor): lists are what most have
  RowKeys(const List& keys) {
    const std::span<const std::uint64_t> list = keys;
    keys_ = list.data();
    size_ = list.size();
  }
  /// Precondition: begin <= end in each, and all together are fewer than 2^64 rows, as check_ranges() sees
  /// to.
  explicit RowKeys(std::span<const RowRange> ranges) : ranges_(ranges), in_ranges_(true) {
    for (const RowRange& range : ranges) size_ += range.size();
  }

  std::size_t size() const { return size_; }
  bool empty() const { return size_ == 0; }
  bool in_ranges() const { return in_ranges_; }
  /// Precondition: !in_ranges().
  std::span<const std::uint64_t> list() const { return {keys_, size_}; }
  /// A step for each range before it: for messages. Precondition: i < size().
  std::uint64_t operator[](std::size_t i) const;
  /// A step for each range before it. Precondition: begin + count <= size().
  RowKeys subspan(std::size_t begin, std::size_t count) const;
  /// The first of the ranges. Precondition: in_ranges(), and not empty().
  RowRange front() const {
    const std::uint64_t begin = ranges_.front().begin + skip_;
    return {begin, begin + std::min<std::uint64_t>(size_, ranges_.front().size() - skip_)};
  }
  /// The ranges one after the other. Precondition: in_ranges().
  template <class Visit>
  void for_each_range(Visit visit) const {
    std::size_t left = size_;
    std::uint64_t skip = skip_;
    for (const RowRange& range : ranges_) {
      if (left == 0) return;
      const std::size_t some = std::min<std::size_t>(left, range.size() - skip);
      visit(RowRange{range.begin + skip, range.begin + skip + some});
      left -= some;
      skip = 0;
    }
  }

 private:
  const std::uint64_t* keys_ = nullptr;
  std::span<const RowRange> ranges_;
  std::uint64_t skip_ = 0;  // rows of the first range that do not belong to it
  std::size_t size_ = 0;
  bool in_ranges_ = false;
};

/// The same with memory of its own.
struct RowKeyList {
  std::vector<std::uint64_t> keys;
  std::vector<RowRange> ranges;  ///< if there are any: these, and no keys

  RowKeyList() = default;
  explicit RowKeyList(const RowKeys& rows);
  RowKeys view() const { return ranges.empty() ? RowKeys(keys) : RowKeys(std::span(ranges)); }
  std::uint64_t bytes() const { return keys.size() * sizeof(keys[0]) + ranges.size() * sizeof(ranges[0]); }
};

/// kInvalidArgument, naming it, for a range that cannot be: of a table that is not dense, empty, past the
/// table's rows, or not behind the range before it, so that no row comes twice.
Result<void> check_ranges(const TableSpec& spec, std::span<const RowRange> ranges);
/// The same; lists of keys are not looked at.
Result<void> check_ranges(const TableSpec& spec, const RowKeys& rows);

}  // namespace troupe::shards
