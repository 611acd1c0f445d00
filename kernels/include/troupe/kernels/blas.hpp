#pragma once

#include <cstdint>
#include <string>

/// Dense linear algebra in float32 over OpenBLAS. All matrices are row-major: element (i, j) of a matrix
/// with leading dimension ld lies at [i * ld + j].
///
/// Every function may be called from any thread at once; outputs of concurrent calls must not overlap.
/// Sizes and leading dimensions must be non-negative and fit in 31 bits (asserted). Outputs must not
/// overlap inputs. An empty product (k == 0) scales the output by beta; with beta == 0 the output is
/// written without being read, so that it may hold anything before.
namespace troupe::kernels {

/// c[m, n] = alpha * op(a)[m, k] * op(b)[k, n] + beta * c, with op(x) = x or its transpose.
/// a is stored [m, k] (lda >= k), or [k, m] (lda >= m) if transpose_a; b is stored [k, n] (ldb >= n), or
/// [n, k] (ldb >= k) if transpose_b; ldc >= n.
void gemm(bool transpose_a, bool transpose_b, std::int64_t m, std::int64_t n, std::int64_t k, float alpha,
          const float* a, std::int64_t lda, const float* b, std::int64_t ldb, float beta, float* c,
          std::int64_t ldc);

/// y = alpha * op(a) * x + beta * y, with a stored [m, n] (lda >= n). Without transpose x has n elements
/// and y has m; with it x has m and y has n.
void gemv(bool transpose_a, std::int64_t m, std::int64_t n, float alpha, const float* a, std::int64_t lda,
          const float* x, float beta, float* y);

/// The sum of x[i] * y[i] over n elements. x and y may be the same.
float dot(std::int64_t n, const float* x, const float* y);

/// y += alpha * x over n elements. x may be y itself, but must not overlap it otherwise.
void axpy(std::int64_t n, float alpha, const float* x, float* y);

/// How many threads gemm and gemv may use, for the whole process: OpenBLAS has one pool. Call it at the
/// start of a program, not while products run. A worker that shares its cores with others wants 1.
void set_blas_threads(int count);

/// OpenBLAS chooses its code by the processor's model when the process starts, and takes its oldest, of SSE3,
/// for models that are newer than itself: a fifth of what they can do. The name under which the environment's
/// OPENBLAS_CORETYPE makes it choose better; empty if it has chosen well, or somebody has chosen already.
std::string better_blas_core();

/// If there is a better_blas_core(), starts the program anew with it. For the first line of main(); returns
/// if nothing is to be done, or cannot be.
void restart_with_better_blas(char** argv);

}  // namespace troupe::kernels
