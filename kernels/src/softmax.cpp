#include "troupe/kernels/elementwise.hpp"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "softmax.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>
// Highway's own order: its maths after highway.h.
#include <hwy/contrib/math/math-inl.h>

#include "simd-inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace troupe::kernels::HWY_NAMESPACE {

HWY_INLINE float row_maximum(const float* x, std::int64_t n) {
  const Floats least = hn::Set(FloatTag(), -__builtin_inff());
  Floats maxima[4] = {least, least, least, least};
  for_blocks<4>(n, [x, least, &maxima](auto block, std::int64_t i, int chain) TROUPE_SIMD_LAMBDA {
    maxima[chain] = hn::Max(maxima[chain], block.load_or(x + i, least));
  });
  const Floats maximum = hn::Max(hn::Max(maxima[0], maxima[1]), hn::Max(maxima[2], maxima[3]));
  return hn::GetLane(hn::MaxOfLanes(FloatTag(), maximum));
}

// out = exp(x - maximum); returns its sum.
HWY_INLINE float exponentials(const float* x, std::int64_t n, float maximum, float* out) {
  const Floats zero = hn::Zero(FloatTag());
  const Floats shift = hn::Set(FloatTag(), maximum);
  const Floats absent = hn::Set(FloatTag(), -__builtin_inff());
  Floats sums[4] = {zero, zero, zero, zero};
  for_blocks<2>(n, [=, &sums](auto block, std::int64_t i, int chain) TROUPE_SIMD_LAMBDA {
    const Floats value = hn::Exp(FloatTag(), hn::Sub(block.load_or(x + i, absent), shift));
    sums[chain] = hn::Add(sums[chain], value);
    block.store(value, out + i);
  });
  return sum_chains(sums);
}

void softmax_rows(const float* x, std::int64_t rows, std::int64_t columns, float* out, float* log_sum_exp) {
  for (std::int64_t row = 0; row < rows; ++row, x += columns, out += columns) {
    const float maximum = row_maximum(x, columns);
    const float sum = exponentials(x, columns, maximum, out);
    const Floats factor = hn::Set(FloatTag(), 1.0F / sum);
    for_blocks<4>(columns, [=](auto block, std::int64_t i, int) TROUPE_SIMD_LAMBDA {
      block.store(hn::Mul(factor, block.load(out + i)), out + i);
    });
    if (log_sum_exp != nullptr) {
      log_sum_exp[row] = columns == 0 ? -__builtin_inff() : maximum + __builtin_logf(sum);
    }
  }
}

}  // namespace troupe::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace troupe::kernels {

HWY_EXPORT(softmax_rows);

void softmax_rows(const float* x, std::int64_t rows, std::int64_t columns, float* out, float* log_sum_exp) {
  HWY_DYNAMIC_DISPATCH(softmax_rows)(x, rows, columns, out, log_sum_exp);
}

}  // namespace troupe::kernels
#endif
