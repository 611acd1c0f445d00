#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <troupe/runtime/result.hpp>

namespace troupe::gpt {

/// Makes tokens of text and text of tokens. Does not change: any thread.
class Tokenizer {
 public:
  virtual ~Tokenizer() = default;
  /// How many tokens there are.
  virtual std::int64_t size() const = 0;
  /// kInvalidArgument: the text has a character that is no token, naming it.
  virtual Result<std::vector<std::int32_t>> encode(std::string_view text) const = 0;
  /// Tokens that are none are left out.
  virtual std::string decode(std::span<const std::int32_t> tokens) const = 0;
  /// Into a folder, such that read_tokenizer() makes the same of it.
  virtual Result<void> write(const std::filesystem::path& folder) const = 0;
};

/// Bytes are tokens: 256 of them.
std::unique_ptr<Tokenizer> byte_tokenizer();
/// The characters that a text has are tokens, in the order of their code points. kInvalidArgument: it is no
/// UTF-8, or has none.
Result<std::unique_ptr<Tokenizer>> character_tokenizer(std::string_view text);
/// GPT-2's pairs of bytes (Sennrich et al. 2016; Radford et al. 2019) from vocab.json and merges.txt as
/// Hugging Face writes them. Words such as "<|endoftext|>" are text like any other. kInvalidArgument, naming
/// file and place: it is not as it must be.
Result<std::unique_ptr<Tokenizer>> read_bpe(const std::filesystem::path& vocabulary,
                                            const std::filesystem::path& merges);
/// What write() has written, or a folder with vocab.json and merges.txt.
Result<std::unique_ptr<Tokenizer>> read_tokenizer(const std::filesystem::path& folder);

/// The parts of a text that pairs are made in: GPT-2's words with the space before them, numbers, signs,
/// spaces.
std::vector<std::string_view> split_words(std::string_view text);

}  // namespace troupe::gpt
