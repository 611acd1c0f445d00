#pragma once

#include <cstddef>
#include <string_view>

namespace troupe::gpt {

/// The code point at the beginning of `text`, which is not empty, and how many bytes it has. What is no UTF-8
/// is one byte that is kNoCode.
inline constexpr char32_t kNoCode = 0xFFFFFFFF;
struct CodePoint {
  char32_t code;
  std::size_t bytes;
};
CodePoint code_point_at(std::string_view text);

}  // namespace troupe::gpt
