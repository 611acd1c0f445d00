#pragma once

#include <cstdint>

namespace troupe::kernels {

/// A bijection of 64 bits in which every bit of the input reaches every bit of the output: the finaliser
/// of SplitMix64 (Steele, Lea, Flood 2014, section 3, with constants of Stafford's variant 13).
constexpr std::uint64_t mix_bits(std::uint64_t x) {
  x = (x ^ (x >> 30U)) * 0xBF58476D1CE4E5B9ULL;
  x = (x ^ (x >> 27U)) * 0x94D049BB133111EBULL;
  return x ^ (x >> 31U);
}

}  // namespace troupe::kernels
