// Checkpoints of dense tables: tensors in their own shape, without keys.
#include <cstring>
#include <functional>

#include <troupe/runtime/checksum.hpp>
#include <troupe/shards/table_file.hpp>

#include <troupe/shards/file_io.hpp>
#include "snapshot_format.hpp"
#include "snapshot_support.hpp"

namespace troupe::shards {
namespace {

namespace fs = std::filesystem;
using test::dense_spec;
using test::read_all;
using test::Table;
using test::TemporaryFolder;
using test::write_all;

SafetensorsHeader header_of(const fs::path& path) {
  return read_safetensors_header(FileReader::open(path).value()).value();
}

std::string bytes_of(const std::string& file, const SafetensorsEntry& tensor) {
  return file.substr(tensor.begin, tensor.bytes);
}

/// Writes other bytes, or another file, in the place of a checkpoint's file, as if they had been meant.
void replace(const fs::path& folder, Manifest& manifest, std::size_t file, const std::string& bytes) {
  write_all(folder / manifest.files[file].file, bytes);
  manifest.files[file].bytes = bytes.size();
  manifest.files[file].crc32c = crc32c(std::as_bytes(std::span(bytes)));
  manifest.files[file].head_bytes = 0;  // as of before there were heads
}

std::string words(const std::vector<std::uint64_t>& numbers) {
  return {reinterpret_cast<const char*>(numbers.data()), numbers.size() * 8};
}

/// A file with a list of keys in the place of its ranges, and tensors [rows, dim], as they were at first.
std::string keyed(const fs::path& path, const TableSpec& spec, const std::vector<std::uint64_t>& keys) {
  const std::string file = read_all(path);
  const SafetensorsHeader header = header_of(path);
  std::vector<SafetensorsEntry> tensors{{kKeysTensor, "U64", {keys.size()}, 0, keys.size() * 8}};
  std::string data = words(keys);
  for (const SafetensorsEntry& tensor : header.entries) {
    if (tensor.name == kRangesTensor) continue;
    tensors.push_back(tensor);
    const bool wide = tensor.name != kWorkersTensor && tensor.bytes == keys.size() * spec.dim * 4;
    if (wide) tensors.back().shape = {keys.size(), spec.dim};
    data += bytes_of(file, tensor);
  }
  return encode_safetensors_header(tensors, header.metadata) + data;
}

}  // namespace

TEST_CASE("a dense tensor is saved in its own shape, without keys, and loads on other numbers of shards") {
  for (const std::vector<std::uint64_t>& shape :
       {std::vector<std::uint64_t>{300}, {60, 5}, {60, 3, 5}, {60, 2, 1, 3}, {1, 7}}) {
    TableSpec spec = dense_spec(1, 1, Adam{});
    spec.set_shape(shape);
    INFO(spec.to_json());
    const TemporaryFolder folder;
    Table one(spec, 1);
    std::vector<std::uint64_t> rows(spec.rows);
    for (std::size_t i = 0; i < rows.size(); ++i) rows[i] = i;
    std::mt19937_64 random(4);
    for (std::uint64_t sequence = 0; sequence < 3; ++sequence)
      one.push(1, sequence, rows, test::random_floats(random, spec.rows * spec.dim));
    const Manifest manifest = one.save(folder / "tmp", folder / "a");
    const fs::path path = folder / "a" / manifest.files[0].file;
    const SafetensorsHeader header = header_of(path);
    CHECK(header.find("keys") == nullptr);
    REQUIRE(header.find("weights") != nullptr);
    CHECK(header.find("weights")->shape == shape);
    CHECK(header.find("first_moment")->shape == shape);
    CHECK(header.find("ranges")->shape == std::vector<std::uint64_t>{1, 2});
    std::vector<float> weights(spec.rows * spec.dim);
    REQUIRE(one.shards[0].peek(rows, weights.data()).ok());
    CHECK(bytes_of(read_all(path), *header.find("weights")) ==
          std::string(reinterpret_cast<const char*>(weights.data()), weights.size() * sizeof(float)));

    Table three(spec, 3);
    CHECK(three.load(folder / "a") == spec.rows);
    CHECK(three.contents() == one.contents());
    const Manifest parts = three.save(folder / "tmp", folder / "b");
    std::uint64_t slices = 0;
    for (const FileEntry& entry : parts.files) {
      const SafetensorsHeader part = header_of(folder / "b" / entry.file);
      CHECK(part.find("keys") == nullptr);
      CHECK(part.find("weights")->shape.size() == shape.size());
      slices += part.find("weights")->shape[0];
    }
    CHECK(slices == shape[0]);
    Table two(spec, 2);
    CHECK(two.load(folder / "b") == spec.rows);
    CHECK(two.contents() == one.contents());
  }
}

TEST_CASE("a dense tensor is exported in its own shape, and imported from it") {
  TableSpec spec = dense_spec(1, 1, Adagrad{});
  spec.set_shape({12, 2, 3});
  const TemporaryFolder folder;
  Table two(spec, 2);
  two.push(1, 0, {0, 5, 11}, std::vector<float>(18, 1.0F));
  two.save(folder / "tmp", folder / "a");
  REQUIRE(export_tables(folder / "a", {.tables = {}, .state = true}, folder / "file").value() == 12);
  const SafetensorsHeader header = header_of(folder / "file");
  CHECK(header.find("bias.weights")->shape == spec.shape);
  CHECK(header.find("bias.sum_of_squares")->shape == spec.shape);
  REQUIRE(import_tables(folder / "file", {}, folder / "b").value() == 12);
  Table three(spec, 3);
  CHECK(three.load(folder / "b") == 12);
  CHECK(three.contents() == two.contents());
  TableSpec other = spec;
  other.set_shape({12, 6});
  CHECK(import_tables(folder / "file", {other}, folder / "c").error().code == Code::kInvalidArgument);
}

TEST_CASE("shards with several ranges, none, or parts of slices save and load") {
  TableSpec spec = dense_spec(1, 1, Adagrad{});
  spec.set_shape({30, 4});
  spec.rows = 120, spec.dim = 1;  // a slice is four rows
  REQUIRE(spec.validate().ok());
  const TemporaryFolder folder;
  Manifest manifest;
  manifest.tables.push_back(spec);
  std::vector<TableShard> shards;
  std::vector<SlotSet> slots(3, SlotSet::none(spec.slots));  // of the last one nobody has rows
  for (std::uint32_t slot = 0; slot < spec.slots; ++slot) slots[slot / 100 % 2].insert(slot);
  for (std::uint32_t i = 0; i < 3; ++i) {
    shards.push_back(TableShard::create(spec, slots[i]).value());
    const std::vector<RowRange> ranges = rows_of_slots(spec, slots[i]);
    const RowKeys rows((std::span(ranges)));
    const std::vector<float> gradients(rows.size(), static_cast<float>(i + 1));
    REQUIRE(shards[i].push({.worker = 1, .sequence = 1}, rows, gradients).ok());
    manifest.files.push_back(write_table_shard(folder / "tmp", i, shards[i]).value());
    const SafetensorsHeader header = header_of(folder / "tmp" / manifest.files[i].file);
    CHECK(header.find("ranges")->shape[0] == ranges.size());
  }
  REQUIRE(commit(folder / "tmp", folder / "a", manifest).ok());
  Table two(spec, 2);
  CHECK(two.load(folder / "a") == 120);
  for (const auto& [row, record] : two.contents()) {
    const std::uint32_t from = slot_of(spec, row) / 100 % 2;
    std::vector<float> expected(1);
    REQUIRE(shards[from].peek(std::vector<std::uint64_t>{row}, expected.data()).ok());
    float weight = 0;
    std::memcpy(&weight, record.data(), sizeof weight);
    CHECK(weight == expected[0]);
  }
}

TEST_CASE("checkpoints of dense tables from before, with keys, can be restored") {
  for (const std::vector<std::uint64_t>& shape : {std::vector<std::uint64_t>{60, 5}, {60, 3, 5}}) {
    TableSpec spec = dense_spec(1, 1, Adam{});
    spec.set_shape(shape);
    const TemporaryFolder folder;
    Table two(spec, 2);
    two.push(1, 0, {1, 59, 30}, std::vector<float>(3 * spec.dim, 1.0F));
    Manifest manifest = two.save(folder / "tmp", folder / "a");
    for (std::size_t i = 0; i < 2; ++i) {
      const auto rows = test::all_rows(two.shards[i]);
      replace(folder / "a", manifest, i, keyed(folder / "a" / manifest.files[i].file, spec, rows.keys));
      CHECK(header_of(folder / "a" / manifest.files[i].file).find("keys") != nullptr);
    }
    Table three(spec, 3);
    for (TableShard& shard : three.shards) {
      const auto loaded = load_rows(folder / "a", manifest, spec.name, shard);
      REQUIRE_MESSAGE(loaded.ok(), loaded.error().message);
    }
    CHECK(three.contents() == two.contents());
  }
}

TEST_CASE("a dense row that comes twice in the place of another is refused by its number") {
  const TableSpec spec = dense_spec(40, 3, Adam{});
  const auto loaded_with = [&](bool with_keys) {
    const TemporaryFolder folder;
    Table two(spec, 2);
    Manifest manifest = two.save(folder / "tmp", folder / "a");
    const fs::path second = folder / "a" / manifest.files[1].file;
    std::string bytes = read_all(second);
    if (with_keys) {
      std::vector<std::uint64_t> keys = test::all_rows(two.shards[1]).keys;
      keys[5] = keys[4];
      bytes = keyed(second, spec, keys);
    } else {  // rows 19 to 38 in the place of 20 to 39
      const std::string ranges = words({19, 20});
      bytes.replace(header_of(second).find("ranges")->begin, ranges.size(), ranges);
    }
    replace(folder / "a", manifest, 1, bytes);
    TableShard all = TableShard::create(spec).value();
    return load_rows(folder / "a", manifest, spec.name, all);
  };
  for (const bool with_keys : {false, true}) {
    const auto loaded = loaded_with(with_keys);
    REQUIRE_FALSE(loaded.ok());
    CHECK(loaded.error().code == Code::kDataLoss);
    const std::string row = with_keys ? "24" : "19";
    CHECK_MESSAGE(loaded.error().message.find("row " + row + ", which has come before") != std::string::npos,
                  loaded.error().message);
  }
}

TEST_CASE("a dense table's file whose ranges lie is refused") {
  const TableSpec spec = dense_spec(40, 3);
  const TemporaryFolder folder;
  Table one(spec, 1);
  Manifest manifest = one.save(folder / "tmp", folder / "a");
  const fs::path path = folder / "a" / manifest.files[0].file;
  const std::string good = read_all(path);
  const SafetensorsEntry ranges = *header_of(path).find("ranges");
  const auto load = [&](const std::string& bytes) {
    replace(folder / "a", manifest, 0, bytes);
    TableShard all = TableShard::create(spec).value();
    return load_rows(folder / "a", manifest, spec.name, all);
  };
  REQUIRE(load(good).value() == 40);
  const auto refused = [&](std::uint64_t first, std::uint64_t count, const std::string& why) {
    std::string bad = good;
    bad.replace(ranges.begin, 16, words({first, count}));
    const auto loaded = load(bad);
    REQUIRE_FALSE(loaded.ok());
    CHECK(loaded.error().code == Code::kDataLoss);
    CHECK_MESSAGE(loaded.error().message.find(why) != std::string::npos, loaded.error().message);
    CHECK(loaded.error().message.find(path.string()) != std::string::npos);
  };
  refused(0, 39, "is of 39 rows, expected 40");
  refused(1, 40, "out of range, it has 40 rows");
  refused(0, 0, "are none");
  refused(UINT64_MAX, 2, "more rows than can be");
  refused(2, UINT64_MAX, "more rows than can be");
  refused(UINT64_MAX - 40, 40, "out of range");
  // A row that no file has.
  std::string bad = good;
  bad.replace(ranges.begin, 16, words({0, 39}));
  manifest.files[0].rows = 39;
  CHECK(load(bad).error().code == Code::kDataLoss);
}

TEST_CASE("a dense table's rows that come in another order than its file says are not written") {
  const TableSpec spec = dense_spec(40, 1);
  const TemporaryFolder folder;
  const TableShard shard = TableShard::create(spec).value();
  const auto writer = ShardFileWriter::create(folder.path(), 0, shard, 40);
  RowBatch rows = test::all_rows(shard);
  std::swap(rows.keys[3], rows.keys[4]);
  CHECK(writer->append(rows).error().code == Code::kInternal);
}

}  // namespace troupe::shards
