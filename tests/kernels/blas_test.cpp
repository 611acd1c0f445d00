#include "troupe/kernels/blas.hpp"

#include <cstdlib>
#include <limits>
#include <string>

#include "support.hpp"

using namespace troupe::kernels;
using namespace troupe::kernels::testing;

namespace {

double product_at(const GuardedFloats& a, const GuardedFloats& b, bool transpose_a, bool transpose_b,
                  std::int64_t i, std::int64_t j, std::int64_t k, std::int64_t lda, std::int64_t ldb) {
  double sum = 0;
  for (std::int64_t p = 0; p < k; ++p) {
    sum += static_cast<double>(transpose_a ? a[p * lda + i] : a[i * lda + p]) *
           static_cast<double>(transpose_b ? b[j * ldb + p] : b[p * ldb + j]);
  }
  return sum;
}

void check_gemm(std::int64_t m, std::int64_t n, std::int64_t k, bool transpose_a, bool transpose_b) {
  CAPTURE(m);
  CAPTURE(n);
  CAPTURE(k);
  CAPTURE(transpose_a);
  CAPTURE(transpose_b);
  const std::int64_t padding = 3;  // leading dimensions need not be the row's length
  const std::int64_t lda = (transpose_a ? m : k) + padding;
  const std::int64_t ldb = (transpose_b ? k : n) + padding;
  const std::int64_t ldc = n + padding;
  GuardedFloats a((transpose_a ? k : m) * lda), b((transpose_b ? n : k) * ldb), c(m * ldc), before(m * ldc);
  randomize(a, 1), randomize(b, 2), randomize(before, 3);
  c.copy_from(before);
  gemm(transpose_a, transpose_b, m, n, k, 0.5F, a.data(), lda, b.data(), ldb, -2.0F, c.data(), ldc);
  const auto expected = [&](std::int64_t at) {
    const std::int64_t i = at / ldc;
    const std::int64_t j = at % ldc;
    if (j >= n) return static_cast<double>(before[at]);
    return 0.5 * product_at(a, b, transpose_a, transpose_b, i, j, k, lda, ldb) - 2.0 * before[at];
  };
  CHECK(first_difference(c, expected, 1e-4) == -1);
}

TEST_CASE("blas: who has chosen OpenBLAS's code keeps it") {
  const char* const before = std::getenv("OPENBLAS_CORETYPE");
  const std::string kept = before ? before : "";
  setenv("OPENBLAS_CORETYPE", "Haswell", 1);
  CHECK(better_blas_core().empty());
  unsetenv("OPENBLAS_CORETYPE");
  const std::string better = better_blas_core();
  CAPTURE(better);
  CHECK((better.empty() || better == "SkylakeX" || better == "Haswell"));
  if (before) setenv("OPENBLAS_CORETYPE", kept.c_str(), 1);
}

}  // namespace

TEST_CASE("gemm is the matrix product for every transposition and padded rows") {
  for (const bool transpose_a : {false, true}) {
    for (const bool transpose_b : {false, true}) {
      for (const std::int64_t n : {0, 1, 3, 16, 33, 100}) check_gemm(17, n, 31, transpose_a, transpose_b);
      check_gemm(0, 5, 7, transpose_a, transpose_b);
      check_gemm(1, 1, 1, transpose_a, transpose_b);
      check_gemm(4, 6, 0, transpose_a, transpose_b);
    }
  }
}

TEST_CASE("gemm and gemv with beta 0 do not read their output") {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  for (const std::int64_t k : {0, 5}) {
    CAPTURE(k);
    GuardedFloats a(4 * 5, 1.0F), b(5 * 3, 2.0F), c(4 * 3, nan), y(4, nan);
    gemm(false, false, 4, 3, k, 1.0F, a.data(), 5, b.data(), 3, 0.0F, c.data(), 3);
    CHECK(first_difference(c, [&](std::int64_t) { return 2.0 * static_cast<double>(k); }) == -1);
    gemv(false, 4, k, 1.0F, a.data(), 5, b.data(), 0.0F, y.data());
    CHECK(first_difference(y, [&](std::int64_t) { return 2.0 * static_cast<double>(k); }) == -1);
  }
}

TEST_CASE("gemv is the matrix-vector product, plain and transposed") {
  for (const std::int64_t m : {1, 7, 33}) {
    for (const std::int64_t n : {1, 16, 100}) {
      for (const bool transpose : {false, true}) {
        CAPTURE(m);
        CAPTURE(n);
        CAPTURE(transpose);
        GuardedFloats a(m * n), x(transpose ? m : n), y(transpose ? n : m, 1.0F);
        randomize(a, 4), randomize(x, 5);
        gemv(transpose, m, n, 2.0F, a.data(), n, x.data(), 3.0F, y.data());
        const auto expected = [&](std::int64_t i) {
          double sum = 0;
          for (std::int64_t p = 0; p < x.size(); ++p) {
            sum += static_cast<double>(transpose ? a[p * n + i] : a[i * n + p]) * x[p];
          }
          return 2.0 * sum + 3.0;
        };
        CHECK(first_difference(y, expected, 1e-5) == -1);
      }
    }
  }
}

TEST_CASE("dot and axpy hold for all sizes") {
  for (const std::int64_t n : kSizes) {
    CAPTURE(n);
    GuardedFloats x(n), y(n), sum(n);
    randomize(x, 6), randomize(y, 7);
    double expected = 0;
    for (std::int64_t i = 0; i < n; ++i) expected += static_cast<double>(x[i]) * y[i];
    CHECK(dot(n, x.data(), y.data()) == doctest::Approx(expected).epsilon(1e-4));
    sum.copy_from(y);
    axpy(n, -1.5F, x.data(), sum.data());
    CHECK(first_difference(sum, [&](std::int64_t i) { return y[i] - 1.5 * x[i]; }) == -1);
  }
}

TEST_CASE("products are the same with another number of threads") {
  set_blas_threads(1);
  check_gemm(64, 200, 100, false, true);
  set_blas_threads(2);
  check_gemm(64, 200, 100, false, true);
}
