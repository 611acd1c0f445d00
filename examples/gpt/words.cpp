// GPT-2's way to part a text, of which its regular expression is
//   's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
#include "gpt/tokenizer.hpp"
#include "gpt/unicode_ranges.hpp"
#include "gpt/utf8.hpp"

namespace troupe::gpt {
namespace {

enum class Kind : std::uint8_t { kEnd, kSpace, kLetter, kNumber, kOther };

bool is_space(char32_t code) {
  return (code >= 9 && code <= 13) || code == ' ' || code == 0x85 || code == 0xA0 || code == 0x1680 ||
         (code >= 0x2000 && code <= 0x200A) || code == 0x2028 || code == 0x2029 || code == 0x202F ||
         code == 0x205F || code == 0x3000;
}

struct Next {
  Kind kind;
  std::size_t bytes;
};

Next next_of(std::string_view text) {
  if (text.empty()) return {Kind::kEnd, 0};
  const CodePoint at = code_point_at(text);
  const Kind kind = at.code == kNoCode   ? Kind::kOther
                    : is_space(at.code)  ? Kind::kSpace
                    : is_letter(at.code) ? Kind::kLetter
                    : is_number(at.code) ? Kind::kNumber
                                         : Kind::kOther;
  return {kind, at.bytes};
}

std::size_t run_of(std::string_view text, Kind kind) {
  std::size_t bytes = 0;
  for (Next next = next_of(text); next.kind == kind; next = next_of(text.substr(bytes))) bytes += next.bytes;
  return bytes;
}

std::size_t first_word(std::string_view text) {
  for (const std::string_view ending : {"'s", "'t", "'re", "'ve", "'m", "'ll", "'d"})
    if (text.starts_with(ending)) return ending.size();
  const std::size_t space = text.starts_with(' ') ? 1 : 0;
  const Next next = next_of(text.substr(space));
  if (next.kind != Kind::kSpace && next.kind != Kind::kEnd)
    return space + run_of(text.substr(space), next.kind);
  // Spaces: all at the end of the text, else all but the last one, which may belong to the word after it.
  const std::size_t spaces = run_of(text, Kind::kSpace);
  if (spaces == text.size()) return spaces;
  std::size_t last = 0;
  for (std::size_t at = 0; at < spaces; at += next_of(text.substr(at)).bytes) last = at;
  return last > 0 ? last : spaces;
}

}  // namespace

std::vector<std::string_view> split_words(std::string_view text) {
  std::vector<std::string_view> words;
  while (!text.empty()) {
    const std::size_t bytes = first_word(text);
    words.push_back(text.substr(0, bytes));
    text.remove_prefix(bytes);
  }
  return words;
}

}  // namespace troupe::gpt
