#include <cstring>

#include <troupe/runtime/checksum.hpp>
#include <troupe/runtime/json.hpp>

#include "snapshot_support.hpp"

namespace troupe::shards {
namespace {

namespace fs = std::filesystem;
using test::embedding_spec;
using test::read_all;
using test::Table;
using test::TemporaryFolder;
using test::write_all;

/// A checkpoint of one small file, to be spoilt.
class Spoilt {
 public:
  explicit Spoilt(const TableSpec& spec = embedding_spec(3, Adam{})) : spec_(spec) {
    Table table(spec_, 1);
    table.push(1, 0, {1, 2, 3}, std::vector<float>(9, 1.0F));
    manifest_ = table.save(folder_ / "tmp", folder_ / "a");
    file_ = (folder_ / "a") / manifest_.files[0].file;
    good_ = read_all(file_);
  }
  const std::string& good() const { return good_; }
  const fs::path& file() const { return file_; }
  fs::path folder() const { return folder_ / "a"; }
  const Manifest& manifest() const { return manifest_; }

  Result<std::uint64_t> load(const std::string& bytes) {
    write_all(file_, bytes);
    TableShard shard = TableShard::create(spec_).value();
    return load_rows(folder(), manifest_, spec_.name, shard);
  }
  /// As if the bytes had been written so: the manifest agrees with them.
  Result<std::uint64_t> load_trusted(const std::string& bytes) {
    manifest_.files[0].bytes = bytes.size();
    manifest_.files[0].crc32c = crc32c(std::as_bytes(std::span(bytes)));
    return load(bytes);
  }
  /// The same, read in pieces: by one that owns a half of the slots.
  Result<std::uint64_t> load_trusted_in_pieces(const std::string& bytes) {
    const auto half = SlotMap::balanced(spec_.slots, 2).slots_of(0);
    manifest_.files[0].bytes = bytes.size();
    const std::uint64_t head = std::min<std::uint64_t>(manifest_.files[0].head_bytes, bytes.size());
    manifest_.files[0].head_crc32c = crc32c(std::as_bytes(std::span(bytes)).first(head));
    manifest_.files[0].crc32c = crc32c(std::as_bytes(std::span(bytes)));
    write_all(file_, bytes);
    TableShard shard = TableShard::create(spec_, half).value();
    return load_rows(folder(), manifest_, spec_.name, shard);
  }
  /// The file with another header.
  Result<std::uint64_t> load_header(const std::string& header) {
    std::uint64_t length = header.size();
    std::string bytes(reinterpret_cast<const char*>(&length), 8);
    return load_trusted(bytes + header + good_.substr(data_begin()));
  }
  /// The file with other bytes in one of its tensors.
  Result<std::uint64_t> load_with(const char* tensor, std::size_t at, const void* value, std::size_t bytes) {
    std::string text = good_;
    const Json parsed = Json::parse(header());
    text.replace(data_begin() + parsed[tensor]["data_offsets"][0].get<std::size_t>() + at, bytes,
                 static_cast<const char*>(value), bytes);
    return load_trusted(text);
  }
  std::string header() const { return good_.substr(8, data_begin() - 8); }

 private:
  std::size_t data_begin() const {
    std::uint64_t length = 0;
    std::memcpy(&length, good_.data(), 8);
    return 8 + length;
  }

  const TableSpec spec_;
  TemporaryFolder folder_;
  Manifest manifest_;
  fs::path file_;
  std::string good_;
};

TEST_CASE("a flipped bit anywhere in a file is found and the file named") {
  Spoilt spoilt;
  REQUIRE(spoilt.load(spoilt.good()).value() == 3);
  for (std::size_t at = 0; at < spoilt.good().size(); ++at) {
    std::string bytes = spoilt.good();
    bytes[at] = static_cast<char>(bytes[at] ^ (1 << (at % 8)));
    const auto loaded = spoilt.load(bytes);
    REQUIRE_FALSE(loaded.ok());
    REQUIRE(loaded.error().code == Code::kDataLoss);
    REQUIRE(loaded.error().message.find(spoilt.file().string()) != std::string::npos);
  }
}

TEST_CASE("a file cut short or too long is found") {
  Spoilt spoilt;
  for (std::size_t size = 0; size < spoilt.good().size(); size += 7) {
    CHECK(spoilt.load(spoilt.good().substr(0, size)).error().code == Code::kDataLoss);
  }
  CHECK(spoilt.load(spoilt.good() + '\0').error().code == Code::kDataLoss);
  CHECK(verify(spoilt.folder(), spoilt.manifest()).error().code == Code::kDataLoss);
  fs::remove(spoilt.file());
  TableShard shard = TableShard::create(embedding_spec(3, Adam{})).value();
  const auto missing = load_rows(spoilt.folder(), spoilt.manifest(), "entity", shard);
  CHECK(missing.error().code == Code::kNotFound);
  CHECK(missing.error().message.find(spoilt.file().string()) != std::string::npos);
}

TEST_CASE("files that are wrong although their checksum is right give errors, not crashes") {
  const std::uint64_t seed = troupe::test::test_seed();
  std::mt19937_64 random(seed);
  Spoilt spoilt;
  for (std::size_t size = 0; size < spoilt.good().size(); size += 3) {
    CHECK(spoilt.load_trusted(spoilt.good().substr(0, size)).error().code == Code::kDataLoss);
    CHECK_FALSE(spoilt.load_trusted_in_pieces(spoilt.good().substr(0, size)).ok());
  }
  for (std::size_t at = 0; at < spoilt.good().size(); ++at) {
    std::string bytes = spoilt.good();
    bytes[at] = static_cast<char>(random());
    const auto loaded = spoilt.load_trusted(bytes);  // a changed number is another number
    if (!loaded.ok()) REQUIRE(loaded.error().code == Code::kDataLoss);
    const auto piece = spoilt.load_trusted_in_pieces(bytes);
    if (!piece.ok()) REQUIRE(piece.error().code == Code::kDataLoss);
  }
  for (const std::uint64_t length :
       {std::uint64_t{0}, std::uint64_t{1}, std::uint64_t{1} << 20, std::uint64_t{1} << 62, UINT64_MAX}) {
    std::string bytes = spoilt.good();
    std::memcpy(bytes.data(), &length, 8);
    CHECK(spoilt.load_trusted(bytes).error().code == Code::kDataLoss);
  }
}

TEST_CASE("numbers of two bytes that are not finite are refused, with the key of their row") {
  struct Bad {
    DType weights;
    std::uint16_t number;
  };
  for (const Bad bad :
       {Bad{DType::kFloat16, 0x7c00}, Bad{DType::kFloat16, 0xfc00}, Bad{DType::kFloat16, 0x7e01},
        Bad{DType::kBFloat16, 0x7f80}, Bad{DType::kBFloat16, 0xff80}, Bad{DType::kBFloat16, 0x7fc1}}) {
    CAPTURE(bad.number);
    TableSpec spec = embedding_spec(3, Adam{});
    spec.weights = bad.weights;
    Spoilt spoilt(spec);
    for (const std::uint64_t row : {0U, 2U}) {
      const auto loaded = spoilt.load_with("weights", (row * 3 + 1) * 2, &bad.number, sizeof bad.number);
      REQUIRE_FALSE(loaded.ok());
      CHECK(loaded.error().code == Code::kDataLoss);
      CHECK(loaded.error().message.find("not finite in the row of key " +
                                        std::to_string(test::in_file_order(spec, {1, 2, 3})[row])) !=
            std::string::npos);
    }
    // The largest ones that there are.
    const std::uint16_t largest = bad.weights == DType::kFloat16 ? 0x7bff : 0x7f7f;
    CHECK(spoilt.load_with("weights", 0, &largest, sizeof largest).value() == 3);
  }
}

TEST_CASE("headers that lie are refused") {
  Spoilt spoilt;
  const Json good = Json::parse(spoilt.header());
  REQUIRE(spoilt.load_header(good.dump()).value() == 3);
  const auto refused = [&](auto change) {
    Json bad = good;
    change(bad);
    const auto loaded = spoilt.load_header(bad.dump());
    INFO(bad.dump());
    REQUIRE_FALSE(loaded.ok());
    CHECK(loaded.error().code == Code::kDataLoss);
    CHECK(loaded.error().message.find(spoilt.file().string()) != std::string::npos);
  };
  for (const auto& [name, tensor] : good.items()) {
    refused([&, key = name](Json& bad) { bad.erase(key); });
    refused([&, key = name](Json& bad) { bad[key] = 3; });
    if (name == "__metadata__") continue;
    for (const char* member : {"dtype", "shape", "data_offsets"}) {
      refused([&, key = name](Json& bad) { bad[key].erase(member); });
      refused([&, key = name](Json& bad) { bad[key][member] = "F999"; });
    }
    refused([&, key = name](Json& bad) { bad[key]["shape"] = {std::uint64_t{1} << 63, 4}; });
    refused([&, key = name](Json& bad) { bad[key]["shape"] = Json::array(); });
    refused([&, key = name](Json& bad) { bad[key]["shape"] = {-1}; });
    refused([&, key = name](Json& bad) { bad[key]["data_offsets"] = {8, 0}; });
    refused([&, key = name](Json& bad) { bad[key]["data_offsets"] = {0, UINT64_MAX}; });
    refused([&, key = name](Json& bad) { bad[key]["data_offsets"] = {0, 1, 2}; });
    refused([&, key = name](Json& bad) { bad[key]["more"] = 1; });
  }
  refused([](Json& bad) { bad["extra"] = {{"dtype", "U8"}, {"shape", {1}}, {"data_offsets", {0, 1}}}; });
  refused([](Json& bad) { bad["__metadata__"]["version"] = "12x"; });
  refused([](Json& bad) { bad["__metadata__"]["version"] = ""; });
  refused([](Json& bad) { bad["__metadata__"].erase("version"); });
  CHECK(spoilt.load_header("[" + std::string(100000, '[')).error().code == Code::kDataLoss);
  CHECK(spoilt.load_header(R"({"a":)" + std::string(100000, '[')).error().code == Code::kDataLoss);
}

TEST_CASE("manifests that lie are refused") {
  Spoilt spoilt;
  const fs::path path = spoilt.folder() / "manifest.json";
  const Json good = Json::parse(read_all(path));
  const auto refused = [&](const std::string& text) {
    write_all(path, text);
    const auto manifest = read_manifest(spoilt.folder());
    INFO(text);
    REQUIRE_FALSE(manifest.ok());
    CHECK(manifest.error().code == Code::kDataLoss);
    CHECK(manifest.error().message.find(path.string()) != std::string::npos);
  };
  const auto changed = [&](auto change) {
    Json bad = good;
    change(bad);
    refused(bad.dump());
  };
  for (const auto& [name, value] : good.items()) {
    changed([&, key = name](Json& bad) { bad.erase(key); });
    changed([&, key = name](Json& bad) { bad[key] = nullptr; });
  }
  changed([](Json& bad) { bad["format_version"] = 3; });
  changed([](Json& bad) { bad["extra"] = 2; });
  changed([](Json& bad) { bad["tables"].push_back(bad["tables"][0]); });
  changed([](Json& bad) { bad["tables"][0]["dim"] = 0; });
  changed([](Json& bad) { bad["files"].push_back(bad["files"][0]); });
  changed([](Json& bad) { bad["files"] = Json::array(); });
  changed([](Json& bad) { bad["files"][0]["shard"] = 1; });
  changed([](Json& bad) { bad["files"][0]["table"] = "other"; });
  changed([](Json& bad) { bad["files"][0]["rows"] = -1; });
  for (const char* name : {"", "..", "../x", "/etc/passwd", "a/b", ".hidden"}) {
    changed([&](Json& bad) { bad["files"][0]["file"] = name; });
  }
  const std::string text = good.dump();
  for (std::size_t size = 0; size < text.size(); size += 5) refused(text.substr(0, size));
  fs::remove(path);
  CHECK(read_manifest(spoilt.folder()).error().code == Code::kNotFound);
}

}  // namespace
}  // namespace troupe::shards
