// Vectors made smaller, on the host and on a GPU, and embeddings.
#include <troupe/kernels/compress.hpp>
#include <troupe/kernels/embedding.hpp>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "matrix.hpp"
#include "places.hpp"

using namespace troupe::kernels;
using namespace troupe::test;

TEST_CASE_TEMPLATE("what eight bits leave out of a block is half a step, and comes with the next", Where,
                   OnHost, OnGpu) {
  Where at;
  if (!at.here()) return;
  for (const std::int64_t block : {1, 31, 32, 33, 64, 255, 256, 257, 512, 513, 1024, 5000}) {
    for (const std::int64_t n : {std::int64_t{1}, block - 1, block, block + 1, 9 * block + 7}) {
      if (n == 0) continue;
      CAPTURE(block);
      CAPTURE(n);
      auto x = random_floats(static_cast<std::size_t>(n), 31);
      for (std::int64_t i = block; i < std::min(n, 2 * block); ++i) x[static_cast<std::size_t>(i)] = 0;
      const float* const at_x = at.put(x);
      float* const error = at.put(std::vector<float>(x.size(), 0.0F));
      auto* const values = at.put(std::vector<std::int8_t>(x.size(), 99));
      float* const scales = at.put(std::vector<float>(static_cast<std::size_t>(scales_for(n, block)), -7.0F));
      float* const out = at.put(std::vector<float>(x.size(), 1.0F));
      // What has been sent after some rounds is what was given but for the last error.
      Doubles sent(x.size(), 0);
      for (int round = 1; round <= 3; ++round) {
        at.finish(quantize(at.place(), at_x, error, n, block, values, scales));
        at.finish(dequantize(at.place(), values, scales, n, block, false, out));
        const auto got = at.get(out, x.size());
        const auto left = at.get(error, x.size());
        const auto steps = at.get(scales, static_cast<std::size_t>(scales_for(n, block)));
        for (std::size_t i = 0; i < x.size(); ++i) {
          sent[i] += double{got[i]};
          const double step = double{steps[i / static_cast<std::size_t>(block)]};
          REQUIRE(std::abs(double{left[i]}) <= 0.5001 * step);
          REQUIRE(std::abs(sent[i] + double{left[i]} - round * double{x[i]}) <= 1e-5);
        }
      }
      const auto largest = at.get(values, x.size());
      CHECK(*std::max_element(largest.begin(), largest.end(),
                              [](int a, int b) { return std::abs(a) < std::abs(b); }) != 0);
      const auto before = at.get(out, x.size());
      at.finish(dequantize(at.place(), values, scales, n, block, true, out));
      const auto twice = at.get(out, x.size());
      for (std::size_t i = 0; i < x.size(); ++i) REQUIRE(twice[i] == 2 * before[i]);
      // Without error feedback.
      at.finish(quantize(at.place(), at_x, nullptr, n, block, values, scales));
      at.finish(dequantize(at.place(), values, scales, n, block, false, out));
      const auto plain = at.get(out, x.size());
      for (std::size_t i = 0; i < x.size(); ++i) REQUIRE(std::abs(plain[i] - x[i]) <= 2.0 / 127);
    }
  }
}

TEST_CASE_TEMPLATE("the largest are selected, of equal ones the first, and the others stay in the error",
                   Where, OnHost, OnGpu) {
  Where at;
  if (!at.here()) return;
  // The last has more tiles than one block adds up at once, and than are counted at once.
  for (const std::int64_t n : {1, 2, 31, 33, 255, 257, 2047, 2048, 2049, 70'001, 3'000'001}) {
    for (const std::int64_t k : {std::int64_t{0}, std::int64_t{1}, n / 100, n / 2, n - 1, n}) {
      for (const bool coarse : {false, true}) {
        if (n > 1'000'000 && (!coarse || k < n / 100 || k > n / 2)) continue;
        CAPTURE(n);
        CAPTURE(k);
        CAPTURE(coarse);
        auto x = random_floats(static_cast<std::size_t>(n), 32);
        auto error = random_floats(static_cast<std::size_t>(n), 33, -0.5F, 0.5F);
        if (coarse) {  // many are equal
          for (float& each : x) each = std::round(each);
          for (float& each : error) each = 0;
        }
        std::vector<float> sum(x.size());
        for (std::size_t i = 0; i < x.size(); ++i) sum[i] = x[i] + error[i];
        std::vector<std::uint32_t> order(x.size());
        std::iota(order.begin(), order.end(), 0U);
        std::stable_sort(order.begin(), order.end(), [&](std::uint32_t a, std::uint32_t b) {
          return std::abs(sum[a]) > std::abs(sum[b]);
        });
        order.resize(static_cast<std::size_t>(k));
        std::sort(order.begin(), order.end());

        const float* const at_x = at.put(x);
        float* const at_error = at.put(error);
        float* const values = at.put(std::vector<float>(order.size(), -7.0F));
        auto* const positions = at.put(std::vector<std::uint32_t>(order.size(), 7U));
        const std::size_t bytes = largest_workspace(at.place(), n);
        void* const workspace = bytes == 0 ? nullptr : at.put(std::vector<std::byte>(bytes));
        at.finish(select_largest(at.place(), at_x, at_error, n, k, values, positions, workspace));
        CHECK(at.get(positions, order.size()) == order);
        std::vector<float> chosen;
        std::vector<float> rest = sum;
        for (const std::uint32_t i : order) chosen.push_back(sum[i]), rest[i] = 0;
        CHECK(at.get(values, order.size()) == chosen);
        CHECK(at.get(at_error, sum.size()) == rest);
        at.finish(add_selected(at.place(), values, positions, k, at_error));
        CHECK(at.get(at_error, sum.size()) == sum);
        if (!coarse) continue;
        at.finish(select_largest(at.place(), at_x, nullptr, n, k, values, positions, workspace));
        CHECK(at.get(positions, order.size()) == order);
      }
    }
  }
}

TEST_CASE_TEMPLATE("an embedding is rows of its table, and its gradients are sums of theirs", Where, OnHost,
                   OnGpu) {
  Where at;
  if (!at.here()) return;
  constexpr std::int64_t kRows = 50;
  for (const std::int64_t dim : {1, 3, 4, 32, 33, 128, 513}) {
    for (const std::int64_t count : {1, 31, 33, 1000}) {
      for (const Element element : kElements) {
        CAPTURE(dim);
        CAPTURE(count);
        Matrix<Where> table(at, element, random_floats(static_cast<std::size_t>(kRows * dim), 41));
        std::vector<std::int64_t> ids;
        for (std::int64_t i = 0; i < count; ++i) ids.push_back(i % 3 == 0 ? 7 : i * i % kRows);
        const auto n = static_cast<std::size_t>(count * dim);
        float* const out = at.put(std::vector<float>(n, -7.0F));
        at.finish(embedding(at.place(), element, table.base(), at.put(ids), count, dim, out));
        Doubles expected(n, 0);
        for (std::size_t i = 0; i < n; ++i) {
          const auto row = static_cast<std::size_t>(ids[i / static_cast<std::size_t>(dim)] * dim);
          expected[i] = table.doubles[row + i % static_cast<std::size_t>(dim)];
        }
        CHECK(all_close(at.get(out, n), expected, 0));

        const auto given = random_floats(n, 42);
        const auto begun = random_floats(static_cast<std::size_t>(kRows * dim), 43);
        Doubles sums(begun.begin(), begun.end());
        for (std::size_t i = 0; i < n; ++i)
          sums[static_cast<std::size_t>(ids[i / static_cast<std::size_t>(dim)] * dim) +
               i % static_cast<std::size_t>(dim)] += double{given[i]};
        const float* const at_given = at.put(given);
        float* const gradients = at.put(begun);
        const std::size_t bytes = embedding_workspace(at.place(), at_given, count, kRows, dim, gradients);
        void* const workspace = bytes == 0 ? nullptr : at.put(std::vector<std::byte>(bytes));
        at.finish(embedding_backward(at.place(), at.put(ids), at_given, count, kRows, dim, gradients,
                                     workspace, bytes));
        CHECK(all_close(at.get(gradients, sums.size()), sums, 5e-5));
      }
    }
  }
}
