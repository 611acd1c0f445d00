// What a power cut would leave of a commit, seen from the order in which things reach the disk.
#include <sys/syscall.h>
#include <unistd.h>

#include <functional>

#include "snapshot_support.hpp"

namespace {
std::function<void(int)> on_fsync;  // one thread
}  // namespace

/// In place of the C library's, for this program.
extern "C" int fsync(int fd) {
  if (on_fsync) on_fsync(fd);
  return static_cast<int>(::syscall(SYS_fsync, fd));
}

namespace troupe::shards {
namespace {

using test::embedding_spec;
using test::Table;
using test::TemporaryFolder;
namespace fs = std::filesystem;

TEST_CASE("the older checkpoint is there until the newer one's name is on the disk") {
  const TemporaryFolder folder;
  Table table(embedding_spec(3), 2);
  table.train(1, 0, 5);
  table.save(folder / "tmp", folder / "a");
  table.train(2, 5, 5);
  bool named = false;
  on_fsync = [&](int fd) {
    std::error_code ignored;
    if (fs::read_symlink("/proc/self/fd/" + std::to_string(fd), ignored) != fs::canonical(folder.path()))
      return;
    named = true;
    // The exchange has given it the temporary folder's name.
    CHECK(fs::exists((folder / "tmp") / fs::path("manifest.json")));
    CHECK(fs::exists((folder / "a") / fs::path("manifest.json")));
  };
  table.save(folder / "tmp", folder / "a");
  on_fsync = nullptr;
  CHECK(named);
  CHECK_FALSE(fs::exists(folder / "tmp"));
}

}  // namespace
}  // namespace troupe::shards
