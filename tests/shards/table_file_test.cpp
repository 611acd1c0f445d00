// Tables in one plain file: what others read, and what is taken from others.
#include <troupe/shards/table_file.hpp>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <numeric>

#include <troupe/runtime/json.hpp>

#include "snapshot_support.hpp"

namespace troupe::shards {
namespace {

namespace fs = std::filesystem;
using test::dense_spec;
using test::embedding_spec;
using test::read_all;
using test::Table;
using test::TemporaryFolder;
using test::write_all;

struct Tensor {
  std::string dtype;
  std::vector<std::uint64_t> shape;
  std::string bytes;

  template <class T>
  std::vector<T> as() const {
    std::vector<T> values(bytes.size() / sizeof(T));
    std::memcpy(values.data(), bytes.data(), values.size() * sizeof(T));
    return values;
  }
};

/// A reader that takes nothing but what the format says: tensors without gaps, in any order of names.
std::map<std::string, Tensor> strictly_read(const fs::path& path, Json* metadata = nullptr) {
  const std::string text = read_all(path);
  std::uint64_t length = 0;
  REQUIRE(text.size() >= 8);
  std::memcpy(&length, text.data(), 8);
  REQUIRE(length <= text.size() - 8);
  const Json header = Json::parse(text.substr(8, length));
  std::map<std::string, Tensor> tensors;
  std::map<std::uint64_t, std::uint64_t> ranges;
  for (const auto& [name, tensor] : header.items()) {
    if (name == "__metadata__") {
      if (metadata) *metadata = tensor;
      for (const auto& [key, value] : tensor.items()) REQUIRE(value.is_string());
      continue;
    }
    REQUIRE(tensor.size() == 3);
    const std::uint64_t begin = tensor["data_offsets"][0], end = tensor["data_offsets"][1];
    const std::string dtype = tensor["dtype"];
    std::uint64_t bytes = dtype == "U64" ? 8 : dtype == "F32" ? 4 : 2;
    CHECK(begin % bytes == 0);
    for (const auto& extent : tensor["shape"]) bytes *= extent.get<std::uint64_t>();
    REQUIRE(end - begin == bytes);
    if (bytes > 0) ranges[begin] = end;
    tensors[name] = {dtype, tensor["shape"], text.substr(8 + length + begin, bytes)};
  }
  std::uint64_t at = 0;
  for (const auto& [begin, end] : ranges) {
    REQUIRE(begin == at);
    at = end;
  }
  REQUIRE(8 + length + at == text.size());
  return tensors;
}

/// A safetensors file as others write it.
std::string plain_file(const std::vector<std::pair<std::string, Tensor>>& tensors,
                       const Json& metadata = Json()) {
  Json header = Json::object();
  if (!metadata.is_null()) header["__metadata__"] = metadata;
  std::string data;
  for (const auto& [name, tensor] : tensors) {
    header[name] = {{"dtype", tensor.dtype},
                    {"shape", tensor.shape},
                    {"data_offsets", {data.size(), data.size() + tensor.bytes.size()}}};
    data += tensor.bytes;
  }
  const std::string text = header.dump();
  const std::uint64_t length = text.size();
  return std::string(reinterpret_cast<const char*>(&length), 8) + text + data;
}

template <class T>
Tensor tensor_of(const std::string& dtype, std::vector<std::uint64_t> shape, const std::vector<T>& values) {
  return {dtype, std::move(shape), {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T)}};
}

/// A trained embedding table and a dense one in one checkpoint, each over `count` shards.
struct TwoTables {
  explicit TwoTables(std::uint32_t count, DType weights = DType::kFloat32)
      : entity(with(embedding_spec(5, Adam{}), weights), count),
        bias(with(dense_spec(40, 3, Adagrad{}), weights), count) {
    entity.train(1, 0, 10);
    std::vector<std::uint64_t> rows(40);
    std::iota(rows.begin(), rows.end(), 0);
    bias.push(1, 1, rows, std::vector<float>(120, 0.5F));
    Manifest manifest;
    for (const Table* table : {&entity, &bias}) {
      manifest.tables.push_back(table->shards[0].spec());
      for (std::uint32_t i = 0; i < count; ++i)
        manifest.files.push_back(write_table_shard(folder / "tmp", i, table->shards[i]).value());
    }
    commit(folder / "tmp", folder / "a", manifest).value();
  }
  static TableSpec with(TableSpec spec, DType weights) {
    spec.weights = weights;
    return spec;
  }

  TemporaryFolder folder;
  Table entity, bias;
};

Code code_of(const Result<std::uint64_t>& result) {
  return result ? Code::kOk : result.error().code;
}

}  // namespace

TEST_CASE("tables are exported as plain tensors, the same from however many shards") {
  std::string first;
  for (const std::uint32_t count : {1U, 3U}) {
    const TwoTables tables(count);
    const fs::path file = tables.folder / "tables.safetensors";
    const auto rows = export_tables(tables.folder / "a", {}, file);
    REQUIRE_MESSAGE(rows.ok(), rows.error().to_string());
    CHECK(*rows == tables.entity.contents().size() + 40);
    Json metadata;
    const auto tensors = strictly_read(file, &metadata);
    CHECK(tensors.size() == 3);
    CHECK(TableSpec::from_json(metadata["spec.entity"].get<std::string>()).value() ==
          tables.entity.shards[0].spec());
    const auto keys = tensors.at("entity.keys").as<std::uint64_t>();
    CHECK(std::is_sorted(keys.begin(), keys.end()));
    const std::string& weights = tensors.at("entity.weights").bytes;
    CHECK(tensors.at("entity.weights").shape == std::vector<std::uint64_t>{keys.size(), 5});
    const auto expected = tables.entity.contents();
    REQUIRE(keys.size() == expected.size());
    std::size_t at = 0;
    for (const auto& [key, record] : expected) {
      CHECK(keys[at] == key);
      CHECK(std::memcmp(&weights[at * 20], record.data(), 20) == 0);
      ++at;
    }
    CHECK(tensors.at("bias.weights").shape == std::vector<std::uint64_t>{40, 3});
    CHECK(tensors.at("bias.weights").bytes.size() == 480);
    if (first.empty()) first = read_all(file);
    CHECK(read_all(file) == first);
    CHECK_FALSE(fs::exists(file.string() + ".tmp"));
  }
}

TEST_CASE("what was exported with its state comes back with every bit, and without it with fresh state") {
  for (const DType weights : {DType::kFloat32, DType::kFloat16, DType::kBFloat16}) {
    CAPTURE(size_of(weights));
    const TwoTables tables(2, weights);
    const fs::path file = tables.folder / "tables.safetensors";
    REQUIRE(export_tables(tables.folder / "a", {.tables = {}, .state = true}, file).ok());
    CHECK(strictly_read(file).count("entity.second_moment") == 1);
    const auto rows = import_tables(file, {}, tables.folder / "b");
    REQUIRE_MESSAGE(rows.ok(), rows.error().to_string());
    Table entity(tables.entity.shards[0].spec(), 3), bias(tables.bias.shards[0].spec(), 2);
    CHECK(entity.load(tables.folder / "b") + bias.load(tables.folder / "b") == *rows);
    CHECK(entity.contents() == tables.entity.contents());
    CHECK(bias.contents() == tables.bias.contents());

    REQUIRE(export_tables(tables.folder / "a", {.tables = {"entity"}}, tables.folder / "one").ok());
    CHECK(import_tables(tables.folder / "one", {}, tables.folder / "c").value() ==
          tables.entity.contents().size());
    Table fresh(tables.entity.shards[0].spec(), 1);
    fresh.load(tables.folder / "c");
    const RowLayout& layout = fresh.shards[0].layout();
    const auto trained = tables.entity.contents();
    for (const auto& [key, record] : fresh.contents()) {
      CHECK(std::memcmp(record.data(), trained.at(key).data(), layout.weight_bytes()) == 0);
      for (std::size_t at = layout.state_offset(); at < layout.bytes(); ++at)
        CHECK(record[at] == std::byte{0});
    }
  }
}

TEST_CASE("tables of others are imported by their specs: with keys, without, dense") {
  const TemporaryFolder folder;
  write_all(folder / "file",
            plain_file({{"entity.weights", tensor_of<float>("F32", {2, 2}, {1, 2, 3, 4})},
                        {"entity.keys", tensor_of<std::uint64_t>("U64", {2}, {1'000'000'000'000, 7})},
                        {"words", tensor_of<float>("F32", {3, 1}, {5, 6, 7})},
                        {"bias", tensor_of<float>("F32", {2, 3}, {1, 2, 3, 4, 5, 6})},
                        {"not.ours", tensor_of<float>("F32", {1}, {0})}}));
  TableSpec words = embedding_spec(1);
  words.name = "words";
  const auto rows =
      import_tables(folder / "file", {embedding_spec(2), words, dense_spec(2, 3)}, folder / "a");
  REQUIRE_MESSAGE(rows.ok(), rows.error().to_string());
  CHECK(*rows == 7);
  Table entity(embedding_spec(2), 2), dense(dense_spec(2, 3), 2), words_table(words, 2);
  CHECK(entity.load(folder / "a") == 2);
  CHECK(dense.load(folder / "a") == 2);
  CHECK(words_table.load(folder / "a") == 3);
  const auto row_of = [](const Table& table, std::uint64_t key) {
    std::vector<float> row(table.shards[0].spec().dim);
    std::memcpy(row.data(), table.contents().at(key).data(), row.size() * sizeof(float));
    return row;
  };
  CHECK(row_of(entity, 7) == std::vector<float>{3, 4});
  CHECK(row_of(entity, 1'000'000'000'000) == std::vector<float>{1, 2});
  CHECK(row_of(dense, 1) == std::vector<float>{4, 5, 6});
  CHECK(row_of(words_table, 2) == std::vector<float>{7});
}

TEST_CASE("a file that does not fit, or has numbers that are none, is refused by the tensor's name") {
  const TemporaryFolder folder;
  const auto refused = [&](const std::string& text, const TableSpec& spec, const std::string& why) {
    write_all(folder / "file", text);
    const auto done = import_tables(folder / "file", {spec}, folder / "a");
    REQUIRE_FALSE(done.ok());
    CHECK(done.error().code == Code::kInvalidArgument);
    CHECK_MESSAGE(done.error().message.find((folder / "file").string()) != std::string::npos,
                  done.error().message);
    CHECK_MESSAGE(done.error().message.find(why) != std::string::npos, done.error().message);
    CHECK_FALSE(fs::exists(folder / "a"));
    CHECK_FALSE(fs::exists(folder / "a.tmp"));
  };
  const TableSpec spec = embedding_spec(2);
  const Tensor good = tensor_of<float>("F32", {2, 2}, {1, 2, 3, 4});
  refused(plain_file({{"other", good}}), spec, "has no tensor 'entity.weights'");
  refused(plain_file({{"entity", tensor_of<float>("F32", {4}, {1, 2, 3, 4})}}), spec,
          "tensor 'entity' is F32 [4], table 'entity' wants F32 [4, 2]");
  refused(plain_file({{"entity", tensor_of<float>("F32", {}, {1})}}), spec, "is F32 []");
  refused(plain_file({{"entity", tensor_of<double>("F64", {2, 2}, {1, 2, 3, 4})}}), spec, "is F64 [2, 2]");
  refused(plain_file({{"entity", good}}), dense_spec(2, 2), "has no tensor 'bias.weights'");
  refused(plain_file({{"bias", good}}), dense_spec(std::uint64_t{1} << 40, 2), "is F32 [2, 2]");
  refused(plain_file({{"entity", good}, {"entity.keys", tensor_of<std::uint64_t>("U64", {1}, {1})}}), spec,
          "'entity.keys' is U64 [1]");
  refused(plain_file({{"entity", good}, {"entity.keys", tensor_of<std::uint64_t>("U64", {2}, {9, 9})}}), spec,
          "has key 9 twice");
  refused(plain_file({{"entity", good}, {"entity.sum_of_squares", tensor_of<float>("F32", {2}, {1, 2})}}),
          embedding_spec(2, Adagrad{}), "'entity.sum_of_squares' is F32 [2]");
  for (const float bad : {std::nanf(""), HUGE_VALF, -HUGE_VALF}) {
    refused(plain_file({{"entity", tensor_of<float>("F32", {2, 2}, {1, 2, 3, bad})}}), spec,
            "'entity' has a number that is not finite in the row of key 1");
    refused(plain_file({{"entity", good},
                        {"entity.sum_of_squares", tensor_of<float>("F32", {2, 2}, {bad, 1, 1, 1})}}),
            embedding_spec(2, Adagrad{}), "'entity.sum_of_squares' has a number that is not finite");
  }
  struct Bad {
    DType weights;
    const char* dtype;
    std::uint16_t number;
  };
  for (const Bad bad : {Bad{DType::kFloat16, "F16", 0x7e01}, Bad{DType::kFloat16, "F16", 0xfc00},
                        Bad{DType::kBFloat16, "BF16", 0x7fc1}, Bad{DType::kBFloat16, "BF16", 0xff80}}) {
    TableSpec half = spec;
    half.weights = bad.weights;
    refused(plain_file({{"entity", tensor_of<std::uint16_t>(bad.dtype, {2, 2}, {0, bad.number, 0, 0})}}),
            half, "not finite in the row of key 0");
  }
  // What is no safetensors file, says nothing of tables, or says nonsense.
  write_all(folder / "file", "x");
  CHECK(code_of(import_tables(folder / "file", {spec}, folder / "a")) == Code::kDataLoss);
  CHECK(code_of(import_tables(folder / "nowhere", {spec}, folder / "a")) == Code::kNotFound);
  write_all(folder / "file", plain_file({{"entity", good}}));
  CHECK(code_of(import_tables(folder / "file", {}, folder / "a")) == Code::kInvalidArgument);
  CHECK(code_of(import_tables(folder / "file", {spec, spec}, folder / "a")) == Code::kInvalidArgument);
  write_all(folder / "file", plain_file({{"entity", good}}, {{"spec.entity", "{}"}}));
  CHECK(code_of(import_tables(folder / "file", {}, folder / "a")) == Code::kInvalidArgument);
}

TEST_CASE(
    "nothing that is there is replaced by an export or an import, and a bad checkpoint is not exported") {
  const TwoTables tables(1);
  const fs::path file = tables.folder / "file";
  write_all(file, "mine");
  CHECK(code_of(export_tables(tables.folder / "a", {}, file)) == Code::kAlreadyExists);
  CHECK(read_all(file) == "mine");
  CHECK_FALSE(fs::exists(file.string() + ".tmp"));
  const fs::path exported = tables.folder / "exported";
  CHECK(code_of(export_tables(tables.folder / "a", {.tables = {"lost"}}, exported)) == Code::kNotFound);
  REQUIRE(export_tables(tables.folder / "a", {}, exported).ok());
  CHECK(code_of(import_tables(exported, {}, tables.folder / "a")) == Code::kAlreadyExists);
  CHECK(code_of(import_tables(exported, {}, file)) == Code::kFailedPrecondition);

  fs::path damaged;
  for (const auto& entry : fs::directory_iterator(tables.folder / "a"))
    if (entry.path().extension() == ".safetensors") damaged = entry.path();
  std::string bytes = read_all(damaged);
  bytes[bytes.size() / 2] = static_cast<char>(bytes[bytes.size() / 2] ^ 1);
  write_all(damaged, bytes);
  const auto refused = export_tables(tables.folder / "a", {}, tables.folder / "again");
  CHECK(code_of(refused) == Code::kDataLoss);
  CHECK_FALSE(fs::exists(tables.folder / "again"));
  CHECK_FALSE(fs::exists(tables.folder / "again.tmp"));
}

}  // namespace troupe::shards
