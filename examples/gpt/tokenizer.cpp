// Tokens that are bytes or characters, and which tokenizer a folder has.
#include "gpt/tokenizer.hpp"

#include <array>
#include <map>
#include <set>
#include <utility>

#include <troupe/runtime/files.hpp>
#include <troupe/runtime/json.hpp>

#include "gpt/utf8.hpp"

namespace troupe::gpt {
namespace {

constexpr const char* kFile = "characters.json";

class Bytes final : public Tokenizer {
 public:
  std::int64_t size() const override { return 256; }
  Result<std::vector<std::int32_t>> encode(std::string_view text) const override {
    std::vector<std::int32_t> tokens;
    tokens.reserve(text.size());
    for (const char c : text) tokens.push_back(static_cast<unsigned char>(c));
    return tokens;
  }
  std::string decode(std::span<const std::int32_t> tokens) const override {
    std::string text;
    for (const std::int32_t token : tokens)
      if (token >= 0 && token < 256) text += static_cast<char>(token);
    return text;
  }
  Result<void> write(const std::filesystem::path& folder) const override {
    return write_file_atomically(folder / kFile, Json{{"kind", "bytes"}}.dump() + "\n");
  }
};

class Characters final : public Tokenizer {
 public:
  explicit Characters(std::vector<std::string> all) : all_(std::move(all)) {
    of_ascii_.fill(-1);
    for (std::size_t i = 0; i < all_.size(); ++i) {
      const auto number = static_cast<std::int32_t>(i);
      numbers_[all_[i]] = number;
      if (all_[i].size() == 1) of_ascii_[static_cast<unsigned char>(all_[i][0])] = number;
    }
  }
  std::int64_t size() const override { return static_cast<std::int64_t>(all_.size()); }
  Result<std::vector<std::int32_t>> encode(std::string_view text) const override {
    std::vector<std::int32_t> tokens;
    tokens.reserve(text.size());
    for (std::string_view rest = text; !rest.empty();) {
      // What most of a text is.
      if (const std::int32_t known = of_ascii_[static_cast<unsigned char>(rest.front())]; known >= 0) {
        tokens.push_back(known);
        rest.remove_prefix(1);
        continue;
      }
      const std::string_view character = rest.substr(0, code_point_at(rest).bytes);
      const auto found = numbers_.find(character);
      if (found == numbers_.end())
        return Error{Code::kInvalidArgument, "the character '" + std::string(character) + "' at byte " +
                                                 std::to_string(text.size() - rest.size()) +
                                                 " was not in the text that the model learned from"};
      tokens.push_back(found->second);
      rest.remove_prefix(character.size());
    }
    return tokens;
  }
  std::string decode(std::span<const std::int32_t> tokens) const override {
    std::string text;
    for (const std::int32_t token : tokens)
      if (token >= 0 && static_cast<std::size_t>(token) < all_.size())
        text += all_[static_cast<std::size_t>(token)];
    return text;
  }
  Result<void> write(const std::filesystem::path& folder) const override {
    return write_file_atomically(folder / kFile,
                                 Json{{"kind", "characters"}, {"characters", all_}}.dump() + "\n");
  }

 private:
  std::vector<std::string> all_;
  std::map<std::string, std::int32_t, std::less<>> numbers_;
  std::array<std::int32_t, 256> of_ascii_{};
};

Result<std::unique_ptr<Tokenizer>> read_characters(const std::filesystem::path& file) {
  const auto json = read_json_file(file);
  if (!json) return json.error();
  const auto wrong = [&](const std::string& what) {
    return Error{Code::kInvalidArgument, file.string() + ": " + what};
  };
  if (!json->is_object() || !json->contains("kind")) return wrong("it does not say its kind");
  if (json->at("kind") == "bytes") return byte_tokenizer();
  if (json->at("kind") != "characters" || !json->contains("characters") || !json->at("characters").is_array())
    return wrong("its kind is neither bytes nor characters");
  std::vector<std::string> all;
  std::set<std::string> seen;
  for (const Json& each : json->at("characters")) {
    if (!each.is_string()) return wrong("a character is no text");
    all.push_back(each.get<std::string>());
    if (all.back().empty() || code_point_at(all.back()).bytes != all.back().size() ||
        !seen.insert(all.back()).second)
      return wrong("'" + all.back() + "' is not one character that comes once");
  }
  if (all.empty()) return wrong("it has no characters");
  return std::unique_ptr<Tokenizer>(std::make_unique<Characters>(std::move(all)));
}

}  // namespace

std::unique_ptr<Tokenizer> byte_tokenizer() {
  return std::make_unique<Bytes>();
}

Result<std::unique_ptr<Tokenizer>> character_tokenizer(std::string_view text) {
  std::map<char32_t, std::string_view> seen;
  std::array<bool, 128> ascii{};
  for (std::string_view rest = text; !rest.empty();) {
    const CodePoint at = code_point_at(rest);
    if (at.code == kNoCode)
      return Error{Code::kInvalidArgument,
                   "byte " + std::to_string(text.size() - rest.size()) +
                       " of the text begins no UTF-8 character; --tokens bytes takes any"};
    if (at.bytes > 1 || !std::exchange(ascii[at.code], true)) seen.emplace(at.code, rest.substr(0, at.bytes));
    rest.remove_prefix(at.bytes);
  }
  if (seen.empty()) return Error{Code::kInvalidArgument, "the text is empty"};
  std::vector<std::string> all;
  all.reserve(seen.size());
  for (const auto& [code, character] : seen) all.emplace_back(character);
  return std::unique_ptr<Tokenizer>(std::make_unique<Characters>(std::move(all)));
}

Result<std::unique_ptr<Tokenizer>> read_tokenizer(const std::filesystem::path& folder) {
  std::error_code ignored;
  if (std::filesystem::exists(folder / kFile, ignored)) return read_characters(folder / kFile);
  return read_bpe(folder / "vocab.json", folder / "merges.txt");
}

}  // namespace troupe::gpt
