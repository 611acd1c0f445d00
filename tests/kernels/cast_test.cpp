#include "troupe/kernels/cast.hpp"

#include <doctest/doctest.h>

#include <bit>
#include <cmath>
#include <limits>
#include <vector>

using namespace troupe::kernels;

namespace {

/// The value of a half by its definition.
double value16(std::uint16_t half) {
  const int exponent = (half >> 10) & 31;
  const double fraction = (half & 1023) / 1024.0;
  const double size = exponent == 31
                          ? (fraction == 0 ? std::numeric_limits<double>::infinity() : std::nan(""))
                      : exponent == 0 ? std::ldexp(fraction, -14)
                                      : std::ldexp(1 + fraction, exponent - 15);
  return (half & 0x8000) != 0 ? -size : size;
}

float widen(std::uint16_t half) {
  float out = 0;
  float16_to_float32(&half, 1, &out);
  return out;
}
std::uint16_t narrow(float number) {
  std::uint16_t out = 0;
  float32_to_float16(&number, 1, &out);
  return out;
}
std::uint16_t narrow_b(float number) {
  std::uint16_t out = 0;
  float32_to_bfloat16(&number, 1, &out);
  return out;
}

}  // namespace

TEST_CASE("every float16 widens to its value and comes back") {
  std::vector<std::uint16_t> all(65536), back(65536);
  for (std::size_t i = 0; i < all.size(); ++i) all[i] = static_cast<std::uint16_t>(i);
  std::vector<float> wide(all.size());
  float16_to_float32(all.data(), 65536, wide.data());
  float32_to_float16(wide.data(), 65536, back.data());
  int wrong = 0;
  for (std::size_t i = 0; i < all.size(); ++i) {
    const double expected = value16(all[i]);
    if (std::isnan(expected)) {
      wrong += !std::isnan(wide[i]) || !std::isnan(value16(back[i]));
    } else {
      wrong += static_cast<double>(wide[i]) != expected || std::signbit(wide[i]) != std::signbit(expected);
      wrong += std::isfinite(expected) && back[i] != all[i];
    }
  }
  CHECK(wrong == 0);
}

TEST_CASE("float32 goes to the nearest float16, ties to even, and never to infinity") {
  // Between all neighbours: just below the middle, the middle, just above.
  int wrong = 0;
  for (std::uint16_t half = 0; half < 0x7bff; ++half) {
    const float low = widen(half);
    const float high = widen(static_cast<std::uint16_t>(half + 1));
    const float middle = low + (high - low) / 2;
    wrong += narrow(std::nextafter(middle, low)) != half;
    wrong += narrow(std::nextafter(middle, high)) != half + 1;
    wrong += narrow(middle) != (half % 2 == 0 ? half : half + 1);
    wrong += narrow(-middle) != ((half % 2 == 0 ? half : half + 1) | 0x8000);
  }
  CHECK(wrong == 0);
  for (const float large : {65504.0F, 65519.9F, 65520.0F, 1e9F, std::numeric_limits<float>::infinity()}) {
    CHECK(widen(narrow(large)) == 65504);
    CHECK(widen(narrow(-large)) == -65504);
  }
  CHECK(std::isnan(widen(narrow(std::nanf("")))));
}

TEST_CASE("float32 goes to the nearest bfloat16, ties to even, and never to infinity") {
  int wrong = 0;
  for (std::uint32_t half = 0; half < 0x7f7f; ++half) {
    const std::uint32_t middle = half << 16 | 0x8000U;
    wrong += narrow_b(std::bit_cast<float>(middle - 1)) != half;
    wrong += narrow_b(std::bit_cast<float>(middle + 1)) != half + 1;
    wrong += narrow_b(std::bit_cast<float>(middle)) != (half % 2 == 0 ? half : half + 1);
    const auto exact = static_cast<std::uint16_t>(half);
    float wide = 0;
    bfloat16_to_float32(&exact, 1, &wide);
    wrong += narrow_b(wide) != half;
  }
  CHECK(wrong == 0);
  CHECK(narrow_b(std::numeric_limits<float>::infinity()) == 0x7f7f);
  CHECK(narrow_b(std::numeric_limits<float>::lowest()) == 0xff7f);
  CHECK(narrow_b(std::nanf("")) == 0x7fc0);
}
