#include "troupe/kernels/elementwise.hpp"

#include <complex>
#include <limits>

#include "support.hpp"

using namespace troupe::kernels;
using namespace troupe::kernels::testing;

namespace {

constexpr std::int64_t kRows = 3;

using Complex = std::complex<double>;

Complex at(const GuardedFloats& x, std::int64_t row, std::int64_t dim, std::int64_t i) {
  return {x[row * 2 * dim + i], x[row * 2 * dim + dim + i]};
}

// The float at `place` of complex rows whose number (row, i) is value(row, i).
template <class Value>
double part_at(std::int64_t place, std::int64_t dim, const Value& value) {
  const std::int64_t row = place / (2 * dim);
  const std::int64_t column = place % (2 * dim);
  const Complex number = value(row, column % dim);
  return column < dim ? number.real() : number.imag();
}

double log_sum_exp(const float* x, std::int64_t n) {
  double maximum = -std::numeric_limits<double>::infinity();
  for (std::int64_t i = 0; i < n; ++i) maximum = std::max<double>(maximum, x[i]);
  double sum = 0;
  for (std::int64_t i = 0; i < n; ++i) sum += std::exp(x[i] - maximum);
  return maximum + std::log(sum);
}

}  // namespace

TEST_CASE("fill, scale and add hold for all sizes, in place too") {
  on_each_target([] {
    for (const std::int64_t n : kSizes) {
      CAPTURE(n);
      GuardedFloats a(n), b(n), out(n, -7.0F);
      randomize(a, 1), randomize(b, 2);
      fill(3.5F, n, out.data());
      CHECK(first_difference(
                out, [](std::int64_t) { return 3.5; }, 0) == -1);
      scale(a.data(), n, -0.25F, out.data());
      CHECK(first_difference(
                out, [&](std::int64_t i) { return -0.25 * a[i]; }, 0) == -1);
      add(a.data(), b.data(), n, out.data());
      CHECK(first_difference(
                out, [&](std::int64_t i) { return a[i] + b[i]; }, 0) == -1);
      out.copy_from(a);
      add(out.data(), b.data(), n, out.data());
      scale(out.data(), n, 2.0F, out.data());
      CHECK(first_difference(
                out, [&](std::int64_t i) { return 2.0F * (a[i] + b[i]); }, 0) == -1);
    }
  });
}

TEST_CASE("softmax rows sum to one and agree with double precision, in place too") {
  on_each_target([] {
    for (const std::int64_t n : kSizes) {
      if (n == 0) continue;
      CAPTURE(n);
      GuardedFloats x(kRows * n), out(kRows * n), in_place(kRows * n), lse(kRows);
      randomize(x, 3, -20.0F, 20.0F);
      in_place.copy_from(x);
      softmax_rows(x.data(), kRows, n, out.data(), lse.data());
      softmax_rows(in_place.data(), kRows, n, in_place.data(), nullptr);
      const auto expected = [&](std::int64_t i) {
        return std::exp(x[i] - log_sum_exp(x.data() + i / n * n, n));
      };
      CHECK(first_difference(out, expected) == -1);
      CHECK(first_difference(
                in_place, [&](std::int64_t i) { return out[i]; }, 0) == -1);
      CHECK(first_difference(lse, [&](std::int64_t row) { return log_sum_exp(x.data() + row * n, n); }) ==
            -1);
    }
  });
}

TEST_CASE("softmax keeps its footing with huge, far apart and infinite logits") {
  const float infinity = std::numeric_limits<float>::infinity();
  on_each_target([=] {
    for (const std::int64_t n : {2, 9, 40}) {
      GuardedFloats x(n, -infinity), out(n), lse(1);
      x[n - 1] = 3e38F;
      x[0] = -3e38F;
      softmax_rows(x.data(), 1, n, out.data(), lse.data());
      CHECK(first_difference(
                out, [=](std::int64_t i) { return i == n - 1 ? 1.0 : 0.0; }, 0) == -1);
      CHECK(lse[0] == 3e38F);
    }
    GuardedFloats none(0), lse(2, 0.0F);
    softmax_rows(none.data(), 2, 0, none.data(), lse.data());
    CHECK(lse[0] == -infinity);
    CHECK(lse[1] == -infinity);
  });
}

TEST_CASE("complex products agree with std::complex, in place too") {
  on_each_target([] {
    for (const std::int64_t dim : kSizes) {
      CAPTURE(dim);
      const std::int64_t size = kRows * 2 * dim;
      GuardedFloats a(size), b(size), start(size), out(size);
      randomize(a, 4), randomize(b, 5), randomize(start, 6);
      const auto product = [&](std::int64_t row, std::int64_t i) {
        return at(a, row, dim, i) * at(b, row, dim, i);
      };
      const auto conjugate = [&](std::int64_t row, std::int64_t i) {
        return std::conj(at(a, row, dim, i)) * at(b, row, dim, i);
      };
      const auto plain = [&](const auto& value) {
        return [&](std::int64_t place) { return part_at(place, dim, value); };
      };
      const auto added = [&](const auto& value) {
        return [&](std::int64_t place) { return start[place] + part_at(place, dim, value); };
      };
      complex_multiply(a.data(), b.data(), kRows, dim, out.data());
      CHECK(first_difference(out, plain(product)) == -1);
      complex_multiply_conjugate(a.data(), b.data(), kRows, dim, out.data());
      CHECK(first_difference(out, plain(conjugate)) == -1);
      out.copy_from(start);
      complex_multiply_add(a.data(), b.data(), kRows, dim, out.data());
      CHECK(first_difference(out, added(product)) == -1);
      out.copy_from(start);
      complex_multiply_conjugate_add(a.data(), b.data(), kRows, dim, out.data());
      CHECK(first_difference(out, added(conjugate)) == -1);
      out.copy_from(a);
      complex_multiply_conjugate(out.data(), b.data(), kRows, dim, out.data());
      CHECK(first_difference(out, plain(conjugate)) == -1);
      out.copy_from(b);
      complex_multiply(a.data(), out.data(), kRows, dim, out.data());
      CHECK(first_difference(out, plain(product)) == -1);
    }
  });
}

TEST_CASE("the products give the derivatives of ComplEx's score") {
  // s(h, r, t) = Re(sum h r conj(t)): checked against central differences in double precision.
  constexpr std::int64_t dim = 5;
  GuardedFloats h(2 * dim), r(2 * dim), t(2 * dim), gradient(2 * dim);
  randomize(h, 7), randomize(r, 8), randomize(t, 9);
  const auto score = [&](const GuardedFloats* moved, std::int64_t place, double by) {
    const auto number = [&](const GuardedFloats& x, std::int64_t i) {
      Complex value = at(x, 0, dim, i);
      if (&x == moved && place % dim == i) value += place < dim ? Complex(by, 0) : Complex(0, by);
      return value;
    };
    double sum = 0;
    for (std::int64_t i = 0; i < dim; ++i)
      sum += (number(h, i) * number(r, i) * std::conj(number(t, i))).real();
    return sum;
  };
  const auto slope = [&](const GuardedFloats& x) {
    return [&](std::int64_t place) { return (score(&x, place, 1e-4) - score(&x, place, -1e-4)) / 2e-4; };
  };
  complex_multiply(h.data(), r.data(), 1, dim, gradient.data());
  CHECK(first_difference(gradient, slope(t), 1e-5) == -1);
  complex_multiply_conjugate(r.data(), t.data(), 1, dim, gradient.data());
  CHECK(first_difference(gradient, slope(h), 1e-5) == -1);
  complex_multiply_conjugate(h.data(), t.data(), 1, dim, gradient.data());
  CHECK(first_difference(gradient, slope(r), 1e-5) == -1);
}

TEST_CASE("the N3 penalty and its gradient hold for all sizes, at zero too") {
  on_each_target([] {
    for (const std::int64_t dim : kSizes) {
      CAPTURE(dim);
      GuardedFloats x(kRows * 2 * dim), start(kRows * 2 * dim), gradient(kRows * 2 * dim), penalty(kRows);
      randomize(x, 10), randomize(start, 11);
      if (dim > 0) x[0] = x[dim] = 0.0F;
      gradient.copy_from(start);
      n3_penalty_rows(x.data(), kRows, dim, penalty.data());
      n3_gradient_rows(x.data(), kRows, dim, 0.1F, gradient.data());
      CHECK(first_difference(penalty, [&](std::int64_t row) {
              double sum = 0;
              for (std::int64_t i = 0; i < dim; ++i) sum += std::pow(std::abs(at(x, row, dim, i)), 3);
              return sum;
            }) == -1);
      CHECK(first_difference(gradient, [&](std::int64_t place) {
              const auto slope = [&](std::int64_t row, std::int64_t i) {
                return 0.3 * std::abs(at(x, row, dim, i)) * at(x, row, dim, i);
              };
              return start[place] + part_at(place, dim, slope);
            }) == -1);
    }
  });
}

TEST_CASE("norms and normalised rows hold for all sizes, in place too") {
  on_each_target([] {
    for (const std::int64_t dim : kSizes) {
      CAPTURE(dim);
      GuardedFloats x(kRows * dim), norms(kRows), out(kRows * dim);
      randomize(x, 12);
      const auto squared = [&](std::int64_t row) {
        double sum = 0;
        for (std::int64_t i = 0; i < dim; ++i)
          sum += static_cast<double>(x[row * dim + i]) * x[row * dim + i];
        return sum;
      };
      squared_l2_norm_rows(x.data(), kRows, dim, norms.data());
      CHECK(first_difference(norms, squared) == -1);
      CHECK(close(squared_l2_norm(x.data(), dim), squared(0)));
      out.copy_from(x);
      normalize_rows(out.data(), kRows, dim, 1e-6F, out.data());
      CHECK(first_difference(out, [&](std::int64_t i) { return x[i] / std::sqrt(squared(i / dim)); }) == -1);
    }
    GuardedFloats zeros(5, 0.0F);
    normalize_rows(zeros.data(), 1, 5, 1e-6F, zeros.data());
    CHECK(first_difference(
              zeros, [](std::int64_t) { return 0.0; }, 0) == -1);
  });
}
