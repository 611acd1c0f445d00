#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>

namespace troupe::shards {

/// Whether n floats are all within [-limit, limit]; NaN and infinity are not. Written so that compilers turn
/// it into vector code that runs at memory speed: with the sign taken off, floats are ordered as integers,
/// and adding what is missing from the limit to the top bit reaches that bit exactly for those above.
inline bool all_within(const float* values, std::size_t n, float limit) {
  constexpr std::size_t kBlock = 4096;  // floats between looks at the result, so that bad input ends early
  const std::uint32_t missing = 0x7fffffffU - std::bit_cast<std::uint32_t>(limit);
  std::uint32_t seen = 0;
  for (std::size_t begin = 0; begin < n && (seen >> 31) == 0; begin += kBlock) {
    const std::size_t end = n - begin < kBlock ? n : begin + kBlock;
    for (std::size_t i = begin; i < end; ++i) {
      seen |= (std::bit_cast<std::uint32_t>(values[i]) & 0x7fffffffU) + missing;
    }
  }
  return (seen >> 31) == 0;
}

}  // namespace troupe::shards
