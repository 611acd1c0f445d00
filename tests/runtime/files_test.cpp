#include <troupe/runtime/files.hpp>

#include <unistd.h>

#include <cstdint>
#include <cstring>
#include <filesystem>
#include <iterator>
#include <span>
#include <string>
#include <vector>

#include <doctest/doctest.h>
#include <troupe/runtime/checksum.hpp>
#include <troupe/runtime/json.hpp>
#include <troupe/runtime/random.hpp>

using namespace troupe;

namespace {

/// A directory that is removed at the end.
struct Directory {
  Directory() {
    std::string name = (std::filesystem::temp_directory_path() / "troupe-files-XXXXXX").string();
    path = mkdtemp(name.data());
  }
  ~Directory() { std::filesystem::remove_all(path); }
  std::size_t entries() const {
    return static_cast<std::size_t>(std::distance(std::filesystem::directory_iterator(path), {}));
  }
  std::string path;
};

std::uint32_t crc_of(std::string_view text) {
  return crc32c(std::as_bytes(std::span(text.data(), text.size())));
}

}  // namespace

TEST_CASE("a file written atomically reads back, replaces the old one and leaves nothing else") {
  const Directory directory;
  const std::string path = directory.path + "/state.json";
  std::string large(300'000, 'x');
  large[1234] = '\0';
  for (const std::string& contents : {std::string("first"), std::string(), large}) {
    REQUIRE(write_file_atomically(path, contents).ok());
    CHECK(*read_file(path) == contents);
    CHECK(directory.entries() == 1);
  }
}

TEST_CASE("file errors name the file and the reason, and a failed write leaves the old file") {
  const Directory directory;
  const Result<std::string> missing = read_file(directory.path + "/none");
  REQUIRE_FALSE(missing);
  CHECK(missing.error().code == Code::kNotFound);
  CHECK(missing.error().message == "cannot read '" + directory.path + "/none': No such file or directory");
  CHECK_FALSE(write_file_atomically(directory.path + "/no/such/dir", std::string_view("x")));
  std::filesystem::create_directories(directory.path + "/taken/inside");
  CHECK_FALSE(write_file_atomically(directory.path + "/taken", std::string_view("x")));
  CHECK(directory.entries() == 1);
}

TEST_CASE("files without a size are read to their end") {
  const Result<std::string> status = read_file("/proc/self/status");
  REQUIRE(status.ok());
  CHECK(status->find("Threads:") != std::string::npos);
}

TEST_CASE("JSON errors tell file, line and column") {
  const Result<Json> bad = parse_json("{\n  \"a\": 1,\n  \"b\": oops\n}", "job.json");
  REQUIRE_FALSE(bad);
  CHECK(bad.error().code == Code::kInvalidArgument);
  CHECK(bad.error().message.starts_with("job.json:3:"));
  CHECK(bad.error().message.find("json.exception") == std::string::npos);
  CHECK_FALSE(parse_json("", "x"));
  CHECK_FALSE(parse_json("[1e999]", "x"));
  CHECK_FALSE(parse_json("// no\n1", "x"));
  // Far deeper, and it would overflow the stack of whoever writes it again.
  const auto nested = [](std::size_t depth) { return std::string(depth, '[') + std::string(depth, ']'); };
  CHECK(parse_json(nested(256), "x"));
  const Result<Json> deep = parse_json(nested(257), "spec");
  REQUIRE_FALSE(deep);
  CHECK(deep.error().code == Code::kInvalidArgument);
  CHECK(deep.error().message == "spec: nested deeper than 256 levels");
  CHECK(parse_json("\"" + std::string(1000, '[') + "\"", "x"));  // within a string it is text
  CHECK(*parse_json("// yes\n1", "x", JsonComments::kAllowed) == 1);
  CHECK((*parse_json(R"({"a": [1, 2]})", "x"))["a"][1] == 2);
}

TEST_CASE("a name that comes twice in one object of JSON is refused, in two objects not") {
  CHECK(parse_json(R"({"a": {"b": 1}, "c": [{"b": 2}, {"b": 3, "a": {}}]})", "x"));
  for (const char* text :
       {R"({"a": 1, "b": 2, "a": 1})", R"([{"c": {"a": [], "a": {}}}])", R"({"a": 1, "\u0061": 1})"}) {
    const Result<Json> twice = parse_json(text, "spec");
    REQUIRE_FALSE(twice);
    CHECK(twice.error().code == Code::kInvalidArgument);
    CHECK(twice.error().message == "spec: 'a' comes twice");
  }
}

TEST_CASE("deeply nested JSON does not exhaust the stack") {
  const std::string deep(1'000'000, '[');
  CHECK_FALSE(parse_json(deep, "x"));
}

TEST_CASE("bytes that are not UTF-8 do not stop a line from being written") {
  CHECK(to_line(Json{{"a", "x\xff"}}) == "{\"a\":\"x\xEF\xBF\xBD\"}");
}

TEST_CASE("crc32c gives the published values") {
  CHECK(crc_of("") == 0);
  CHECK(crc_of("123456789") == 0xe3069283U);
  CHECK(crc_of(std::string(32, '\0')) == 0x8a9136aaU);  // RFC 3720, B.4
  CHECK(crc_of(std::string(32, '\xff')) == 0x62a8ab43U);
}

TEST_CASE("crc32c over pieces is that of the whole, at every length and alignment") {
  Random random(21);
  std::vector<std::byte> bytes(600);
  for (std::byte& byte : bytes) byte = static_cast<std::byte>(random());
  for (std::size_t size = 0; size < 300; ++size) {
    const auto part = std::span(bytes).subspan(size % 9, size);
    std::uint32_t bitwise = ~0U;  // by definition, bit for bit
    for (const std::byte byte : part) {
      bitwise ^= std::to_integer<std::uint32_t>(byte);
      for (int bit = 0; bit < 8; ++bit) bitwise = (bitwise >> 1) ^ ((bitwise & 1U) != 0 ? 0x82f63b78U : 0U);
    }
    REQUIRE(crc32c(part) == ~bitwise);
    REQUIRE(crc32c_portable(part) == ~bitwise);
    const std::size_t cut = size == 0 ? 0 : random.below(size);
    REQUIRE(crc32c(part.subspan(cut), crc32c(part.first(cut))) == ~bitwise);
  }
}
