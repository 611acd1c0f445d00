// Tokens that are bytes, characters, and pairs of bytes, these against what Hugging Face's tokenizers made of
// the same files (scripts/gpt_vectors.py).
#include "gpt/tokenizer.hpp"

#include <doctest/doctest.h>

#include <fstream>

#include <troupe/runtime/files.hpp>
#include <troupe/runtime/json.hpp>

#include "support/temporary_folder.hpp"

using namespace troupe;
using namespace troupe::gpt;

namespace {

const std::filesystem::path kData = std::filesystem::path(TROUPE_TEST_DATA) / "tokenizer";

void put(const std::filesystem::path& file, const std::string& text) {
  REQUIRE(write_file_atomically(file.string(), text).ok());
}

}  // namespace

TEST_CASE("pairs of bytes are those of Hugging Face's tokenizers, and text comes back as it was") {
  const auto tokenizer = read_bpe(kData / "vocab.json", kData / "merges.txt").value();
  const Json cases = read_json_file((kData / "cases.json").string()).value();
  REQUIRE(cases.size() > 10);
  for (const Json& each : cases) {
    const auto text = each.at("text").get<std::string>();
    CAPTURE(text);
    const auto tokens = tokenizer->encode(text).value();
    CHECK(tokens == each.at("tokens").get<std::vector<std::int32_t>>());
    CHECK(tokenizer->decode(tokens) == text);
  }
  // Bytes that are no UTF-8 go through, too.
  const std::string odd = "a\xff\xc3 \xe2\x82 b";
  CHECK(tokenizer->decode(tokenizer->encode(odd).value()) == odd);
}

TEST_CASE("a word of a million letters is no trouble") {
  const auto tokenizer = read_bpe(kData / "vocab.json", kData / "merges.txt").value();
  std::string text;
  while (text.size() < 1'000'000) text += "consistency";
  CHECK(tokenizer->decode(tokenizer->encode(text).value()) == text);
}

TEST_CASE("files of pairs that are not as they must be are refused, naming the place") {
  const test::TemporaryFolder folder;
  const auto vocabulary = folder.path() / "vocab.json";
  const auto merges = folder.path() / "merges.txt";
  const std::string good_vocabulary = read_file((kData / "vocab.json").string()).value();
  const std::string good_merges = read_file((kData / "merges.txt").string()).value();
  const auto refusal = [&](const std::string& vocabulary_text, const std::string& merges_text) {
    put(vocabulary, vocabulary_text);
    put(merges, merges_text);
    const auto read = read_tokenizer(folder.path());
    REQUIRE(!read.ok());
    CHECK(read.error().code == Code::kInvalidArgument);
    return read.error().message;
  };
  const auto says = [](const std::string& text, const char* what) {
    return text.find(what) != std::string::npos;
  };
  Json json = Json::parse(good_vocabulary);
  CHECK(says(refusal("[1]", good_merges), "no object of tokens"));
  CHECK(says(refusal("{\"a\": 0", good_merges), "vocab.json:1"));
  json["he"] = json["he"].get<int>() + 100000;
  CHECK(says(refusal(json.dump(), good_merges), "the number of 'he' is"));
  json["he"] = json["a"];
  CHECK(says(refusal(json.dump(), good_merges), "comes twice"));
  json["he"] = "x";
  CHECK(says(refusal(json.dump(), good_merges), "the number of 'he' is \"x\""));
  CHECK(says(refusal("{\"a\": 0}", good_merges), "which stands for one byte, is missing"));
  CHECK(says(refusal(good_vocabulary, "#version: 0.2\nh e\nh e\n"), "line 3: 'h e' comes twice"));
  CHECK(says(refusal(good_vocabulary, "h  e\n"), "line 1: 'h  e' is not two tokens"));
  CHECK(says(refusal(good_vocabulary, "he\n"), "line 1: 'he' is not two tokens"));
  CHECK(says(refusal(good_vocabulary, "q zzz\n"), "'zzz' is no token"));
  CHECK(says(refusal(good_vocabulary, "q z\n"), "'qz' is no token"));
  put(vocabulary, good_vocabulary);
  put(merges, good_merges);
  CHECK(read_tokenizer(folder.path()).ok());
  std::filesystem::remove(merges);
  CHECK(read_tokenizer(folder.path()).error().code == Code::kNotFound);
}

TEST_CASE("characters and bytes come back, also from a folder") {
  const std::string text = "grüße, 日本\n";
  const test::TemporaryFolder folder;
  for (const bool bytes : {false, true}) {
    CAPTURE(bytes);
    const auto made = bytes ? byte_tokenizer() : character_tokenizer(text).value();
    CHECK(made->size() == (bytes ? 256 : 10));
    REQUIRE(made->write(folder.path()).ok());
    const auto again = read_tokenizer(folder.path()).value();
    CHECK(again->size() == made->size());
    const auto tokens = made->encode(text).value();
    CHECK(again->encode(text).value() == tokens);
    CHECK(again->decode(tokens) == text);
    CHECK(again->decode(std::vector<std::int32_t>{-1, 9999}) == "");
  }
  const auto made = character_tokenizer(text).value();
  CHECK(made->encode("grüßx").error().message ==
        "the character 'x' at byte 6 was not in the text that the model learned from");
  CHECK(character_tokenizer("a\xff").error().code == Code::kInvalidArgument);
  CHECK(character_tokenizer("").error().code == Code::kInvalidArgument);
  for (const char* wrong :
       {"{}", "{\"kind\": \"words\"}", "{\"kind\": \"characters\", \"characters\": [\"ab\"]}",
        "{\"kind\": \"characters\", \"characters\": [\"a\", \"a\"]}",
        "{\"kind\": \"characters\", \"characters\": [1]}",
        "{\"kind\": \"characters\", \"characters\": []}"}) {
    CAPTURE(wrong);
    put(folder.path() / "characters.json", wrong);
    CHECK(read_tokenizer(folder.path()).error().code == Code::kInvalidArgument);
  }
}
