#include "troupe/kernels/optimizer.hpp"

#include <cassert>
#include <cmath>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "optimizer.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>
// Highway's own order: its maths after highway.h.
#include <hwy/contrib/math/math-inl.h>

#include "simd-inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace troupe::kernels::HWY_NAMESPACE {

// Calls step(row, gradient) for each row, while the next rows' `row_floats` floats are on their way.
template <class Step>
HWY_INLINE void for_rows(float* const* rows, const float* gradients, std::int64_t count, std::int64_t dim,
                         std::int64_t row_floats, const Step& step) {
  const std::int64_t row_bytes = row_floats * static_cast<std::int64_t>(sizeof(float));
  const std::int64_t distance = prefetch_distance(row_bytes);
  for (std::int64_t i = 0; i < HWY_MIN(distance, count); ++i) prefetch_bytes(rows[i], row_bytes);
  for (std::int64_t i = 0; i < count; ++i) {
    if (i + distance < count) prefetch_bytes(rows[i + distance], row_bytes);
    step(rows[i], gradients + i * dim, i);
  }
}

void sgd_rows(float* const* rows, const float* gradients, std::int64_t count, std::int64_t dim,
              const Sgd& options) {
  const Floats rate = hn::Set(FloatTag(), options.learning_rate);
  // w - rate * (g + decay * w) = keep * w - rate * g
  const Floats keep = hn::Set(FloatTag(), 1.0F - options.learning_rate * options.weight_decay);
  for_rows(rows, gradients, count, dim, dim,
           [=](float* weights, const float* gradient, std::int64_t) TROUPE_SIMD_LAMBDA {
             for_blocks<4>(dim, [=](auto block, std::int64_t i, int) TROUPE_SIMD_LAMBDA {
               const Floats kept = hn::Mul(keep, block.load(weights + i));
               block.store(hn::NegMulAdd(rate, block.load(gradient + i), kept), weights + i);
             });
           });
}

// numerator / (sqrt(square) + epsilon). AVX-512's estimate of a reciprocal is good to 2^-14, so that one
// Newton step gives float precision for less than its division, which would bound steps on rows in cache.
// (Estimating the root's reciprocal too was measured: no faster in cache, and slower from memory.)
HWY_INLINE Floats over_root(Floats numerator, Floats square, Floats epsilon) {
  const Floats denominator = hn::Add(hn::Sqrt(square), epsilon);
#if HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_AVX3_DL
  const Floats reciprocal = hn::ApproximateReciprocal(denominator);
  const Floats correction = hn::NegMulAdd(denominator, reciprocal, hn::Set(FloatTag(), 2.0F));
  return hn::Mul(numerator, hn::Mul(reciprocal, correction));
#else
  return hn::Div(numerator, denominator);
#endif
}

void adagrad_rows(float* const* rows, const float* gradients, std::int64_t count, std::int64_t dim,
                  const Adagrad& options) {
  const Floats rate = hn::Set(FloatTag(), options.learning_rate);
  const Floats epsilon = hn::Set(FloatTag(), options.epsilon);
  for_rows(rows, gradients, count, dim, 2 * dim,
           [=](float* weights, const float* gradient, std::int64_t) TROUPE_SIMD_LAMBDA {
             float* squares = weights + dim;
             for_blocks<2>(dim, [=](auto block, std::int64_t i, int) TROUPE_SIMD_LAMBDA {
               const Floats g = block.load(gradient + i);
               const Floats square = hn::MulAdd(g, g, block.load(squares + i));
               const Floats step = over_root(hn::Mul(rate, g), square, epsilon);
               block.store(square, squares + i);
               block.store(hn::Sub(block.load(weights + i), step), weights + i);
             });
           });
}

// One row's Adam step. With c1 = 1 - beta1^t, c2 = 1 - beta2^t the step is rate * (m / c1) /
// (sqrt(v / c2) + epsilon) = (rate * sqrt(c2) / c1) * m / (sqrt(v) + epsilon * sqrt(c2)).
HWY_INLINE void adam_step(float* weights, const float* gradient, std::int64_t dim, const Adam& options,
                          float correction1, float correction2) {
  const float root2 = __builtin_sqrtf(correction2);
  const Floats rate = hn::Set(FloatTag(), options.learning_rate * root2 / correction1);
  const Floats epsilon = hn::Set(FloatTag(), options.epsilon * root2);
  const Floats beta1 = hn::Set(FloatTag(), options.beta1);
  const Floats beta2 = hn::Set(FloatTag(), options.beta2);
  const Floats rest1 = hn::Set(FloatTag(), 1.0F - options.beta1);
  const Floats rest2 = hn::Set(FloatTag(), 1.0F - options.beta2);
  float* means = weights + dim;
  float* squares = weights + 2 * dim;
  for_blocks<2>(dim, [=](auto block, std::int64_t i, int) TROUPE_SIMD_LAMBDA {
    const Floats g = block.load(gradient + i);
    const Floats mean = hn::MulAdd(beta1, block.load(means + i), hn::Mul(rest1, g));
    const Floats square = hn::MulAdd(beta2, block.load(squares + i), hn::Mul(rest2, hn::Mul(g, g)));
    const Floats step = over_root(hn::Mul(rate, mean), square, epsilon);
    block.store(mean, means + i);
    block.store(square, squares + i);
    block.store(hn::Sub(block.load(weights + i), step), weights + i);
  });
}

void adam_rows_at_step(float* const* rows, const float* gradients, std::int64_t count, std::int64_t dim,
                       const Adam& options, float correction1, float correction2) {
  for_rows(rows, gradients, count, dim, 3 * dim,
           [&](float* weights, const float* gradient, std::int64_t)
               TROUPE_SIMD_LAMBDA { adam_step(weights, gradient, dim, options, correction1, correction2); });
}

// Rows whose corrections are worked out together: a vector of the widest target.
constexpr std::int64_t kAdamBlock = 16;

// out[r] = 1 - beta^steps[r] for kAdamBlock rows, without the cancellation near beta = 1.
HWY_INLINE void bias_corrections(const float* steps, float log_beta, float* out) {
  for_blocks<1>(kAdamBlock, [=](auto block, std::int64_t i, int) TROUPE_SIMD_LAMBDA {
    const Floats exponent = hn::Mul(hn::Set(FloatTag(), log_beta), block.load(steps + i));
    block.store(hn::Neg(hn::Expm1(FloatTag(), exponent)), out + i);
  });
}

void adam_rows(float* const* rows, const float* gradients, std::int64_t count, std::int64_t dim,
               const Adam& options, float log_beta1, float log_beta2) {
  float steps[kAdamBlock] = {};
  float corrections1[kAdamBlock];
  float corrections2[kAdamBlock];
  for (std::int64_t i = 0; i < HWY_MIN(kAdamBlock, count); ++i) __builtin_prefetch(rows[i] + 3 * dim);
  for_rows(rows, gradients, count, dim, 3 * dim + 1,
           [&](float* weights, const float* gradient, std::int64_t i) TROUPE_SIMD_LAMBDA {
             const std::int64_t place = i % kAdamBlock;
             if (place == 0) {
               for (std::int64_t r = i; r < HWY_MIN(i + kAdamBlock, count); ++r) {
                 steps[r - i] = rows[r][3 * dim] += 1.0F;
                 if (r + kAdamBlock < count) __builtin_prefetch(rows[r + kAdamBlock] + 3 * dim);
               }
               bias_corrections(steps, log_beta1, corrections1);
               bias_corrections(steps, log_beta2, corrections2);
             }
             adam_step(weights, gradient, dim, options, corrections1[place], corrections2[place]);
           });
}

}  // namespace troupe::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace troupe::kernels {

HWY_EXPORT(sgd_rows);
HWY_EXPORT(adagrad_rows);
HWY_EXPORT(adam_rows);
HWY_EXPORT(adam_rows_at_step);

namespace {

// Finite for beta = 0 too, whose power is 0 from the first step on.
float log_of_beta(float beta) {
  assert(beta >= 0.0F && beta < 1.0F);
  return beta == 0.0F ? -1e4F : static_cast<float>(std::log(static_cast<double>(beta)));
}

float correction_at(float beta, std::int64_t step) {
  return static_cast<float>(1.0 - std::pow(static_cast<double>(beta), static_cast<double>(step)));
}

}  // namespace

void sgd_rows(float* const* rows, const float* gradients, std::int64_t count, std::int64_t dim,
              const Sgd& options) {
  HWY_DYNAMIC_DISPATCH(sgd_rows)(rows, gradients, count, dim, options);
}

void adagrad_rows(float* const* rows, const float* gradients, std::int64_t count, std::int64_t dim,
                  const Adagrad& options) {
  assert(options.epsilon > 0.0F);
  HWY_DYNAMIC_DISPATCH(adagrad_rows)(rows, gradients, count, dim, options);
}

void adam_rows(float* const* rows, const float* gradients, std::int64_t count, std::int64_t dim,
               const Adam& options) {
  assert(options.epsilon > 0.0F);
  HWY_DYNAMIC_DISPATCH(adam_rows)
  (rows, gradients, count, dim, options, log_of_beta(options.beta1), log_of_beta(options.beta2));
}

void adam_rows_at_step(float* const* rows, const float* gradients, std::int64_t count, std::int64_t dim,
                       const Adam& options, std::int64_t step) {
  assert(options.epsilon > 0.0F && step >= 1);
  HWY_DYNAMIC_DISPATCH(adam_rows_at_step)
  (rows, gradients, count, dim, options, correction_at(options.beta1, step),
   correction_at(options.beta2, step));
}

}  // namespace troupe::kernels
#endif
