#pragma once

#include <cstdint>

/// Arithmetic on vectors and on rows of matrices, float32, row-major and contiguous.
///
/// A complex row of `dim` numbers is 2 * dim floats: the real parts, then the imaginary parts.
/// An output may be exactly one of the inputs (same address); any other overlap is not allowed.
/// Every function may be called from any thread at once on different outputs. Sizes are not negative.
namespace troupe::kernels {

/// out[n] = value.
void fill(float value, std::int64_t n, float* out);

/// out[n] = alpha * x[n].
void scale(const float* x, std::int64_t n, float alpha, float* out);

/// out[n] = a[n] + b[n].
void add(const float* a, const float* b, std::int64_t n, float* out);

/// out[i, j] = exp(x[i, j] - l_i), with l_i = log(sum_j exp(x[i, j])) for each of `rows` rows; l_i goes to
/// log_sum_exp[rows] unless that is null. The row's maximum is subtracted first, so nothing overflows.
/// An element of -infinity gets probability 0; a row of nothing else gets NaN. With 0 columns l_i is
/// -infinity.
void softmax_rows(const float* x, std::int64_t rows, std::int64_t columns, float* out, float* log_sum_exp);

/// out = a ∘ b, element by element, on complex rows: a, b, out [rows, 2 * dim].
void complex_multiply(const float* a, const float* b, std::int64_t rows, std::int64_t dim, float* out);

/// out = conj(a) ∘ b. With s = Re(sum(h ∘ r ∘ conj(t))), ComplEx's score (Trouillon et al. 2016, eq. 11):
/// ds/dt = h ∘ r, ds/dh = conj(r) ∘ t, ds/dr = conj(h) ∘ t, where the gradient of a complex row holds the
/// derivatives by its real parts, then those by its imaginary parts.
void complex_multiply_conjugate(const float* a, const float* b, std::int64_t rows, std::int64_t dim,
                                float* out);

/// out += a ∘ b.
void complex_multiply_add(const float* a, const float* b, std::int64_t rows, std::int64_t dim, float* out);

/// out += conj(a) ∘ b.
void complex_multiply_conjugate_add(const float* a, const float* b, std::int64_t rows, std::int64_t dim,
                                    float* out);

/// penalty[i] = sum_j |x[i, j]|^3 over the complex moduli of row i: one factor's share of the nuclear
/// 3-norm regulariser (Lacroix, Usunier, Obozinski 2018, eq. 4), without its weight.
void n3_penalty_rows(const float* x, std::int64_t rows, std::int64_t dim, float* penalty);

/// gradient += weight * d(sum |x|^3)/dx = weight * 3 |x| x, on complex rows; gradient is not x.
void n3_gradient_rows(const float* x, std::int64_t rows, std::int64_t dim, float weight, float* gradient);

/// The sum of x[i]^2 over n elements.
float squared_l2_norm(const float* x, std::int64_t n);

/// out[i] = the sum of x[i, j]^2 over a row of dim elements.
void squared_l2_norm_rows(const float* x, std::int64_t rows, std::int64_t dim, float* out);

/// out[i, :] = x[i, :] / max(|x[i, :]|_2, epsilon), with epsilon > 0.
void normalize_rows(const float* x, std::int64_t rows, std::int64_t dim, float epsilon, float* out);

}  // namespace troupe::kernels
