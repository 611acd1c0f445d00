#include "troupe/kernels/blas.hpp"

#include <cblas.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cassert>
#include <cstdlib>
#include <limits>
#include <string_view>

namespace troupe::kernels {
namespace {

blasint blas_size(std::int64_t value) {
  assert(value >= 0 && value <= std::numeric_limits<blasint>::max());
  return static_cast<blasint>(value);
}

// BLAS demands a leading dimension of at least one, even of an empty matrix.
blasint blas_stride(std::int64_t value) {
  return std::max<blasint>(blas_size(value), 1);
}

// BLAS leaves y alone when the inner size is 0; ours is then y = beta * y as the sum would say.
void scale_output(std::int64_t n, float beta, float* y) {
  if (beta == 0.0F) {
    std::fill_n(y, n, 0.0F);
  } else {
    for (std::int64_t i = 0; i < n; ++i) y[i] *= beta;
  }
}

}  // namespace

void gemm(bool transpose_a, bool transpose_b, std::int64_t m, std::int64_t n, std::int64_t k, float alpha,
          const float* a, std::int64_t lda, const float* b, std::int64_t ldb, float beta, float* c,
          std::int64_t ldc) {
  assert(lda >= (transpose_a ? m : k) && ldb >= (transpose_b ? k : n) && ldc >= n);
  if (m == 0 || n == 0) return;
  if (k == 0) {
    for (std::int64_t i = 0; i < m; ++i) scale_output(n, beta, c + i * ldc);
    return;
  }
  cblas_sgemm(CblasRowMajor, transpose_a ? CblasTrans : CblasNoTrans, transpose_b ? CblasTrans : CblasNoTrans,
              blas_size(m), blas_size(n), blas_size(k), alpha, a, blas_stride(lda), b, blas_stride(ldb), beta,
              c, blas_stride(ldc));
}

void gemv(bool transpose_a, std::int64_t m, std::int64_t n, float alpha, const float* a, std::int64_t lda,
          const float* x, float beta, float* y) {
  assert(lda >= n);
  const std::int64_t inner = transpose_a ? m : n;
  const std::int64_t outer = transpose_a ? n : m;
  if (outer == 0) return;
  if (inner == 0) {
    scale_output(outer, beta, y);
    return;
  }
  cblas_sgemv(CblasRowMajor, transpose_a ? CblasTrans : CblasNoTrans, blas_size(m), blas_size(n), alpha, a,
              blas_stride(lda), x, 1, beta, y, 1);
}

float dot(std::int64_t n, const float* x, const float* y) {
  return cblas_sdot(blas_size(n), x, 1, y, 1);
}

void axpy(std::int64_t n, float alpha, const float* x, float* y) {
  cblas_saxpy(blas_size(n), alpha, x, 1, y, 1);
}

void set_blas_threads(int count) {
  assert(count >= 1);
  openblas_set_num_threads(count);
}

std::string better_blas_core() {
  constexpr std::string_view kOldest = "Prescott";
  if (std::getenv("OPENBLAS_CORETYPE") || openblas_get_corename() != kOldest) return {};
#ifdef __x86_64__
  __builtin_cpu_init();
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return {};
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  return avx512 ? "SkylakeX" : "Haswell";
#else
  return {};
#endif
}

void restart_with_better_blas(char** argv) {
  const std::string core = better_blas_core();
  if (core.empty() || ::setenv("OPENBLAS_CORETYPE", core.c_str(), 0) != 0) return;
  std::array<char, 4096> path;
  const auto length = ::readlink("/proc/self/exe", path.data(), path.size() - 1);
  if (length <= 0) return;
  path[static_cast<std::size_t>(length)] = '\0';
  ::execv(path.data(), argv);
}

}  // namespace troupe::kernels
