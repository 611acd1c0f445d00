#include "troupe/kernels/elementwise.hpp"

#include <cassert>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "elementwise.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "simd-inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace troupe::kernels::HWY_NAMESPACE {

void fill(float value, std::int64_t n, float* out) {
  const Floats values = hn::Set(FloatTag(), value);
  for_blocks<4>(n, [=](auto block, std::int64_t i, int) TROUPE_SIMD_LAMBDA { block.store(values, out + i); });
}

void scale(const float* x, std::int64_t n, float alpha, float* out) {
  const Floats factor = hn::Set(FloatTag(), alpha);
  for_blocks<4>(n, [=](auto block, std::int64_t i, int)
                       TROUPE_SIMD_LAMBDA { block.store(hn::Mul(factor, block.load(x + i)), out + i); });
}

void add(const float* a, const float* b, std::int64_t n, float* out) {
  for_blocks<4>(n, [=](auto block, std::int64_t i, int) TROUPE_SIMD_LAMBDA {
    block.store(hn::Add(block.load(a + i), block.load(b + i)), out + i);
  });
}

// One body for the four products: kConjugate takes conj(a), kAdd adds to what out holds.
template <bool kConjugate, bool kAdd>
void complex_product(const float* a, const float* b, std::int64_t rows, std::int64_t dim, float* out) {
  for (std::int64_t row = 0; row < rows; ++row, a += 2 * dim, b += 2 * dim, out += 2 * dim) {
    for_blocks<2>(dim, [=](auto block, std::int64_t i, int) TROUPE_SIMD_LAMBDA {
      const Floats a_real = block.load(a + i);
      const Floats a_imaginary = block.load(a + dim + i);
      const Floats b_real = block.load(b + i);
      const Floats b_imaginary = block.load(b + dim + i);
      Floats real = hn::Mul(a_real, b_real);
      Floats imaginary = hn::Mul(a_real, b_imaginary);
      if constexpr (kConjugate) {
        real = hn::MulAdd(a_imaginary, b_imaginary, real);
        imaginary = hn::NegMulAdd(a_imaginary, b_real, imaginary);
      } else {
        real = hn::NegMulAdd(a_imaginary, b_imaginary, real);
        imaginary = hn::MulAdd(a_imaginary, b_real, imaginary);
      }
      if constexpr (kAdd) {
        real = hn::Add(real, block.load(out + i));
        imaginary = hn::Add(imaginary, block.load(out + dim + i));
      }
      block.store(real, out + i);
      block.store(imaginary, out + dim + i);
    });
  }
}

void complex_multiply(const float* a, const float* b, std::int64_t rows, std::int64_t dim, float* out) {
  complex_product<false, false>(a, b, rows, dim, out);
}
void complex_multiply_conjugate(const float* a, const float* b, std::int64_t rows, std::int64_t dim,
                                float* out) {
  complex_product<true, false>(a, b, rows, dim, out);
}
void complex_multiply_add(const float* a, const float* b, std::int64_t rows, std::int64_t dim, float* out) {
  complex_product<false, true>(a, b, rows, dim, out);
}
void complex_multiply_conjugate_add(const float* a, const float* b, std::int64_t rows, std::int64_t dim,
                                    float* out) {
  complex_product<true, true>(a, b, rows, dim, out);
}

HWY_INLINE Floats squared_modulus(Floats real, Floats imaginary) {
  return hn::MulAdd(real, real, hn::Mul(imaginary, imaginary));
}

void n3_penalty_rows(const float* x, std::int64_t rows, std::int64_t dim, float* penalty) {
  for (std::int64_t row = 0; row < rows; ++row, x += 2 * dim) {
    const Floats zero = hn::Zero(FloatTag());
    Floats sums[4] = {zero, zero, zero, zero};
    for_blocks<2>(dim, [x, dim, &sums](auto block, std::int64_t i, int chain) TROUPE_SIMD_LAMBDA {
      const Floats square = squared_modulus(block.load(x + i), block.load(x + dim + i));
      sums[chain] = hn::MulAdd(square, hn::Sqrt(square), sums[chain]);
    });
    penalty[row] = sum_chains(sums);
  }
}

void n3_gradient_rows(const float* x, std::int64_t rows, std::int64_t dim, float weight, float* gradient) {
  const Floats factor = hn::Set(FloatTag(), 3.0F * weight);
  for (std::int64_t row = 0; row < rows; ++row, x += 2 * dim, gradient += 2 * dim) {
    for_blocks<2>(dim, [=](auto block, std::int64_t i, int) TROUPE_SIMD_LAMBDA {
      const Floats real = block.load(x + i);
      const Floats imaginary = block.load(x + dim + i);
      const Floats slope = hn::Mul(factor, hn::Sqrt(squared_modulus(real, imaginary)));
      block.store(hn::MulAdd(slope, real, block.load(gradient + i)), gradient + i);
      block.store(hn::MulAdd(slope, imaginary, block.load(gradient + dim + i)), gradient + dim + i);
    });
  }
}

float squared_l2_norm(const float* x, std::int64_t n) {
  const Floats zero = hn::Zero(FloatTag());
  Floats sums[4] = {zero, zero, zero, zero};
  for_blocks<4>(n, [x, &sums](auto block, std::int64_t i, int chain) TROUPE_SIMD_LAMBDA {
    const Floats value = block.load(x + i);
    sums[chain] = hn::MulAdd(value, value, sums[chain]);
  });
  return sum_chains(sums);
}

void squared_l2_norm_rows(const float* x, std::int64_t rows, std::int64_t dim, float* out) {
  for (std::int64_t row = 0; row < rows; ++row) out[row] = squared_l2_norm(x + row * dim, dim);
}

void normalize_rows(const float* x, std::int64_t rows, std::int64_t dim, float epsilon, float* out) {
  for (std::int64_t row = 0; row < rows; ++row, x += dim, out += dim) {
    const float norm = __builtin_sqrtf(squared_l2_norm(x, dim));
    scale(x, dim, 1.0F / HWY_MAX(norm, epsilon), out);
  }
}

}  // namespace troupe::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace troupe::kernels {

HWY_EXPORT(fill);
HWY_EXPORT(scale);
HWY_EXPORT(add);
HWY_EXPORT(complex_multiply);
HWY_EXPORT(complex_multiply_conjugate);
HWY_EXPORT(complex_multiply_add);
HWY_EXPORT(complex_multiply_conjugate_add);
HWY_EXPORT(n3_penalty_rows);
HWY_EXPORT(n3_gradient_rows);
HWY_EXPORT(squared_l2_norm);
HWY_EXPORT(squared_l2_norm_rows);
HWY_EXPORT(normalize_rows);

void fill(float value, std::int64_t n, float* out) {
  HWY_DYNAMIC_DISPATCH(fill)(value, n, out);
}

void scale(const float* x, std::int64_t n, float alpha, float* out) {
  HWY_DYNAMIC_DISPATCH(scale)(x, n, alpha, out);
}

void add(const float* a, const float* b, std::int64_t n, float* out) {
  HWY_DYNAMIC_DISPATCH(add)(a, b, n, out);
}

void complex_multiply(const float* a, const float* b, std::int64_t rows, std::int64_t dim, float* out) {
  HWY_DYNAMIC_DISPATCH(complex_multiply)(a, b, rows, dim, out);
}

void complex_multiply_conjugate(const float* a, const float* b, std::int64_t rows, std::int64_t dim,
                                float* out) {
  HWY_DYNAMIC_DISPATCH(complex_multiply_conjugate)(a, b, rows, dim, out);
}

void complex_multiply_add(const float* a, const float* b, std::int64_t rows, std::int64_t dim, float* out) {
  HWY_DYNAMIC_DISPATCH(complex_multiply_add)(a, b, rows, dim, out);
}

void complex_multiply_conjugate_add(const float* a, const float* b, std::int64_t rows, std::int64_t dim,
                                    float* out) {
  HWY_DYNAMIC_DISPATCH(complex_multiply_conjugate_add)(a, b, rows, dim, out);
}

void n3_penalty_rows(const float* x, std::int64_t rows, std::int64_t dim, float* penalty) {
  HWY_DYNAMIC_DISPATCH(n3_penalty_rows)(x, rows, dim, penalty);
}

void n3_gradient_rows(const float* x, std::int64_t rows, std::int64_t dim, float weight, float* gradient) {
  assert(x != gradient || dim == 0 || rows == 0);
  HWY_DYNAMIC_DISPATCH(n3_gradient_rows)(x, rows, dim, weight, gradient);
}

float squared_l2_norm(const float* x, std::int64_t n) {
  return HWY_DYNAMIC_DISPATCH(squared_l2_norm)(x, n);
}

void squared_l2_norm_rows(const float* x, std::int64_t rows, std::int64_t dim, float* out) {
  HWY_DYNAMIC_DISPATCH(squared_l2_norm_rows)(x, rows, dim, out);
}

void normalize_rows(const float* x, std::int64_t rows, std::int64_t dim, float epsilon, float* out) {
  assert(epsilon > 0.0F);
  HWY_DYNAMIC_DISPATCH(normalize_rows)(x, rows, dim, epsilon, out);
}

}  // namespace troupe::kernels
#endif
