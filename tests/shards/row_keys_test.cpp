#include <troupe/shards/row_keys.hpp>

#include "support.hpp"

namespace troupe::shards {
namespace {

using test::dense_spec;
using test::embedding_spec;

std::vector<std::uint64_t> rows_of(const RowKeys& keys) {
  std::vector<std::uint64_t> rows;
  keys.for_each_range([&](const RowRange& range) {
    for (std::uint64_t row = range.begin; row < range.end; ++row) rows.push_back(row);
  });
  return rows;
}

std::string refused(const TableSpec& spec, const std::vector<RowRange>& ranges) {
  const Result<void> checked = check_ranges(spec, ranges);
  REQUIRE_FALSE(checked.ok());
  CHECK(checked.error().code == Code::kInvalidArgument);
  return checked.error().message;
}

TEST_CASE("ranges and parts of them are the rows that a list of them would be") {
  std::mt19937_64 random(troupe::test::test_seed());
  for (int turn = 0; turn < 200; ++turn) {
    std::vector<RowRange> ranges;
    std::vector<std::uint64_t> list;
    std::uint64_t row = 0;
    for (std::uint64_t i = random() % 6; i > 0; --i) {
      row += random() % 3;
      ranges.push_back({row, row + 1 + random() % 5});
      for (; row < ranges.back().end; ++row) list.push_back(row);
    }
    const RowKeys keys((std::span<const RowRange>(ranges)));
    REQUIRE(keys.in_ranges());
    REQUIRE(keys.size() == list.size());
    CHECK(rows_of(keys) == list);
    for (int part = 0; part < 10 && !list.empty(); ++part) {
      const std::size_t begin = random() % list.size(), count = random() % (list.size() - begin + 1);
      const RowKeys some = keys.subspan(begin, count);
      const auto from = list.begin() + static_cast<std::ptrdiff_t>(begin);
      const std::vector<std::uint64_t> expected(from, from + static_cast<std::ptrdiff_t>(count));
      REQUIRE(some.size() == count);
      REQUIRE(rows_of(some) == expected);
      for (std::size_t i = 0; i < count; ++i) REQUIRE(some[i] == expected[i]);
      REQUIRE(rows_of(RowKeyList(some).view()) == expected);
      const std::size_t half = count / 2;
      const RowKeys rest = some.subspan(half, count - half);
      REQUIRE(rest.size() == count - half);
      if (!rest.empty()) REQUIRE(rest[0] == expected[half]);
    }
  }
}

TEST_CASE("ranges that cannot be are refused, with the first that is wrong") {
  const TableSpec spec = dense_spec(100, 3);
  CHECK(check_ranges(spec, std::vector<RowRange>{{0, 1}, {1, 7}, {50, 100}}).ok());
  CHECK(check_ranges(spec, std::vector<RowRange>{}).ok());
  CHECK(refused(spec, {{0, 4}, {90, 101}}) ==
        "table 'bias': rows 90 to 101, without the last, are out of range, it has 100 rows");
  CHECK(refused(spec, {{5, 5}}).find("rows 5 to 5, without the last, are none") != std::string::npos);
  CHECK(refused(spec, {{9, 3}}).find("are none") != std::string::npos);
  CHECK(refused(spec, {{UINT64_MAX, 0}}).find("are none") != std::string::npos);
  CHECK(refused(spec, {{0, UINT64_MAX}}).find("out of range") != std::string::npos);
  CHECK(refused(spec, {{0, 10}, {9, 12}}).find("come after row 9") != std::string::npos);
  CHECK(refused(spec, {{20, 30}, {0, 10}}).find("are to ascend") != std::string::npos);
  CHECK(refused(spec, {{20, 30}, {20, 30}}).find("in two of them") != std::string::npos);
  CHECK(refused(embedding_spec(3), {{0, 1}}).find("it is not dense") != std::string::npos);
}

}  // namespace
}  // namespace troupe::shards
