// How much of a checkpoint's files is read to load it.
#include <fstream>
#include <numeric>

#include <troupe/runtime/checksum.hpp>

#include <troupe/shards/checked_file.hpp>
#include "snapshot_support.hpp"

namespace troupe::shards {
namespace {

using test::embedding_spec;
using test::Table;
using test::TemporaryFolder;
namespace fs = std::filesystem;

/// Bytes that this process has read so far, from whatever.
std::uint64_t bytes_read() {
  std::ifstream in("/proc/self/io");
  for (std::string name; in >> name;) {
    std::uint64_t number = 0;
    in >> number;
    if (name == "rchar:") return number;
  }
  return 0;
}

/// What else is read meanwhile: /proc/self/io itself.
constexpr std::uint64_t kBesides = 64 << 10;

/// 8,000 rows of half a kilobyte.
Table large_table(std::uint32_t shards) {
  Table table(embedding_spec(64, Adagrad{}), shards);
  std::vector<std::uint64_t> keys(8'000);
  std::iota(keys.begin(), keys.end(), 0);
  table.push(1, 1, keys, std::vector<float>(keys.size() * 64, 0.5F));
  return table;
}

/// What one of `count` shards reads to have its rows; `rows` are added to.
std::uint64_t read_by(std::uint32_t index, std::uint32_t count, const fs::path& folder,
                      const Manifest& manifest, std::uint64_t& rows) {
  const TableSpec& spec = manifest.tables[0];
  TableShard shard = TableShard::create(spec, SlotMap::balanced(spec.slots, count).slots_of(index)).value();
  const std::uint64_t before = bytes_read();
  rows += load_rows(folder, manifest, spec.name, shard).value();
  return bytes_read() - before;
}

}  // namespace

TEST_CASE("each byte of a checkpoint is read once, and only by those who may have rows in its file") {
  if (bytes_read() == 0) {
    MESSAGE("skipped: there is no /proc/self/io");
    return;
  }
  const TemporaryFolder folder;
  const Manifest manifest = large_table(4).save(folder / "tmp", folder / "a");
  const std::uint64_t file = manifest.files[0].bytes;
  REQUIRE(file > 8 * kBesides);
  for (const std::uint32_t count : {1U, 2U, 4U, 8U}) {
    CAPTURE(count);
    const std::uint64_t files = count >= 4 ? 1 : 4 / count;  // that have its rows
    std::uint64_t rows = 0;
    for (std::uint32_t index = 0; index < count; ++index) {
      std::uint64_t expected = 0;
      for (std::uint64_t i = 0; i < files; ++i) expected += manifest.files[index * 4 / count + i].bytes;
      // Of a file that others share: about its own groups' part.
      const std::uint64_t least = count > 4 ? expected * 4 / count * 9 / 10 : expected;
      const std::uint64_t most = count > 4 ? expected * 4 / count * 5 / 4 : expected;
      const std::uint64_t read = read_by(index, count, folder / "a", manifest, rows);
      CHECK(read >= least);
      CHECK(read < most + kBesides);
    }
    CHECK(rows == 8'000);
  }
}

TEST_CASE("of a file with others' slots, too, a shard reads its own slot groups' rows alone") {
  if (bytes_read() == 0) {
    MESSAGE("skipped: there is no /proc/self/io");
    return;
  }
  for (const bool dense : {false, true}) {
    CAPTURE(dense);
    const TemporaryFolder folder;
    std::vector<std::uint64_t> keys(16'000);
    std::iota(keys.begin(), keys.end(), 0);
    Table table(dense ? test::dense_spec(keys.size(), 64, Adagrad{}) : embedding_spec(64, Adagrad{}), 1);
    table.push(1, 1, keys, std::vector<float>(keys.size() * 64, 0.5F));
    const Manifest manifest = table.save(folder / "tmp", folder / "a");
    REQUIRE(manifest.files.size() == 1);
    // 8 MB in pieces of a 64th each, and a head.
    const std::uint64_t file = manifest.files[0].bytes;
    std::uint64_t rows = 0;
    for (std::uint32_t index = 0; index < 16; ++index) {
      const std::uint64_t read = read_by(index, 16, folder / "a", manifest, rows);
      CHECK(read < file / 16 * 5 / 4 + kBesides);
    }
    CHECK(rows == keys.size());
  }
}

TEST_CASE("who reads pieces of a file notices what is damaged in them and in the head, and nothing else") {
  const TemporaryFolder folder;
  Table table = large_table(1);
  const Manifest manifest = table.save(folder / "tmp", folder / "a");
  const FileEntry& entry = manifest.files[0];
  const TableSpec& spec = manifest.tables[0];
  const fs::path path = (folder / "a") / entry.file;
  const std::string good = test::read_all(path);
  const auto halves = SlotMap::balanced(spec.slots, 2);
  const auto failures = [&](std::size_t at) {
    std::string bad = good;
    bad[at] = static_cast<char>(bad[at] ^ 1);
    test::write_all(path, bad);
    int failed = 0;
    for (std::uint32_t index = 0; index < 2; ++index) {
      TableShard shard = TableShard::create(spec, halves.slots_of(index)).value();
      const auto loaded = load_rows(folder / "a", manifest, spec.name, shard);
      if (loaded) continue;
      ++failed;
      CHECK(loaded.error().code == Code::kDataLoss);
      CHECK(loaded.error().message.find(path.string() + " is corrupt") != std::string::npos);
    }
    return failed;
  };
  CHECK(failures(9) == 2);
  CHECK(failures(entry.head_bytes - 1) == 2);
  for (const std::size_t at : {entry.head_bytes, entry.head_bytes + 60'000, good.size() / 2, good.size() - 1})
    CHECK(failures(at) == 1);
}

TEST_CASE("a checkpoint of before heads were written of is read as a whole") {
  const TemporaryFolder folder;
  Table table = large_table(2);
  Manifest manifest = table.save(folder / "tmp", folder / "a");
  for (FileEntry& entry : manifest.files) entry.head_bytes = entry.head_crc32c = 0;
  Table again(manifest.tables[0], 3);
  std::uint64_t rows = 0;
  for (TableShard& shard : again.shards)
    rows += load_rows(folder / "a", manifest, manifest.tables[0].name, shard).value();
  CHECK(rows == 8'000);
  CHECK(again.contents() == table.contents());
}

TEST_CASE("checksums of two texts make that of both") {
  std::mt19937_64 random(troupe::test::test_seed());
  std::vector<std::byte> text(5'000);
  for (std::byte& byte : text) byte = static_cast<std::byte>(random());
  for (const std::size_t cut : {std::size_t{0}, std::size_t{1}, std::size_t{8}, std::size_t{4'999},
                                text.size(), random() % text.size(), random() % text.size()}) {
    CAPTURE(cut);
    const std::span<const std::byte> all(text);
    const std::uint32_t first = crc32c(all.first(cut)), second = crc32c(all.subspan(cut));
    CHECK(crc32c_of_both(first, second, text.size() - cut) == crc32c(all));
  }
}

TEST_CASE("a damaged file is called that, whatever seems to be wrong in it") {
  const TemporaryFolder folder;
  Table table = large_table(1);
  const Manifest manifest = table.save(folder / "tmp", folder / "a");
  const fs::path path = (folder / "a") / manifest.files[0].file;
  const std::string good = test::read_all(path);
  // A header that is none, a number that is none, and the last byte.
  for (const std::size_t at : {std::size_t{8}, good.size() / 2, good.size() - 4}) {
    CAPTURE(at);
    std::string bad = good;
    for (std::size_t i = 0; i < 4; ++i) bad[at + i] = '\xff';
    test::write_all(path, bad);
    TableShard shard = TableShard::create(manifest.tables[0]).value();
    const auto loaded = load_rows(folder / "a", manifest, "entity", shard);
    REQUIRE_FALSE(loaded.ok());
    CHECK(loaded.error().code == Code::kDataLoss);
    CHECK(loaded.error().message.find(path.string() + " is corrupt") != std::string::npos);
  }
}

}  // namespace troupe::shards
