#pragma once

#include <array>
#include <cstdint>
#include <string>

namespace troupe {

/// All 16 lower-case digits of a 64-bit number.
inline void append_hex(std::string& text, std::uint64_t value) {
  std::array<char, 16> digits;
  for (std::size_t i = digits.size(); i-- > 0; value >>= 4) digits[i] = "0123456789abcdef"[value & 15];
  text.append(digits.data(), digits.size());
}

}  // namespace troupe
