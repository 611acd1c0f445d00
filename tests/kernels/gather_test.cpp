#include "troupe/kernels/gather.hpp"

#include <limits>

#include "support.hpp"

using namespace troupe::kernels;
using namespace troupe::kernels::testing;

namespace {

constexpr std::int64_t kTableRows = 11;
constexpr std::int64_t kCount = 50;

std::vector<std::uint64_t> random_indices(std::uint64_t below, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  std::vector<std::uint64_t> indices(kCount);
  for (auto& index : indices) index = random() % below;
  return indices;
}

}  // namespace

TEST_CASE("gather copies rows by pointer and by index, null pointers as zeros") {
  on_each_target([] {
    for (const std::int64_t dim : kSizes) {
      CAPTURE(dim);
      const std::int64_t stride = dim + 2;
      GuardedFloats table(kTableRows * stride), out(kCount * dim, -1.0F);
      randomize(table, 1);
      const auto indices = random_indices(kTableRows, 2);
      const auto element = [&](std::int64_t at) {
        return static_cast<std::int64_t>(indices[static_cast<std::size_t>(at / dim)]) * stride + at % dim;
      };
      gather_rows(table.data(), stride, indices.data(), kCount, dim, out.data());
      CHECK(first_difference(
                out, [&](std::int64_t at) { return table[element(at)]; }, 0) == -1);

      std::vector<const float*> rows;
      rows.reserve(indices.size());
      for (const auto index : indices) {
        rows.push_back(index == 3 ? nullptr : table.data() + static_cast<std::int64_t>(index) * stride);
      }
      fill_with_garbage(out);
      gather_rows(rows.data(), kCount, dim, out.data());
      CHECK(first_difference(
                out,
                [&](std::int64_t at) {
                  return rows[static_cast<std::size_t>(at / dim)] == nullptr ? 0.0F : table[element(at)];
                },
                0) == -1);
    }
  });
}

TEST_CASE("scatter-add sums every value of a repeated row, by pointer and by index") {
  on_each_target([] {
    for (const std::int64_t dim : kSizes) {
      CAPTURE(dim);
      const std::int64_t stride = dim + 3;
      GuardedFloats before(kTableRows * stride), table(kTableRows * stride), values(kCount * dim);
      randomize(before, 3), randomize(values, 4);
      const auto indices = random_indices(kTableRows, 5);
      const auto expected = [&](std::int64_t at) {
        double sum = before[at];
        const std::int64_t column = at % stride;
        for (std::int64_t i = 0; i < kCount && column < dim; ++i) {
          if (static_cast<std::int64_t>(indices[static_cast<std::size_t>(i)]) == at / stride) {
            sum += -0.5 * values[i * dim + column];
          }
        }
        return sum;
      };
      table.copy_from(before);
      scatter_add_rows(values.data(), table.data(), stride, indices.data(), kCount, dim, -0.5F);
      CHECK(first_difference(table, expected) == -1);

      table.copy_from(before);
      std::vector<float*> rows;
      rows.reserve(indices.size());
      for (const auto index : indices)
        rows.push_back(table.data() + static_cast<std::int64_t>(index) * stride);
      scatter_add_rows(values.data(), rows.data(), kCount, dim, -0.5F);
      CHECK(first_difference(table, expected) == -1);
    }
  });
}

TEST_CASE("segment sums hold for any order of segments, with gaps and empty tails") {
  on_each_target([] {
    for (const std::int64_t dim : kSizes) {
      for (const std::uint64_t below : {1U, 7U, 200U}) {
        CAPTURE(dim);
        CAPTURE(below);
        const auto segment_count = static_cast<std::int64_t>(below) + 2;
        const auto segments = random_indices(below, 6);
        GuardedFloats values(kCount * dim), out(segment_count * dim);
        randomize(values, 7);
        fill_with_garbage(out);
        segment_sum(values.data(), segments.data(), kCount, dim, out.data(), segment_count);
        CHECK(first_difference(
                  out,
                  [&](std::int64_t at) {
                    double sum = 0;
                    for (std::int64_t i = 0; i < kCount; ++i) {
                      if (static_cast<std::int64_t>(segments[static_cast<std::size_t>(i)]) == at / dim) {
                        sum += values[i * dim + at % dim];
                      }
                    }
                    return sum;
                  },
                  1e-5) == -1);
      }
    }
  });
}

TEST_CASE("empty batches change nothing") {
  on_each_target([] {
    GuardedFloats out(8, 1.0F);
    gather_rows(nullptr, 0, 8, out.data());
    scatter_add_rows(out.data(), nullptr, 0, 8);
    CHECK(first_difference(
              out, [](std::int64_t) { return 1.0; }, 0) == -1);
    segment_sum(nullptr, nullptr, 0, 4, out.data(), 2);
    CHECK(first_difference(
              out, [](std::int64_t) { return 0.0; }, 0) == -1);
  });
}
