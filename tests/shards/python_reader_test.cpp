// A checkpoint's files are plain safetensors, which Python's package reads.
#include <sys/wait.h>

#include <cstdio>
#include <cstdlib>
#include <string>

#include <troupe/shards/table_file.hpp>

#include "snapshot_support.hpp"

namespace troupe::shards {
namespace {

using test::embedding_spec;
using test::TemporaryFolder;

/// The exit code; `out` has what it wrote.
int run(const std::string& command, std::string& out) {
  std::FILE* pipe = ::popen(command.c_str(), "r");
  REQUIRE(pipe != nullptr);
  char buffer[4096];
  while (const std::size_t got = std::fread(buffer, 1, sizeof buffer, pipe)) out.append(buffer, got);
  const int status = ::pclose(pipe);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

/// What Python's package reads of a file, as lines; empty: it is not there.
std::string python_reads(const std::filesystem::path& file) {
  std::string out;
  const char* python = std::getenv("TROUPE_TEST_PYTHON");
  const int status = run(
      std::string(python ? python : "python3") + " " TROUPE_TEST_READER " " + file.string() + " 2>&1", out);
  if (status == 77 || status == 127) {
    MESSAGE("skipped: ", out);
    return {};
  }
  CHECK_MESSAGE(status == 0, out);
  return out;
}

}  // namespace

TEST_CASE("Python's safetensors reads a checkpoint's files") {
  const TemporaryFolder folder;
  for (const DType weights : {DType::kFloat32, DType::kFloat16}) {
    TableSpec spec = embedding_spec(4, Adagrad{.learning_rate = 1});
    spec.weights = weights;
    spec.initializer = Zeros{};
    TableShard shard = TableShard::create(spec).value();
    const std::vector<std::uint64_t> keys{3, 10, 1'000'000'000'000};
    const std::vector<float> gradients(12, 2.0F);  // each weight becomes -1, each sum of squares 4
    REQUIRE(shard.push({.worker = 1, .sequence = 1}, keys, gradients).ok());
    const FileEntry entry = write_table_shard(folder.path(), 0, shard).value();
    const std::string out = python_reads(folder.path() / entry.file);
    if (out.empty()) return;
    CHECK_MESSAGE(out.find("keys uint64 3 1000000000013\n") != std::string::npos, out);
    const std::string type = weights == DType::kFloat32 ? "float32" : "float16";
    CHECK_MESSAGE(out.find("weights " + type + " 3x4 -12.0\n") != std::string::npos, out);
    CHECK_MESSAGE(out.find("sum_of_squares float32 3x4 48.0\n") != std::string::npos, out);
    CHECK_MESSAGE(out.find("workers uint64 1x") != std::string::npos, out);
    CHECK_MESSAGE(out.find("('table', 'entity')") != std::string::npos, out);
  }
}

TEST_CASE("Python's safetensors reads an exported file") {
  const TemporaryFolder folder;
  for (const DType weights : {DType::kFloat32, DType::kFloat16}) {
    const std::string type = weights == DType::kFloat32 ? "float32" : "float16";
    TableSpec spec = embedding_spec(4, Adagrad{.learning_rate = 1});
    spec.weights = weights;
    spec.initializer = Zeros{};
    test::Table table(spec, 2);
    table.push(1, 1, {3, 10, 1'000'000'000'000}, std::vector<float>(12, 2.0F));
    table.save(folder / "tmp", folder / type);
    REQUIRE(export_tables(folder / type, {.tables = {}, .state = true}, folder / (type + ".file")).ok());
    const std::string out = python_reads(folder / (type + ".file"));
    if (out.empty()) return;
    CHECK_MESSAGE(out.find("entity.keys uint64 3 1000000000013\n") != std::string::npos, out);
    CHECK_MESSAGE(out.find("entity.weights " + type + " 3x4 -12.0\n") != std::string::npos, out);
    CHECK_MESSAGE(out.find("entity.sum_of_squares float32 3x4 48.0\n") != std::string::npos, out);
    CHECK_MESSAGE(out.find("spec.entity") != std::string::npos, out);
  }
}

TEST_CASE("Python's safetensors reads a dense table's tensor in its own shape") {
  const TemporaryFolder folder;
  TableSpec spec = test::dense_spec(1, 1, Adagrad{.learning_rate = 1});
  spec.set_shape({2, 3, 4});
  spec.initializer = Zeros{};
  TableShard shard = TableShard::create(spec).value();
  const std::vector<RowRange> rows{{0, 2}};
  const std::vector<float> gradients(24, 2.0F);
  REQUIRE(shard.push({.worker = 1, .sequence = 1}, RowKeys(std::span(rows)), gradients).ok());
  const FileEntry entry = write_table_shard(folder.path(), 0, shard).value();
  const std::string out = python_reads(folder.path() / entry.file);
  if (out.empty()) return;
  CHECK_MESSAGE(out.find("keys") == std::string::npos, out);
  CHECK_MESSAGE(out.find("ranges uint64 1x2 2\n") != std::string::npos, out);
  CHECK_MESSAGE(out.find("weights float32 2x3x4 -24.0\n") != std::string::npos, out);
  CHECK_MESSAGE(out.find("sum_of_squares float32 2x3x4 96.0\n") != std::string::npos, out);
}

}  // namespace troupe::shards
