// `troupe checkpoint`: what is in one, and its tables in and out of plain files.
#include <cstdint>
#include <filesystem>
#include <string>

#include <troupe/shards/table_spec.hpp>

#include "command.hpp"

using namespace command_test;

namespace {

/// A safetensors file with one tensor "words" F32 [2, 2].
std::string plain_file() {
  const std::string header = R"({"words":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]}})";
  const std::uint64_t length = header.size();
  return std::string(reinterpret_cast<const char*>(&length), 8) + header + std::string(16, '\0');
}

std::string spec_of_words() {
  troupe::shards::TableSpec spec;
  spec.name = "words";
  spec.dim = 2;
  return spec.to_json();
}

void check_bad(const std::vector<std::string>& args, const std::string& expected) {
  const auto done = run(args);
  CAPTURE(done.err);
  CHECK(done.code == 2);
  CHECK(done.out.empty());
  CHECK(count(done.err, "\n") == 1);
  CHECK(done.err.starts_with("troupe checkpoint: "));
  CHECK(done.err.find(expected) != std::string::npos);
}

}  // namespace

TEST_CASE("a plain file becomes a checkpoint, which is shown, verified and exported") {
  const Folder folder;
  const std::string file = folder.write("plain", plain_file()),
                    spec = folder.write("spec.json", spec_of_words());
  const std::string checkpoint = folder / "checkpoint", exported = folder / "exported";
  const auto imported = run({"checkpoint", "import", file, checkpoint, "--spec", spec});
  CAPTURE(imported.err);
  REQUIRE(imported.code == 0);
  CHECK(imported.out == checkpoint + ": 2 rows\n");
  const auto shown = run({"checkpoint", "show", checkpoint});
  CHECK(shown.code == 0);
  CHECK(shown.out.starts_with("words: 2 rows, "));
  CHECK(shown.out.find(R"("name":"words")") != std::string::npos);
  CHECK(run({"checkpoint", "verify", checkpoint}).out == checkpoint + ": 1 files are as they were written\n");
  const auto written = run({"checkpoint", "export", checkpoint, exported, "--table", "words", "--state"});
  CHECK(written.code == 0);
  CHECK(written.out == exported + ": 2 rows\n");
  CHECK(run({"checkpoint", "import", exported, folder / "again"}).code == 0);  // it has its spec with it

  check_bad({"checkpoint", "export", checkpoint, exported}, "exists already");
  check_bad({"checkpoint", "export", checkpoint, folder / "x", "--table", "wrods"}, "no table 'wrods'");
  check_bad({"checkpoint", "import", file, folder / "y"}, "give the spec of each");
  check_bad({"checkpoint", "import", file, checkpoint, "--spec", spec}, "is a checkpoint already");
  check_bad({"checkpoint", "import", file, folder / "y", "--spec", file}, "plain");
  check_bad({"checkpoint", "show", folder / "nowhere"}, "holds no checkpoint");
  std::filesystem::resize_file(checkpoint + "/words.0.safetensors", 20);
  check_bad({"checkpoint", "verify", checkpoint}, "has 20 bytes");
}

TEST_CASE("what troupe checkpoint is to do must be said") {
  CHECK(run({"checkpoint"}).code == 2);
  CHECK(run({"checkpoint", "shwo", "x"}).code == 2);
  CHECK(run({"checkpoint", "export", "x"}).code == 2);
}
