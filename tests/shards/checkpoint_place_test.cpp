#include "snapshot_support.hpp"

namespace troupe::shards {
namespace {

namespace fs = std::filesystem;
using test::TemporaryFolder;

TEST_CASE("a checkpoint goes where a link leads, and the link stays") {
  const TemporaryFolder folder;
  fs::create_directory(folder / "disk");
  fs::create_directory(folder / "out");
  const fs::path wanted = (folder / "out") / fs::path("checkpoint");
  fs::create_symlink("../disk/mine", wanted);  // of what is not there yet
  test::Table table(test::embedding_spec(2), 1);
  for (int turn = 0; turn < 2; ++turn) {
    table.train(1, static_cast<std::uint64_t>(turn) * 10, 5);
    const CheckpointPlace place = checkpoint_place(wanted).value();
    CHECK(place.final == fs::canonical(folder.path()) / "disk" / "mine");
    CHECK(place.temporary.parent_path() == place.final.parent_path());
    table.save(place.temporary, place.final);
    CHECK(fs::is_symlink(wanted));
    test::Table restored(test::embedding_spec(2), 1);
    restored.load(wanted);
    CHECK(restored.contents() == table.contents());
  }
}

TEST_CASE("places where no checkpoint can be put are refused before it is made") {
  const TemporaryFolder folder;
  const auto refused = [](const fs::path& wanted, const std::string& why) {
    const auto place = checkpoint_place(wanted);
    REQUIRE_FALSE(place.ok());
    CHECK(place.error().code == Code::kFailedPrecondition);
    INFO(place.error().message);
    CHECK(place.error().message.find(why) != std::string::npos);
  };
  refused("/proc", "is a mount point");
  test::write_all(folder / "file", "x");
  refused(folder / "file", "is not a checkpoint");
  refused((folder / "file") / fs::path("below"), "");
  fs::create_directory(folder / "mine");
  test::write_all((folder / "mine") / fs::path("thesis.txt"), "x");
  refused(folder / "mine", "is not a checkpoint");
  fs::create_symlink("b", folder / "a");
  fs::create_symlink("a", folder / "b");
  refused(folder / "a", "in a circle");
  CHECK(checkpoint_place((folder / "new") / fs::path("below/")).value().final.filename() == "below");
  CHECK(fs::is_directory(folder / "new"));
}

}  // namespace
}  // namespace troupe::shards
