#include "host_dense.hpp"

#include <cassert>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "host_dense.cpp"
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

float cross_entropy_row(const float* logits, std::int64_t columns, std::int64_t label, float scale,
                        float* gradients) {
  const float most = row_maximum(logits, columns);
  const Floats zero = hn::Zero(FloatTag());
  const Floats absent = hn::Set(FloatTag(), -__builtin_inff());
  const Floats shift = hn::Set(FloatTag(), most);
  Floats sums[4] = {zero, zero, zero, zero};
  for_blocks<4>(columns, [=, &sums](auto block, std::int64_t i, int chain) TROUPE_SIMD_LAMBDA {
    sums[chain] =
        hn::Add(sums[chain], hn::Exp(FloatTag(), hn::Sub(block.load_or(logits + i, absent), shift)));
  });
  const float log_sum = most + __builtin_logf(sum_chains(sums));
  const float loss = log_sum - logits[label];
  if (gradients == nullptr) return loss;
  const Floats log = hn::Set(FloatTag(), log_sum);
  const Floats factor = hn::Set(FloatTag(), scale);
  for_blocks<2>(columns, [=](auto block, std::int64_t i, int) TROUPE_SIMD_LAMBDA {
    block.store(hn::Mul(factor, hn::Exp(FloatTag(), hn::Sub(block.load(logits + i), log))), gradients + i);
  });
  gradients[label] -= scale;
  return loss;
}

void layer_norm_row(const float* x, std::int64_t columns, const float* gain, const float* shift,
                    float epsilon, float* out, float* mean_out, float* deviation_out) {
  const Floats zero = hn::Zero(FloatTag());
  Floats sums[4] = {zero, zero, zero, zero};
  for_blocks<4>(columns, [x, &sums](auto block, std::int64_t i, int chain)
                             TROUPE_SIMD_LAMBDA { sums[chain] = hn::Add(sums[chain], block.load(x + i)); });
  const float count = static_cast<float>(columns);
  const float mean = sum_chains(sums) / count;
  const Floats means = hn::Set(FloatTag(), mean);
  Floats squares[4] = {zero, zero, zero, zero};
  for_blocks<4>(columns, [=, &squares](auto block, std::int64_t i, int chain) TROUPE_SIMD_LAMBDA {
    const Floats off = hn::Sub(block.load_or(x + i, means), means);
    squares[chain] = hn::MulAdd(off, off, squares[chain]);
  });
  const float deviation = 1.0F / __builtin_sqrtf(sum_chains(squares) / count + epsilon);
  const Floats deviations = hn::Set(FloatTag(), deviation);
  for_blocks<4>(columns, [=](auto block, std::int64_t i, int) TROUPE_SIMD_LAMBDA {
    const Floats normal = hn::Mul(hn::Sub(block.load(x + i), means), deviations);
    block.store(hn::MulAdd(normal, block.load(gain + i), block.load(shift + i)), out + i);
  });
  *mean_out = mean;
  *deviation_out = deviation;
}

void layer_norm_backward_row(const float* x, const float* out_gradients, std::int64_t columns,
                             const float* gain, float mean, float deviation, float* x_gradients,
                             float* gain_gradients, float* shift_gradients) {
  const Floats zero = hn::Zero(FloatTag());
  const Floats means = hn::Set(FloatTag(), mean);
  const Floats deviations = hn::Set(FloatTag(), deviation);
  Floats sums[4] = {zero, zero, zero, zero};
  Floats alongs[4] = {zero, zero, zero, zero};
  for_blocks<2>(columns, [=, &sums, &alongs](auto block, std::int64_t i, int chain) TROUPE_SIMD_LAMBDA {
    const Floats given = block.load(out_gradients + i);
    const Floats normal = hn::Mul(hn::Sub(block.load(x + i), means), deviations);
    block.store(hn::MulAdd(given, normal, block.load(gain_gradients + i)), gain_gradients + i);
    block.store(hn::Add(given, block.load(shift_gradients + i)), shift_gradients + i);
    const Floats scaled = hn::Mul(given, block.load(gain + i));
    sums[chain] = hn::Add(sums[chain], scaled);
    alongs[chain] = hn::MulAdd(scaled, normal, alongs[chain]);
  });
  const float count = static_cast<float>(columns);
  const Floats sum = hn::Set(FloatTag(), sum_chains(sums) / count);
  const Floats along = hn::Set(FloatTag(), sum_chains(alongs) / count);
  for_blocks<2>(columns, [=](auto block, std::int64_t i, int) TROUPE_SIMD_LAMBDA {
    const Floats normal = hn::Mul(hn::Sub(block.load(x + i), means), deviations);
    const Floats scaled = hn::Mul(block.load(out_gradients + i), block.load(gain + i));
    const Floats rest = hn::NegMulAdd(normal, along, hn::Sub(scaled, sum));
    block.store(hn::Mul(deviations, rest), x_gradients + i);
  });
}

// Four rows at a time: fewer passes over `out`, and shorter chains of sums.
void add_column_sums(const float* x, std::int64_t rows, std::int64_t columns, float* out) {
  std::int64_t r = 0;
  for (; r + 4 <= rows; r += 4, x += 4 * columns) {
    for_blocks<2>(columns, [=](auto block, std::int64_t i, int) TROUPE_SIMD_LAMBDA {
      const Floats first = hn::Add(block.load(x + i), block.load(x + columns + i));
      const Floats second = hn::Add(block.load(x + 2 * columns + i), block.load(x + 3 * columns + i));
      block.store(hn::Add(block.load(out + i), hn::Add(first, second)), out + i);
    });
  }
  for (; r < rows; ++r, x += columns) {
    for_blocks<2>(columns, [=](auto block, std::int64_t i, int) TROUPE_SIMD_LAMBDA {
      block.store(hn::Add(block.load(out + i), block.load(x + i)), out + i);
    });
  }
}

void add_row(const float* x, const float* bias, const float* residual, std::int64_t columns, float* out) {
  for_blocks<2>(columns, [=](auto block, std::int64_t i, int) TROUPE_SIMD_LAMBDA {
    Floats sum = block.load(x + i);
    if (bias != nullptr) sum = hn::Add(sum, block.load(bias + i));
    if (residual != nullptr) sum = hn::Add(sum, block.load(residual + i));
    block.store(sum, out + i);
  });
}

// The logistic function of 2 * sqrt(2 / pi) * (u + 0.044715 u^3). Its exponent is bounded: exp() is not
// infinite.
HWY_INLINE Floats tanh_share(Floats u) {
  const Floats cube = hn::MulAdd(hn::Mul(hn::Set(FloatTag(), 0.044715F), hn::Mul(u, u)), u, u);
  const Floats exponent = hn::Mul(hn::Set(FloatTag(), -1.5957691216057308F), cube);
  const Floats bounded = hn::Min(exponent, hn::Set(FloatTag(), 80.0F));
  const Floats one = hn::Set(FloatTag(), 1.0F);
  return hn::Div(one, hn::Add(one, hn::Exp(FloatTag(), bounded)));
}

void gelu_tanh_row(const float* x, const float* bias, std::int64_t columns, float* out) {
  for_blocks<2>(columns, [=](auto block, std::int64_t i, int) TROUPE_SIMD_LAMBDA {
    Floats u = block.load(x + i);
    if (bias != nullptr) u = hn::Add(u, block.load(bias + i));
    block.store(hn::Mul(u, tanh_share(u)), out + i);
  });
}

void gelu_tanh_backward_row(const float* x, const float* bias, const float* out_gradients,
                            std::int64_t columns, float* x_gradients) {
  for_blocks<2>(columns, [=](auto block, std::int64_t i, int) TROUPE_SIMD_LAMBDA {
    Floats u = block.load(x + i);
    if (bias != nullptr) u = hn::Add(u, block.load(bias + i));
    const Floats one = hn::Set(FloatTag(), 1.0F);
    const Floats share = tanh_share(u);
    const Floats inner = hn::MulAdd(hn::Set(FloatTag(), 0.134145F), hn::Mul(u, u), one);
    const Floats steep =
        hn::Mul(hn::Mul(hn::Set(FloatTag(), 1.5957691216057308F), inner), hn::Sub(one, share));
    const Floats slope = hn::Mul(share, hn::MulAdd(u, steep, one));
    block.store(hn::Mul(block.load(out_gradients + i), slope), x_gradients + i);
  });
}

void shifted_exponentials(const float* x, std::int64_t n, std::int64_t columns, float shift, float* out) {
  const Floats off = hn::Set(FloatTag(), shift);
  for_blocks<2>(n, [=](auto block, std::int64_t i, int) TROUPE_SIMD_LAMBDA {
    block.store(hn::Exp(FloatTag(), hn::Sub(block.load(x + i), off)), out + i);
  });
  const Floats zero = hn::Zero(FloatTag());
  for_blocks<2>(columns - n,
                [=](auto block, std::int64_t i, int) TROUPE_SIMD_LAMBDA { block.store(zero, out + n + i); });
}

void attention_slopes(const float* weights, const float* x, std::int64_t n, float along, float scale,
                      float* out) {
  const Floats off = hn::Set(FloatTag(), along);
  const Floats factor = hn::Set(FloatTag(), scale);
  for_blocks<2>(n, [=](auto block, std::int64_t i, int) TROUPE_SIMD_LAMBDA {
    const Floats slope = hn::Mul(hn::Mul(factor, block.load(weights + i)), hn::Sub(block.load(x + i), off));
    block.store(slope, out + i);
  });
}

}  // namespace troupe::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace troupe::kernels {

HWY_EXPORT(cross_entropy_row);
HWY_EXPORT(layer_norm_row);
HWY_EXPORT(layer_norm_backward_row);
HWY_EXPORT(add_column_sums);
HWY_EXPORT(add_row);
HWY_EXPORT(gelu_tanh_row);
HWY_EXPORT(gelu_tanh_backward_row);
HWY_EXPORT(shifted_exponentials);
HWY_EXPORT(attention_slopes);

namespace host {

float cross_entropy_row(const float* logits, std::int64_t columns, std::int64_t label, float scale,
                        float* gradients) {
  return HWY_DYNAMIC_DISPATCH(cross_entropy_row)(logits, columns, label, scale, gradients);
}

void layer_norm_row(const float* x, std::int64_t columns, const float* gain, const float* shift,
                    float epsilon, float* out, float* mean, float* deviation) {
  HWY_DYNAMIC_DISPATCH(layer_norm_row)(x, columns, gain, shift, epsilon, out, mean, deviation);
}

void layer_norm_backward_row(const float* x, const float* out_gradients, std::int64_t columns,
                             const float* gain, float mean, float deviation, float* x_gradients,
                             float* gain_gradients, float* shift_gradients) {
  HWY_DYNAMIC_DISPATCH(layer_norm_backward_row)
  (x, out_gradients, columns, gain, mean, deviation, x_gradients, gain_gradients, shift_gradients);
}

void add_column_sums(const float* x, std::int64_t rows, std::int64_t columns, float* out) {
  HWY_DYNAMIC_DISPATCH(add_column_sums)(x, rows, columns, out);
}

void add_row(const float* x, const float* bias, const float* residual, std::int64_t columns, float* out) {
  HWY_DYNAMIC_DISPATCH(add_row)(x, bias, residual, columns, out);
}

void gelu_tanh_row(const float* x, const float* bias, std::int64_t columns, float* out) {
  HWY_DYNAMIC_DISPATCH(gelu_tanh_row)(x, bias, columns, out);
}

void gelu_tanh_backward_row(const float* x, const float* bias, const float* out_gradients,
                            std::int64_t columns, float* x_gradients) {
  HWY_DYNAMIC_DISPATCH(gelu_tanh_backward_row)(x, bias, out_gradients, columns, x_gradients);
}

void shifted_exponentials(const float* x, std::int64_t n, std::int64_t columns, float shift, float* out) {
  HWY_DYNAMIC_DISPATCH(shifted_exponentials)(x, n, columns, shift, out);
}

void attention_slopes(const float* weights, const float* x, std::int64_t n, float along, float scale,
                      float* out) {
  HWY_DYNAMIC_DISPATCH(attention_slopes)(weights, x, n, along, scale, out);
}

}  // namespace host
}  // namespace troupe::kernels
#endif
