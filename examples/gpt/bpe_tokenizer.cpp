// GPT-2's tokens: pairs of tokens become one, in the order in which merges.txt has them, within a word.
#include <algorithm>
#include <array>
#include <queue>
#include <unordered_map>
#include <utility>

#include <troupe/runtime/files.hpp>
#include <troupe/runtime/json.hpp>

#include "gpt/tokenizer.hpp"
#include "gpt/utf8.hpp"

namespace troupe::gpt {
namespace {

/// The character that stands for a byte in the files: itself where it can be seen, else one from 256 on.
std::array<char32_t, 256> characters_of_bytes() {
  std::array<char32_t, 256> all{};
  char32_t next = 256;
  for (unsigned byte = 0; byte < 256; ++byte) {
    const bool seen = (byte >= '!' && byte <= '~') || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
    all[byte] = seen ? byte : next++;
  }
  return all;
}

std::string utf8_of(char32_t code) {
  if (code < 0x80) return {static_cast<char>(code)};
  return {static_cast<char>(0xC0U | code >> 6U), static_cast<char>(0x80U | (code & 0x3FU))};
}

struct Pair {
  std::int32_t left;
  std::int32_t right;
  friend bool operator==(const Pair&, const Pair&) = default;
};
struct HashOfPair {
  std::size_t operator()(const Pair& pair) const {
    const auto both = static_cast<std::uint64_t>(static_cast<std::uint32_t>(pair.left)) << 32U |
                      static_cast<std::uint32_t>(pair.right);
    return static_cast<std::size_t>((both ^ (both >> 29U)) * 0x9e3779b97f4a7c15U);
  }
};
struct Merge {
  std::int32_t rank;
  std::int32_t token;
};
using Merges = std::unordered_map<Pair, Merge, HashOfPair>;

struct Vocabulary {
  std::vector<std::string> tokens;  // as they stand in the file
  std::unordered_map<std::string, std::int32_t> numbers;
};

class Bpe final : public Tokenizer {
 public:
  Bpe(Vocabulary vocabulary, Merges merges, std::string merges_text)
      : vocabulary_(std::move(vocabulary)), merges_(std::move(merges)), merges_text_(std::move(merges_text)) {
    const auto characters = characters_of_bytes();
    std::unordered_map<char32_t, char> bytes;
    for (std::size_t byte = 0; byte < 256; ++byte) {
      of_byte_[byte] = vocabulary_.numbers.at(utf8_of(characters[byte]));
      bytes[characters[byte]] = static_cast<char>(byte);
    }
    // Tokens that no bytes can be are kept as they stand.
    for (const std::string& token : vocabulary_.tokens) {
      std::string text;
      for (std::string_view rest = token; !rest.empty();) {
        const CodePoint at = code_point_at(rest);
        const auto found = bytes.find(at.code);
        text += found == bytes.end() ? std::string(rest.substr(0, at.bytes)) : std::string(1, found->second);
        rest.remove_prefix(at.bytes);
      }
      texts_.push_back(std::move(text));
    }
  }

  std::int64_t size() const override { return static_cast<std::int64_t>(texts_.size()); }

  Result<std::vector<std::int32_t>> encode(std::string_view text) const override {
    std::vector<std::int32_t> tokens;
    std::unordered_map<std::string_view, std::vector<std::int32_t>> known;
    for (const std::string_view word : split_words(text)) {
      const auto [found, fresh] = known.try_emplace(word);
      if (fresh) found->second = encode_word(word);
      tokens.insert(tokens.end(), found->second.begin(), found->second.end());
    }
    return tokens;
  }

  std::string decode(std::span<const std::int32_t> tokens) const override {
    std::string text;
    for (const std::int32_t token : tokens)
      if (token >= 0 && static_cast<std::size_t>(token) < texts_.size())
        text += texts_[static_cast<std::size_t>(token)];
    return text;
  }

  Result<void> write(const std::filesystem::path& folder) const override {
    Json json = Json::object();
    for (const auto& [token, number] : vocabulary_.numbers) json[token] = number;
    if (auto written = write_file_atomically(folder / "vocab.json", json.dump() + "\n"); !written)
      return written;
    return write_file_atomically(folder / "merges.txt", merges_text_);
  }

 private:
  /// A word's tokens: the pair of the lowest rank becomes one, the first of several, until none is left.
  std::vector<std::int32_t> encode_word(std::string_view word) const {
    struct Node {
      std::int32_t token;
      std::size_t before, after;
    };
    constexpr auto kNone = static_cast<std::size_t>(-1);
    std::vector<Node> nodes;
    nodes.reserve(word.size());
    for (std::size_t i = 0; i < word.size(); ++i)
      nodes.push_back({of_byte_[static_cast<unsigned char>(word[i])], i == 0 ? kNone : i - 1,
                       i + 1 == word.size() ? kNone : i + 1});
    struct Candidate {
      std::int32_t rank;
      std::size_t at;
      Pair pair;
    };
    const auto later = [](const Candidate& a, const Candidate& b) {
      return std::pair(a.rank, a.at) > std::pair(b.rank, b.at);
    };
    std::priority_queue<Candidate, std::vector<Candidate>, decltype(later)> candidates(later);
    const auto offer = [&](std::size_t at) {
      if (at == kNone || nodes[at].after == kNone) return;
      const Pair pair{nodes[at].token, nodes[nodes[at].after].token};
      if (const auto merge = merges_.find(pair); merge != merges_.end())
        candidates.push({merge->second.rank, at, pair});
    };
    for (std::size_t i = 0; i < nodes.size(); ++i) offer(i);
    while (!candidates.empty()) {
      const Candidate best = candidates.top();
      candidates.pop();
      Node& left = nodes[best.at];
      // Older candidates are of nodes that have changed since.
      if (left.token != best.pair.left || left.after == kNone || nodes[left.after].token != best.pair.right)
        continue;
      Node& right = nodes[left.after];
      left.token = merges_.at(best.pair).token;
      left.after = right.after;
      right.token = -1;
      if (left.after != kNone) nodes[left.after].before = best.at;
      offer(best.at);
      offer(left.before);
    }
    std::vector<std::int32_t> tokens;
    for (const Node& node : nodes)
      if (node.token >= 0) tokens.push_back(node.token);
    return tokens;
  }

  Vocabulary vocabulary_;
  Merges merges_;
  std::string merges_text_;
  std::array<std::int32_t, 256> of_byte_{};
  std::vector<std::string> texts_;
};

Error wrong(const std::filesystem::path& file, const std::string& what) {
  return {Code::kInvalidArgument, file.string() + ": " + what};
}

Result<Vocabulary> read_vocabulary(const std::filesystem::path& file) {
  const auto json = read_json_file(file);
  if (!json) return json.error();
  if (!json->is_object()) return wrong(file, "it is no object of tokens and their numbers");
  Vocabulary vocabulary;
  vocabulary.tokens.resize(json->size());
  std::vector<bool> taken(json->size());
  for (const auto& [token, number] : json->items()) {
    const bool good = number.is_number_unsigned() && number.get<std::uint64_t>() < taken.size();
    if (!good)
      return wrong(file, "the number of '" + token + "' is " + number.dump() + ", not one from 0 to " +
                             std::to_string(taken.size() - 1));
    const auto at = number.get<std::size_t>();
    if (taken[at]) return wrong(file, "the number " + std::to_string(at) + " comes twice");
    taken[at] = true;
    vocabulary.tokens[at] = token;
    vocabulary.numbers[token] = static_cast<std::int32_t>(at);
  }
  for (const char32_t character : characters_of_bytes())
    if (!vocabulary.numbers.contains(utf8_of(character)))
      return wrong(file, "the token '" + utf8_of(character) + "', which stands for one byte, is missing");
  return vocabulary;
}

Result<Merges> read_merges(const std::filesystem::path& file, std::string_view text,
                           const Vocabulary& vocabulary) {
  Merges merges;
  std::size_t line_number = 0;
  for (std::string_view rest = text; !rest.empty();) {
    const std::size_t end = std::min(rest.find('\n'), rest.size());
    std::string_view line = rest.substr(0, end);
    rest.remove_prefix(std::min(end + 1, rest.size()));
    ++line_number;
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (line.empty() || (line_number == 1 && line.starts_with("#version"))) continue;
    const auto at_line = [&](const std::string& what) {
      return wrong(file, "line " + std::to_string(line_number) + ": " + what);
    };
    const std::size_t space = line.find(' ');
    if (space == std::string_view::npos || space == 0 ||
        line.find(' ', space + 1) != std::string_view::npos || space + 1 == line.size())
      return at_line("'" + std::string(line) + "' is not two tokens with a space between them");
    const std::string left(line.substr(0, space));
    const std::string right(line.substr(space + 1));
    std::int32_t numbers[3];
    const std::string words[3] = {left, right, left + right};
    for (std::size_t i = 0; i < 3; ++i) {
      const auto found = vocabulary.numbers.find(words[i]);
      if (found == vocabulary.numbers.end())
        return at_line("'" + words[i] + "' is no token of the vocabulary");
      numbers[i] = found->second;
    }
    if (!merges
             .try_emplace({numbers[0], numbers[1]},
                          Merge{static_cast<std::int32_t>(merges.size()), numbers[2]})
             .second)
      return at_line("'" + std::string(line) + "' comes twice");
  }
  return merges;
}

}  // namespace

Result<std::unique_ptr<Tokenizer>> read_bpe(const std::filesystem::path& vocabulary_file,
                                            const std::filesystem::path& merges_file) {
  auto vocabulary = read_vocabulary(vocabulary_file);
  if (!vocabulary) return vocabulary.error();
  auto text = read_file(merges_file);
  if (!text) return text.error();
  auto merges = read_merges(merges_file, *text, *vocabulary);
  if (!merges) return merges.error();
  return std::unique_ptr<Tokenizer>(
      std::make_unique<Bpe>(*std::move(vocabulary), *std::move(merges), *std::move(text)));
}

}  // namespace troupe::gpt
