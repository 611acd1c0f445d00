// What the host's layers do, on each instruction set, in memory that ends at an unreadable page; what they
// are to give on rows of all kinds is tested with the GPU's in tests/gpu.
#include "troupe/kernels/dense.hpp"

#include "support.hpp"
#include "troupe/kernels/dropout.hpp"

using namespace troupe::kernels;
using namespace troupe::kernels::testing;

namespace {

constexpr std::int64_t kRows = 6;
constexpr Element kFloat = Element::kFloat32;

double gelu_tanh(double u) {
  return u / 2 * (1 + std::tanh(std::sqrt(2 / std::acos(-1.0)) * (u + 0.044715 * u * u * u)));
}

}  // namespace

TEST_CASE("layers on each instruction set: cross entropy, norms, GELU, sums") {
  const Place host = Place::host();
  for (const std::int64_t columns : kSizes) {
    if (columns == 0) continue;
    CAPTURE(columns);
    GuardedFloats x(kRows * columns);
    GuardedFloats given(kRows * columns);
    GuardedFloats bias(columns);
    randomize(x, 1, -6, 6);
    randomize(given, 2);
    randomize(bias, 3);
    on_each_target([&] {
      GuardedFloats out(kRows * columns);
      GuardedFloats sums(columns);
      GuardedFloats others(columns);
      GuardedFloats means(kRows);
      GuardedFloats deviations(kRows);
      fill_with_garbage(out);
      fill_with_garbage(sums);
      REQUIRE(gelu(host, kFloat, x.data(), bias.data(), kRows, columns, out.data(), GeluKind::kTanh).ok());
      CHECK(first_difference(out, [&](std::int64_t i) {
              return gelu_tanh(double{x[i]} + double{bias[i % columns]});
            }) < 0);
      REQUIRE(gelu_backward(host, kFloat, x.data(), nullptr, given.data(), kRows, columns, out.data(),
                            GeluKind::kTanh)
                  .ok());
      CHECK(first_difference(
                out,
                [&](std::int64_t i) {
                  const double u{x[i]};
                  return double{given[i]} * (gelu_tanh(u + 1e-5) - gelu_tanh(u - 1e-5)) / 2e-5;
                },
                1e-5) < 0);
      REQUIRE(column_sums(host, kFloat, x.data(), kRows, columns, sums.data(), nullptr).ok());
      CHECK(first_difference(sums, [&](std::int64_t j) {
              double sum = 0;
              for (std::int64_t r = 0; r < kRows; ++r) sum += double{x[r * columns + j]};
              return sum;
            }) < 0);
      REQUIRE(add_residual(host, kFloat, given.data(), x.data(), bias.data(), kRows, columns, {}, out.data())
                  .ok());
      CHECK(first_difference(out, [&](std::int64_t i) {
              return double{x[i]} + double{given[i]} + double{bias[i % columns]};
            }) < 0);
      const std::vector<std::int64_t> labels{columns - 1, 0, -1, columns / 2, 0, columns - 1};
      GuardedFloats losses(kRows);
      REQUIRE(softmax_cross_entropy(host, kFloat, x.data(), labels.data(), kRows, columns, 1, losses.data(),
                                    out.data())
                  .ok());
      for (std::int64_t r = 0; r < kRows; ++r) {
        double sum = 0;
        double gradients = 0;
        for (std::int64_t j = 0; j < columns; ++j) {
          sum += std::exp(double{x[r * columns + j]});
          gradients += double{out[r * columns + j]};
        }
        const std::int64_t label = labels[static_cast<std::size_t>(r)];
        CHECK(close(losses[r], label < 0 ? 0 : std::log(sum) - double{x[r * columns + label]}, 1e-5));
        CHECK(close(gradients, 0, 1e-5));
      }
      REQUIRE(layer_norm(host, kFloat, x.data(), kRows, columns, bias.data(), bias.data(), 0.5F, out.data(),
                         means.data(), deviations.data())
                  .ok());
      for (std::int64_t r = 0; r < kRows; ++r) {
        double mean = 0;
        double variance = 0;
        for (std::int64_t j = 0; j < columns; ++j) mean += double{x[r * columns + j]} / double(columns);
        for (std::int64_t j = 0; j < columns; ++j)
          variance += std::pow(double{x[r * columns + j]} - mean, 2) / double(columns);
        CHECK(close(means[r], mean, 1e-5));
        CHECK(close(deviations[r], 1 / std::sqrt(variance + 0.5), 1e-5));
      }
      REQUIRE(layer_norm_backward(host, kFloat, x.data(), given.data(), kRows, columns, bias.data(),
                                  means.data(), deviations.data(), out.data(), sums.data(), others.data(),
                                  nullptr)
                  .ok());
      // Neither a constant nor x itself, added to x, changes what comes out, but for epsilon.
      for (std::int64_t r = 0; r < kRows; ++r) {
        double sum = 0;
        for (std::int64_t j = 0; j < columns; ++j) sum += double{out[r * columns + j]};
        CHECK(close(sum, 0, 1e-4));
      }
    });
  }
}
