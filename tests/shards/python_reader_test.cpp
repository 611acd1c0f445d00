// A checkpoint's files are plain safetensors, which Python's package reads.
#include <sys/wait.h>

#include <cstdio>
#include <cstdlib>
#include <string>

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
    std::string out;
    const char* python = std::getenv("TROUPE_TEST_PYTHON");
    const int status = run(std::string(python ? python : "python3") + " " TROUPE_TEST_READER " " +
                               (folder.path() / entry.file).string() + " 2>&1",
                           out);
    if (status == 77 || status == 127) {
      MESSAGE("skipped: ", out);
      return;
    }
    CHECK_MESSAGE(status == 0, out);
    CHECK_MESSAGE(out.find("keys uint64 3 1000000000013\n") != std::string::npos, out);
    const std::string type = weights == DType::kFloat32 ? "float32" : "float16";
    CHECK_MESSAGE(out.find("weights " + type + " 3x4 -12.0\n") != std::string::npos, out);
    CHECK_MESSAGE(out.find("sum_of_squares float32 3x4 48.0\n") != std::string::npos, out);
    CHECK_MESSAGE(out.find("workers uint64 1x") != std::string::npos, out);
    CHECK_MESSAGE(out.find("('table', 'entity')") != std::string::npos, out);
  }
}

}  // namespace troupe::shards
