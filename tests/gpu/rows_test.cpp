// Gather, pooled gather, casts, norms: the host's and the GPU's against plain double precision.
#include <troupe/kernels/cast.hpp>
#include <troupe/kernels/row_table.hpp>
#include <troupe/kernels/vector.hpp>

#include <algorithm>
#include <limits>
#include <numeric>

#include "places.hpp"

using namespace troupe::kernels;
using namespace troupe::test;

namespace {

constexpr std::int64_t kRows = 37;

/// Around the edges of vectors of four, of warps and of blocks, and aligned rows of every group's width.
const std::vector<std::int64_t> kDims = {0,  1,  3,   4,   5,   8,   12,  16,  31, 32,
                                         33, 64, 100, 127, 128, 129, 256, 512, 516};
const std::vector<std::int64_t> kCounts = {0, 1, 2, 31, 32, 33, 127, 128, 129, 256, 257, 1000};

std::vector<std::uint64_t> random_rows(std::int64_t count, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  std::vector<std::uint64_t> rows(static_cast<std::size_t>(count));
  for (auto& row : rows) row = random() % kRows;
  return rows;
}

/// A table's bytes in a type, and what they are as float32.
struct Table {
  std::vector<float> values;
  std::vector<std::uint16_t> halves;  // of 16 bits
};

Table table_of(Element element, std::int64_t elements, std::uint64_t seed) {
  Table table{random_floats(static_cast<std::size_t>(elements), seed), {}};
  if (element == Element::kFloat32) return table;
  table.halves.resize(table.values.size());
  const auto n = static_cast<std::int64_t>(elements);
  if (element == Element::kFloat16) {
    float32_to_float16(table.values.data(), n, table.halves.data());
    float16_to_float32(table.halves.data(), n, table.values.data());
  } else {
    float32_to_bfloat16(table.values.data(), n, table.halves.data());
    bfloat16_to_float32(table.halves.data(), n, table.values.data());
  }
  return table;
}

template <class Where>
const void* put(Where& at, const Table& table, std::size_t shift) {
  if (table.halves.empty()) return at.put(table.values, shift);
  return at.put(table.halves, shift);
}

const Element kElements[] = {Element::kFloat32, Element::kFloat16, Element::kBFloat16};

}  // namespace

TEST_CASE_TEMPLATE("gather makes a batch of rows in any order, with zeros where there is none", Where, OnHost,
                   OnGpu) {
  Where at;
  if (!at.here()) return;
  for (const Element element : kElements) {
    for (const std::int64_t dim : kDims) {
      for (const std::size_t shift : {0U, 1U}) {
        const std::int64_t count = kCounts[static_cast<std::size_t>(dim) % kCounts.size()] + dim % 3;
        CAPTURE(static_cast<int>(element));
        CAPTURE(dim);
        CAPTURE(count);
        const std::int64_t stride = dim + (shift == 0 ? 4 : 3);
        const Table table = table_of(element, kRows * stride, 1);
        auto rows = random_rows(count, 2);
        if (count > 2) rows[1] = kNoRow;
        std::vector<float> expected;
        for (const std::uint64_t row : rows)
          for (std::int64_t j = 0; j < dim; ++j)
            expected.push_back(
                row == kNoRow
                    ? 0.0F
                    : table.values[row * static_cast<std::uint64_t>(stride) + static_cast<std::uint64_t>(j)]);
        float* const out = at.put(std::vector<float>(expected.size(), -7.0F), shift);
        const void* const base = put(at, table, shift);
        at.finish(gather_rows(at.place(), element, base, stride, at.put(rows), count, dim, out));
        CHECK(at.get(out, expected.size()) == expected);
      }
    }
  }
}

TEST_CASE_TEMPLATE("pooled gather sums, or averages, each bag's rows; an empty bag is zeros", Where, OnHost,
                   OnGpu) {
  Where at;
  if (!at.here()) return;
  for (const Element element : kElements) {
    for (const std::int64_t dim : kDims) {
      CAPTURE(static_cast<int>(element));
      CAPTURE(dim);
      const Table table = table_of(element, kRows * (dim + 4), 3);
      const std::vector<std::int64_t> offsets = {0, 1, 1, 4, 9, 9, 42, 62};
      const auto rows = random_rows(offsets.back(), 4);
      for (const Pooling pooling : {Pooling::kSum, Pooling::kMean}) {
        std::vector<double> expected;
        for (std::size_t b = 0; b + 1 < offsets.size(); ++b) {
          for (std::int64_t j = 0; j < dim; ++j) {
            double sum = 0;
            for (std::int64_t i = offsets[b]; i < offsets[b + 1]; ++i)
              sum += double{
                  table.values[rows[static_cast<std::size_t>(i)] * static_cast<std::uint64_t>(dim + 4) +
                               static_cast<std::uint64_t>(j)]};
            const std::int64_t size = offsets[b + 1] - offsets[b];
            expected.push_back(pooling == Pooling::kMean && size > 0 ? sum / static_cast<double>(size) : sum);
          }
        }
        float* const out = at.put(std::vector<float>(expected.size(), -7.0F));
        at.finish(gather_pooled(at.place(), element, put(at, table, 0), dim + 4, at.put(rows),
                                at.put(offsets), static_cast<std::int64_t>(offsets.size()) - 1, dim, pooling,
                                out));
        CHECK(all_close(at.get(out, expected.size()), expected, 5e-6));  // 33 values of up to 2, rounded
      }
    }
  }
}

TEST_CASE_TEMPLATE("casts round to the nearest, keep NaN, and make what is too large the largest number",
                   Where, OnHost, OnGpu) {
  Where at;
  if (!at.here()) return;
  for (const std::int64_t n : kCounts) {
    CAPTURE(n);
    auto values = random_floats(static_cast<std::size_t>(n), 5, -70000.0F, 70000.0F);
    const float special[] = {0.0F,
                             -0.0F,
                             1e-8F,
                             -3e-6F,
                             65504.0F,
                             65519.0F,
                             65520.0F,
                             -1e30F,
                             std::numeric_limits<float>::infinity(),
                             std::numeric_limits<float>::quiet_NaN(),
                             std::numeric_limits<float>::max(),
                             1.00048828125F};
    std::copy_n(special, std::min(values.size(), std::size(special)), values.begin());
    for (const Element element : {Element::kFloat16, Element::kBFloat16}) {
      CAPTURE(static_cast<int>(element));
      std::vector<std::uint16_t> expected(values.size());
      if (element == Element::kFloat16)
        float32_to_float16(values.data(), n, expected.data());
      else
        float32_to_bfloat16(values.data(), n, expected.data());
      std::uint16_t* const halves = at.put(std::vector<std::uint16_t>(values.size(), 1));
      at.finish(cast(at.place(), Element::kFloat32, at.put(values), element, halves, n));
      auto actual = at.get(halves, values.size());
      float* const back = at.put(std::vector<float>(values.size(), -7.0F));
      at.finish(cast(at.place(), element, halves, Element::kFloat32, back, n));
      const auto again = at.get(back, values.size());
      for (std::size_t i = 0; i < values.size(); ++i) {
        CAPTURE(i);
        if (std::isnan(values[i])) {
          CHECK(std::isnan(again[i]));  // which of the many NaNs is nobody's matter
        } else {
          CHECK(actual[i] == expected[i]);
          CHECK(std::isfinite(again[i]));
        }
      }
    }
  }
}

TEST_CASE_TEMPLATE(
    "norms are of double precision and the same bits each time; clipping leaves small norms alone", Where,
    OnHost, OnGpu) {
  Where at;
  if (!at.here()) return;
  for (const std::int64_t n : {0, 1, 3, 4, 1023, 1024, 1025, 100000, 3000001}) {
    CAPTURE(n);
    const auto values = random_floats(static_cast<std::size_t>(n), 6);
    double squared = 0;
    for (const float value : values) squared += double{value} * double{value};
    for (const std::size_t shift : {0U, 1U}) {
      float* const x = at.put(values, shift);
      double* const out = at.put(std::vector<double>(2, -1));
      void* const workspace = at.put(std::vector<double>(kNormWorkspaceBytes / 8));
      at.finish(squared_norm(at.place(), x, n, out, workspace));
      at.finish(squared_norm(at.place(), x, n, out + 1, workspace));
      const auto norms = at.get(out, 2);
      CHECK(std::abs(norms[0] - squared) <= 1e-12 * (1 + squared));
      CHECK(norms[0] == norms[1]);
      const auto norm = static_cast<float>(std::sqrt(squared));
      at.finish(clip_to_norm(at.place(), x, n, out, norm * 1.01F + 1));
      CHECK(at.get(x, values.size()) == values);
      if (n == 0) continue;
      at.finish(clip_to_norm(at.place(), x, n, out, norm / 2));
      std::vector<double> half;
      half.reserve(values.size());
      for (const float value : values) half.push_back(double{value} / 2);
      CHECK(all_close(at.get(x, values.size()), half, 1e-6));
    }
  }
}

TEST_CASE_TEMPLATE("a norm that is no number clips nothing", Where, OnHost, OnGpu) {
  Where at;
  if (!at.here()) return;
  const std::vector<float> values(100, 3.0F);
  float* const x = at.put(values);
  const double* const squared = at.put(
      std::vector<double>{std::numeric_limits<double>::infinity(), std::numeric_limits<double>::quiet_NaN()});
  at.finish(clip_to_norm(at.place(), x, 100, squared, 1.0F));
  at.finish(clip_to_norm(at.place(), x, 100, squared + 1, 1.0F));
  CHECK(at.get(x, values.size()) == values);
}

TEST_CASE_TEMPLATE("a batch sorted by row keeps the order of equal rows", Where, OnHost, OnGpu) {
  Where at;
  if (!at.here()) return;
  for (const std::int64_t count : kCounts) {
    CAPTURE(count);
    const auto rows = random_rows(count, 8);
    std::vector<std::uint32_t> expected(rows.size());
    std::iota(expected.begin(), expected.end(), 0U);
    std::stable_sort(expected.begin(), expected.end(), [&](auto a, auto b) { return rows[a] < rows[b]; });
    auto* const sorted = at.put(std::vector<std::uint32_t>(rows.size(), 99));
    auto* const positions = at.put(std::vector<std::uint32_t>(rows.size(), 99));
    const std::size_t bytes = sort_rows_workspace(at.place(), count, kRows);
    void* const workspace = at.put(std::vector<std::byte>(bytes));
    at.finish(sort_rows(at.place(), at.put(rows), count, kRows, sorted, positions, workspace, bytes));
    CHECK(at.get(positions, rows.size()) == expected);
    const auto keys = at.get(sorted, rows.size());
    for (std::size_t k = 0; k < keys.size(); ++k) CHECK(keys[k] == rows[expected[k]]);
  }
}
