// Dropout, on the host and on a GPU: what it drops, and that both drop the same.
#include <troupe/kernels/dropout.hpp>

#include <algorithm>

#include "matrix.hpp"
#include "places.hpp"

using namespace troupe::kernels;
using namespace troupe::test;

namespace {

std::vector<float> factors_on_host(std::int64_t n, Dropout dropout) {
  std::vector<float> ones(static_cast<std::size_t>(n), 1.0F);
  REQUIRE(drop(Place::host(), Element::kFloat32, ones.data(), n, dropout, ones.data()).ok());
  return ones;
}

}  // namespace

TEST_CASE_TEMPLATE("dropout drops its share, divides the rest, and the same everywhere", Where, OnHost,
                   OnGpu) {
  Where at;
  if (!at.here()) return;
  constexpr std::int64_t kN = 100'000;
  const Dropout dropout{0.2F, 12345};
  float* const ones = at.put(std::vector<float>(kN, 1.0F));
  at.finish(drop(at.place(), Element::kFloat32, ones, kN, dropout, ones));
  const std::vector<float> factors = at.get(ones, kN);
  CHECK(factors == factors_on_host(kN, dropout));
  const auto dropped = std::count(factors.begin(), factors.end(), 0.0F);
  CHECK(dropped > kN / 5 - 1000);
  CHECK(dropped < kN / 5 + 1000);
  CHECK(std::count(factors.begin(), factors.end(), 1.25F) == kN - dropped);
  // Whether one is dropped says nothing of the next one, nor of the same one for another seed.
  const std::vector<float> others = factors_on_host(kN, {0.2F, 12346});
  std::int64_t both = 0;
  std::int64_t twice = 0;
  for (std::size_t i = 1; i < factors.size(); ++i) {
    both += factors[i] == 0 && others[i] == 0 ? 1 : 0;
    twice += factors[i] == 0 && factors[i - 1] == 0 ? 1 : 0;
  }
  CHECK(std::abs(both - kN / 25) < 500);
  CHECK(std::abs(twice - kN / 25) < 500);
}

TEST_CASE_TEMPLATE("a residual gets what is left of x and its bias", Where, OnHost, OnGpu) {
  Where at;
  if (!at.here()) return;
  for (const Element element : kElements) {
    for (const std::int64_t columns : {1, 3, 4, 33, 256, 1028}) {
      CAPTURE(static_cast<int>(element));
      CAPTURE(columns);
      constexpr std::int64_t kRows = 5;
      const auto n = static_cast<std::size_t>(kRows * columns);
      const Dropout dropout{0.5F, 77};
      Matrix<Where> x(at, element, random_floats(n, 21));
      Matrix<Where> residual(at, element, random_floats(n, 22));
      Matrix<Where> out(at, element, std::vector<float>(n, -7.0F));
      const auto bias = random_floats(static_cast<std::size_t>(columns), 23);
      const auto factors = factors_on_host(kRows * columns, dropout);
      Doubles all, some, kept;
      for (std::size_t i = 0; i < n; ++i) {
        const double sum = x.doubles[i] + double{bias[i % bias.size()]};
        all.push_back(residual.doubles[i] + sum);
        some.push_back(residual.doubles[i] + sum * double{factors[i]});
        kept.push_back(x.doubles[i] * double{factors[i]});
      }
      const float* const at_bias = at.put(bias);
      at.finish(add_residual(at.place(), element, residual.base(), x.base(), at_bias, kRows, columns, {},
                             out.base()));
      CHECK(all_close(out.get(), all, tolerance_of(element)));
      at.finish(add_residual(at.place(), element, residual.base(), x.base(), at_bias, kRows, columns, dropout,
                             residual.base()));
      CHECK(all_close(residual.get(), some, tolerance_of(element)));
      at.finish(drop(at.place(), element, x.base(), kRows * columns, dropout, x.base()));
      CHECK(all_close(x.get(), kept, tolerance_of(element)));
    }
  }
}
