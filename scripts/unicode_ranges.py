"""Writes examples/gpt/unicode_ranges.cpp: which code points are letters (L*) and which numbers (N*), as this Python's
unicodedata has them. Usage: python3 scripts/unicode_ranges.py examples/gpt/unicode_ranges.cpp"""
import sys
import unicodedata


def ranges_of(letter):
    ranges = []
    for code in range(0x110000):
        if not unicodedata.category(chr(code)).startswith(letter):
            continue
        if ranges and ranges[-1][1] == code - 1:
            ranges[-1][1] = code
        else:
            ranges.append([code, code])
    return ranges


def table(name, ranges):
    words = [f"{{0x{first:x}, 0x{last:x}}}" for first, last in ranges]
    return f"constexpr CodeRange {name}[] = {{{', '.join(words)}}};\n"


def main():
    with open(sys.argv[1], "w", encoding="utf-8") as out:
        out.write(f"""// Made by scripts/unicode_ranges.py from Unicode {unicodedata.unidata_version}.
#include "gpt/unicode_ranges.hpp"

#include <algorithm>
#include <iterator>

namespace troupe::gpt {{
namespace {{

struct CodeRange {{
  char32_t first;
  char32_t last;
}};

{table("kLetters", ranges_of("L"))}
{table("kNumbers", ranges_of("N"))}
template <std::size_t n>
bool is_in(const CodeRange (&ranges)[n], char32_t code) {{
  const auto* const after = std::upper_bound(std::begin(ranges), std::end(ranges), code,
                                             [](char32_t c, const CodeRange& range) {{ return c < range.first; }});
  return after != std::begin(ranges) && code <= std::prev(after)->last;
}}

}}  // namespace

bool is_letter(char32_t code) {{
  return is_in(kLetters, code);
}}

bool is_number(char32_t code) {{
  return is_in(kNumbers, code);
}}

}}  // namespace troupe::gpt
""")


main()
