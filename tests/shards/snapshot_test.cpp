#include <troupe/shards/snapshot.hpp>

#include <cmath>
#include <cstring>
#include <numeric>

#include <troupe/runtime/checksum.hpp>
#include <troupe/runtime/json.hpp>

#include "snapshot_support.hpp"

namespace troupe::shards {
namespace {

namespace fs = std::filesystem;
using test::dense_spec;
using test::embedding_spec;
using test::kKeys;
using test::read_all;
using test::Table;
using test::TemporaryFolder;
using test::write_all;

TEST_CASE("a checkpoint of two shards loads on three, and that on one, with every bit") {
  for (const Optimizer& optimizer : test::every_optimizer()) {
    for (const TableSpec& spec : {embedding_spec(5, optimizer), dense_spec(kKeys, 5, optimizer)}) {
      INFO(spec.to_json());
      const TemporaryFolder folder;
      Table two(spec, 2);
      two.train(1, 0, 20);
      two.save(folder / "tmp", folder / "a");
      Table three(spec, 3);
      CHECK(three.load(folder / "a") == two.contents().size());
      CHECK(three.contents() == two.contents());
      three.save(folder / "tmp", folder / "b");
      Table one(spec, 1);
      CHECK(one.load(folder / "b") == two.contents().size());
      CHECK(one.contents() == two.contents());
      // All shards had seen all pushes, so each row's next step is the same wherever it lies.
      two.train(2, 100, 10);
      one.train(2, 100, 10);
      CHECK(one.contents() == two.contents());
    }
  }
}

TEST_CASE("rows of two bytes a weight are kept as they are") {
  for (const DType weights : {DType::kFloat16, DType::kBFloat16}) {
    for (const std::uint64_t dim : {1U, 5U, 16U}) {
      TableSpec spec = embedding_spec(dim, Adam{});
      spec.weights = weights;
      const TemporaryFolder folder;
      Table two(spec, 2);
      two.train(1, 0, 20);
      two.save(folder / "tmp", folder / "a");
      Table three(spec, 3);
      three.load(folder / "a");
      CHECK(three.contents() == two.contents());
    }
  }
}

TEST_CASE("training goes on after a restore as if nothing had been") {
  const std::uint64_t seed = troupe::test::test_seed();
  for (const Optimizer& optimizer : test::every_optimizer()) {
    TableSpec spec = embedding_spec(17, optimizer);
    spec.step_scaling = StepScaling::kInverseStaleness;
    const TemporaryFolder folder;
    Table before(spec, 2);
    before.train(seed, 0, 30);
    before.save(folder / "tmp", folder / "a");
    Table after(spec, 2);
    after.load(folder / "a");
    for (std::uint32_t i = 0; i < 2; ++i) {
      CHECK(after.shards[i].version() == before.shards[i].version());
      // By slot group, and within one in the order in which they were made.
      CHECK(test::all_rows(after.shards[i]).keys ==
            test::in_file_order(spec, test::all_rows(before.shards[i]).keys));
    }
    before.train(seed + 1, 30, 30);
    after.train(seed + 1, 30, 30);
    CHECK(after.contents() == before.contents());
  }
}

TEST_CASE("a push applied before the checkpoint is not applied again after it") {
  const TemporaryFolder folder;
  Table table(embedding_spec(1), 2);
  const std::vector<std::uint64_t> keys = {1, 2, 3, 4, 5, 6, 7, 8};
  const std::vector<float> gradients(keys.size(), 1.0F);
  table.push(9, 41, keys, gradients);
  table.save(folder / "tmp", folder / "a");
  for (const std::uint32_t count : {1U, 2U, 3U}) {
    Table restored(embedding_spec(1), count);
    restored.load(folder / "a");
    restored.push(9, 41, keys, gradients);
    CHECK(restored.contents() == table.contents());
    restored.push(9, 42, keys, gradients);
    CHECK(restored.contents() != table.contents());
  }
}

TEST_CASE(
    "a push that had reached one of two shards is finished when it is repeated, on any number of them") {
  const TemporaryFolder folder;
  const TableSpec spec = embedding_spec(1);
  Table table(spec, 2), whole(spec, 2);
  std::vector<std::uint64_t> keys(200);
  std::iota(keys.begin(), keys.end(), 0);
  const std::vector<float> gradients(keys.size(), 1.0F);
  table.push(9, 40, keys, gradients);
  whole.push(9, 40, keys, gradients);
  // The second one timed out at shard 1.
  REQUIRE(table.partitioner.split(keys).ok());
  const auto part = table.partitioner.keys(0);
  const PushHeader header{.worker = 9, .sequence = 41};
  REQUIRE(table.shards[0].push(header, part, std::span(gradients).first(part.size())).value().applied);
  whole.push(9, 41, keys, gradients);
  table.save(folder / "tmp", folder / "a");
  for (const std::uint32_t count : {1U, 2U, 3U, 5U}) {
    Table restored(spec, count);
    restored.load(folder / "a");
    restored.push(9, 41, keys, gradients);
    CHECK(restored.contents() == whole.contents());
    restored.push(9, 41, keys, gradients);
    CHECK(restored.contents() == whole.contents());
    // And through another checkpoint.
    restored.save(folder / "tmp", folder / "b");
    Table again(spec, 4);
    again.load(folder / "b");
    again.push(9, 41, keys, gradients);
    CHECK(again.contents() == whole.contents());
  }
}

TEST_CASE("a checkpoint's file with a key twice is refused, and one with a number that is none") {
  const TemporaryFolder folder;
  Table table(embedding_spec(1), 1);
  table.push(1, 0, {1, 2, 3}, {1, 1, 1});
  Manifest manifest = table.save(folder / "tmp", folder / "a");
  const fs::path path = (folder / "a") / manifest.files[0].file;
  const std::string good = read_all(path);
  std::uint64_t length = 0;
  std::memcpy(&length, good.data(), 8);
  const Json header = Json::parse(good.substr(8, length));
  const auto load_with = [&](const char* tensor, const void* value, std::size_t bytes) {
    std::string text = good;
    const std::size_t at = 8 + length + header[tensor]["data_offsets"][0].get<std::size_t>();
    text.replace(at, bytes, static_cast<const char*>(value), bytes);
    write_all(path, text);
    manifest.files[0].crc32c = crc32c(std::as_bytes(std::span(text)));
    TableShard shard = TableShard::create(embedding_spec(1)).value();
    return load_rows(folder / "a", manifest, "entity", shard);
  };
  const auto order = test::in_file_order(table.shards[0].spec(), {1, 2, 3});
  const std::uint64_t key = order[1];  // in the place of the first
  CHECK(load_with("keys", &key, 8).error().code == Code::kDataLoss);
  const float nan = std::nanf("");
  const auto loaded = load_with("weights", &nan, 4);
  REQUIRE_FALSE(loaded.ok());
  CHECK(loaded.error().code == Code::kDataLoss);
  CHECK(loaded.error().message.find("key " + std::to_string(order[0])) != std::string::npos);
}

TEST_CASE("empty shards, and progress without rows, are kept") {
  const TemporaryFolder folder;
  Table table(embedding_spec(3, Adam{}), 2);
  table.push(4, 7, {}, {});
  table.save(folder / "tmp", folder / "a");
  Table restored(embedding_spec(3, Adam{}), 2);
  CHECK(restored.load(folder / "a") == 0);
  CHECK(restored.shards[0].version() == 1);
  CHECK(restored.shards[0].groups().look(4, 7).applied == restored.shards[0].groups().groups());
}

TEST_CASE("a filter takes the rows of its slots alone") {
  const TemporaryFolder folder;
  const TableSpec spec = embedding_spec(2);
  Table table(spec, 1);
  table.train(1, 0, 10);
  const Manifest manifest = table.save(folder / "tmp", folder / "a");
  const SlotMap halves = SlotMap::balanced(spec.slots, 2);
  TableShard part = TableShard::create(spec).value();
  const std::uint64_t first = load_rows(folder / "a", manifest, spec.name, halves.slots_of(0), part).value();
  CHECK(first == part.row_count());
  CHECK(first < kKeys);
  for (const std::uint64_t key : test::all_rows(part).keys) CHECK(halves.shard_of(slot_of(spec, key)) == 0);
  const std::uint64_t second = load_rows(folder / "a", manifest, spec.name, halves.slots_of(1), part).value();
  CHECK(first + second == table.shards[0].row_count());
}

TEST_CASE("the manifest comes back as it was written") {
  const TemporaryFolder folder;
  Table table(embedding_spec(2, Adagrad{}), 3);
  table.train(1, 0, 5);
  const Manifest written = table.save(folder / "tmp", folder / "a");
  const Manifest read = read_manifest(folder / "a").value();
  CHECK(read.tables == written.tables);
  CHECK(read.files == written.files);
  CHECK(Json::parse(read.metadata) == Json::parse(written.metadata));
  CHECK(read.shard_count("entity") == 3);
  CHECK(read.row_count("entity") == table.contents().size());
  CHECK(read.find_table("nobody") == nullptr);
  CHECK(verify(folder / "a", read).ok());
  CHECK(file_entry_from_json(to_json(read.files[1])).value() == read.files[1]);
}

TEST_CASE("a newer checkpoint replaces an older one in one step and leaves nothing else") {
  const TemporaryFolder folder;
  Table table(embedding_spec(2), 2);
  for (std::uint64_t round = 0; round < 3; ++round) {
    table.train(round, round * 10, 5);
    table.save(folder / "tmp", folder / "a");
    Table restored(embedding_spec(2), 2);
    restored.load(folder / "a");
    CHECK(restored.contents() == table.contents());
    CHECK(std::distance(fs::directory_iterator(folder.path()), {}) == 1);
  }
}

TEST_CASE("what is not a checkpoint is not replaced, and a failed commit keeps the older one") {
  const TemporaryFolder folder;
  Table table(embedding_spec(2), 2);
  table.train(1, 0, 5);
  Manifest manifest = table.save(folder / "tmp", folder / "a");
  fs::create_directory(folder / "mine");
  write_all(folder / "mine" / fs::path("thesis.txt"), "years of work");
  for (std::uint32_t i = 0; i < 2; ++i) write_table_shard(folder / "tmp", i, table.shards[i]).value();
  CHECK(commit(folder / "tmp", folder / "mine", manifest).error().code == Code::kFailedPrecondition);
  CHECK(read_all(folder / "mine" / fs::path("thesis.txt")) == "years of work");
  CHECK(commit(folder / "tmp", folder / "tmp", manifest).error().code == Code::kInvalidArgument);

  const fs::path part = (folder / "tmp") / manifest.files[1].file;
  write_all(part, read_all(part) + "x");
  CHECK(commit(folder / "tmp", folder / "a", manifest).error().code == Code::kDataLoss);
  fs::remove(part);
  const Result<void> missing = commit(folder / "tmp", folder / "a", manifest);
  CHECK(missing.error().code == Code::kNotFound);
  CHECK(missing.error().message.find(manifest.files[1].file) != std::string::npos);
  CHECK(verify(folder / "a", read_manifest(folder / "a").value()).ok());

  manifest.files.pop_back();
  manifest.files[0].shard = 1;
  CHECK(commit(folder / "tmp", folder / "a", manifest).error().code == Code::kInvalidArgument);
  manifest.files[0].shard = 0;
  manifest.metadata = "[1]";
  CHECK(commit(folder / "tmp", folder / "a", manifest).error().code == Code::kInvalidArgument);
}

TEST_CASE("files follow the public safetensors format") {
  const TemporaryFolder folder;
  Table table(embedding_spec(3, Adam{}), 1);
  table.train(1, 0, 3);
  const Manifest manifest = table.save(folder / "tmp", folder / "a");
  const std::string bytes = read_all((folder / "a") / manifest.files[0].file);
  REQUIRE(bytes.size() == manifest.files[0].bytes);
  CHECK(crc32c(std::as_bytes(std::span(bytes))) == manifest.files[0].crc32c);
  std::uint64_t length = 0;
  for (int i = 7; i >= 0; --i)
    length = length << 8 | static_cast<unsigned char>(bytes[static_cast<std::size_t>(i)]);
  REQUIRE(8 + length <= bytes.size());
  CHECK((8 + length) % 8 == 0);
  const Json header = Json::parse(bytes.substr(8, length));
  const std::uint64_t rows = manifest.files[0].rows;
  std::map<std::uint64_t, std::uint64_t> ranges;
  for (const auto& [name, tensor] : header.items()) {
    if (name == "__metadata__") continue;
    ranges[tensor["data_offsets"][0]] = tensor["data_offsets"][1];
  }
  std::uint64_t end = 0;
  for (const auto& [begin, stop] : ranges) {
    CHECK(begin == end);
    end = stop;
  }
  CHECK(end == bytes.size() - 8 - length);
  CHECK(header["weights"]["shape"] == Json::array({rows, 3}));
  CHECK(header["weights"]["dtype"] == "F32");
  CHECK(header["keys"]["dtype"] == "U64");
  CHECK(header["second_moment"]["shape"] == Json::array({rows, 3}));
  CHECK(header["steps"]["shape"] == Json::array({rows}));
  const char* data = bytes.data() + 8 + length;
  const RowBatch all = test::all_rows(table.shards[0]);
  const std::size_t record = table.shards[0].layout().bytes();
  const auto order = test::in_file_order(table.shards[0].spec(), all.keys);
  for (std::uint64_t i = 0; i < rows; ++i) {
    CHECK(std::memcmp(data + header["keys"]["data_offsets"][0].get<std::size_t>() + i * 8, &order[i], 8) ==
          0);
    const auto row =
        static_cast<std::size_t>(std::find(all.keys.begin(), all.keys.end(), order[i]) - all.keys.begin());
    CHECK(std::memcmp(data + header["weights"]["data_offsets"][0].get<std::size_t>() + i * 12,
                      all.records.data() + row * record, 12) == 0);
  }
}

TEST_CASE("a checkpoint of another kind of table is refused") {
  const TemporaryFolder folder;
  const TableSpec spec = embedding_spec(3, Adagrad{});
  Table table(spec, 1);
  table.train(1, 0, 1);
  const Manifest manifest = table.save(folder / "tmp", folder / "a");
  TableSpec dense = dense_spec(9, 3, Adagrad{});
  dense.name = spec.name;
  TableSpec half = spec;
  half.weights = DType::kFloat16;
  for (const TableSpec& other : {embedding_spec(4, Adagrad{}), embedding_spec(3, Adam{}), dense, half}) {
    TableShard shard = TableShard::create(other).value();
    CHECK(load_rows(folder / "a", manifest, "entity", shard).error().code == Code::kFailedPrecondition);
  }
  TableShard shard = TableShard::create(spec).value();
  CHECK(load_rows(folder / "a", manifest, "nobody", shard).error().code == Code::kNotFound);
  CHECK(load_rows(folder / "a", manifest, "entity", SlotSet::all(4), shard).error().code ==
        Code::kInvalidArgument);
  // Another rate is no obstacle: it may have been changed on purpose.
  TableShard faster = TableShard::create(embedding_spec(3, Adagrad{.learning_rate = 0.5F})).value();
  CHECK(load_rows(folder / "a", manifest, "entity", faster).ok());
}

TEST_CASE("a table with more slots than before takes its rows from the checkpoint") {
  const TemporaryFolder folder;
  TableSpec spec = embedding_spec(3);
  Table table(spec, 2);
  table.train(1, 0, 5);
  table.save(folder / "tmp", folder / "a");
  spec.slots = 4096;
  Table finer(spec, 5);
  finer.load(folder / "a");
  CHECK(finer.contents() == table.contents());
}

TEST_CASE("a folder that cannot be made or written to is an error") {
  const TemporaryFolder folder;
  write_all(folder / "file", "x");
  TableShard shard = TableShard::create(embedding_spec(3)).value();
  const auto entry = write_table_shard((folder / "file") / fs::path("below"), 0, shard);
  REQUIRE_FALSE(entry.ok());
  CHECK(entry.error().message.find("file") != std::string::npos);
}

TEST_CASE("rows of more than a chunk and of uneven sizes survive") {
  const TemporaryFolder folder;
  const TableSpec spec = embedding_spec(1000, Adagrad{});
  Table table(spec, 1);
  std::vector<std::uint64_t> keys(1000);
  std::iota(keys.begin(), keys.end(), 0);
  table.push(1, 1, keys, std::vector<float>(keys.size() * 1000, 0.5F));
  table.save(folder / "tmp", folder / "a");
  Table restored(spec, 3);
  CHECK(restored.load(folder / "a") == 1000);
  CHECK(restored.contents() == table.contents());
}

}  // namespace
}  // namespace troupe::shards
