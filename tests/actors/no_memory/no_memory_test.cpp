// Memory that is not to be had on a server's other thread is an error of the call, and nothing else.
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <new>
#include <numeric>
#include <string>
#include <vector>

#include "actors/tables.hpp"
#include "support/own_new.hpp"
#include "support/temporary_folder.hpp"

namespace {

/// Threads that sync to disk meanwhile are known as such.
std::atomic<bool> marking{false};
thread_local bool syncs = false;
/// Of this size and more they get no memory; 0: they do.
std::atomic<std::size_t> missing{0};
/// From the next sync to disk on, so many times, there is none for the thread that has synced.
std::atomic<int> after_sync{0};
thread_local int starving = 0;
std::atomic<int> failures{0};

}  // namespace

void troupe::test::before_allocation(std::size_t size) {
  if (starving == 0 && (missing == 0 || !syncs || size < missing)) return;
  if (starving > 0) --starving;
  ++failures;
  throw std::bad_alloc();
}

/// In place of the C library's, for this program.
extern "C" int fsync(int fd) {
  const int result = static_cast<int>(::syscall(SYS_fsync, fd));
  starving += after_sync.exchange(0);
  if (marking) syncs = true;
  return result;
}

using namespace troupe;
using namespace troupe::test;

namespace {

using Files = std::vector<std::string>;

/// A server with a table of Adagrad, 1,000 rows of 67.
struct OneTable {
  OneTable() {
    spec.name = "entity";
    spec.dim = 67;
    spec.optimizer = shards::Adagrad{};
    std::iota(keys.begin(), keys.end(), 0);
    client = open_table(node, spec, names, 1);
    const std::vector<float> gradients(keys.size() * spec.dim, 1.0F);
    REQUIRE(client->push(keys, gradients.data()).get().ok());
  }
  Result<Files> save() { return node.rpc_sync<Files>("ps0", "save", folder / "tmp", Files{spec.name}); }

  const TemporaryFolder folder;
  RealCluster cluster;
  const std::vector<std::string> names = add_servers(cluster, 1);
  Node& node = cluster.add("worker");
  shards::TableSpec spec;
  std::unique_ptr<TableClient> client;
  std::vector<std::uint64_t> keys = std::vector<std::uint64_t>(1'000);
};

}  // namespace

TEST_CASE("no memory for a page of a checkpoint: the save says so, and the next one works") {
  OneTable table;
  marking = true;
  REQUIRE(table.save().ok());
  marking = false;
  failures = 0;
  missing = 1000;  // less than a column of a slot group's rows, which the other thread makes
  const auto failed = table.save();
  missing = 0;
  CHECK(failures > 0);
  CHECK(code_of(failed) == Code::kResourceExhausted);
  CHECK_MESSAGE(contains(text_of(failed), "saving table 'entity'"), text_of(failed));
  const auto saved = table.save();
  CHECK_MESSAGE(saved.ok(), text_of(saved));
}

TEST_CASE("no memory at all on the other thread, for a while: the save ends when there is some again") {
  OneTable table;
  for (const int times : {1, 2, 5, 20}) {
    CAPTURE(times);
    failures = 0;
    after_sync = times;
    const auto failed = table.save();
    CHECK(after_sync == 0);
    CHECK(failures == times);
    CHECK(code_of(failed) == Code::kResourceExhausted);
    const auto saved = table.save();
    CHECK_MESSAGE(saved.ok(), text_of(saved));
  }
}
