// A server whose disk takes long to answer, or does not answer at all.
#include <sys/syscall.h>
#include <unistd.h>

#include <chrono>
#include <condition_variable>
#include <mutex>
#include <numeric>
#include <optional>
#include <string>
#include <vector>

#include "support/temporary_folder.hpp"
#include "tables.hpp"

using namespace troupe;
using namespace troupe::test;

namespace {

/// While it is closed, this process' syncs to disk do not return.
class Gate {
 public:
  void close() {
    const std::lock_guard lock(mutex_);
    closed_ = true;
  }
  void open() {
    const std::lock_guard lock(mutex_);
    closed_ = false;
    changed_.notify_all();
  }
  void pass() {
    std::unique_lock lock(mutex_);
    if (!closed_) return;
    ++waiting_;
    changed_.notify_all();
    changed_.wait_for(lock, 4 * kPatience, [&] { return !closed_; });
    --waiting_;
    changed_.notify_all();
  }
  bool nobody_waits() {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, kPatience, [&] { return waiting_ == 0; });
  }
  bool somebody_waits() {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, kPatience, [&] { return waiting_ > 0; });
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool closed_ = false;
  int waiting_ = 0;
} gate;

/// Closed while it lives, whatever becomes of the test.
struct Closed {
  Closed() { gate.close(); }
  ~Closed() { gate.open(); }
};

using Files = std::vector<std::string>;

/// A server, and a client of a table of 3,000 rows there.
struct OneTable {
  OneTable() {
    spec.name = "entity";
    spec.dim = 16;
    spec.optimizer = shards::Sgd{1, 0};
    client = open_table(node, spec, names, 1);
    std::iota(keys.begin(), keys.end(), 0);
    push(1);
  }
  void push(float gradient) {
    const std::vector<float> gradients(keys.size() * spec.dim, gradient);
    const auto pushed = client->push(keys, gradients.data()).get();
    REQUIRE_MESSAGE(pushed.ok(), text_of(pushed));
  }
  float first_weight() {
    std::vector<float> rows(keys.size() * spec.dim);
    const auto read = client->peek(keys, rows.data()).get();
    REQUIRE_MESSAGE(read.ok(), text_of(read));
    return rows[0];
  }
  rpc::Future<Files> save(const std::string& to, Duration timeout = kPatience) {
    return node.rpc_async_with<Files>({.timeout = timeout}, "ps0", "save", folder / to, Files{spec.name});
  }
  /// Makes a checkpoint "a" of what was saved to `from`, and puts its rows in place.
  void go_back_to(const std::string& from, const Files& files) {
    shards::Manifest manifest;
    manifest.tables.push_back(spec);
    for (const auto& text : files) manifest.files.push_back(shards::file_entry_from_json(text).value());
    const auto committed = shards::commit(folder / from, folder / "a", manifest);
    REQUIRE_MESSAGE(committed.ok(), text_of(committed));
    const auto restored = node.rpc_sync<std::uint64_t>("ps0", "restore", folder / "a");
    REQUIRE_MESSAGE(restored.ok(), text_of(restored));
  }

  const TemporaryFolder folder;
  RealCluster cluster;
  const std::vector<std::string> names = add_servers(cluster, 1);
  Node& node = cluster.add("worker");
  shards::TableSpec spec;
  std::unique_ptr<TableClient> client;
  std::vector<std::uint64_t> keys = std::vector<std::uint64_t>(3'000);
};

}  // namespace

/// In place of the C library's, for this program.
extern "C" int fsync(int fd) {
  gate.pass();
  return static_cast<int>(::syscall(SYS_fsync, fd));
}

TEST_CASE("a disk that does not answer holds up nobody but who saves, and a second save is refused") {
  OneTable table;
  rpc::Future<Files> saved;
  {
    const Closed closed;
    saved = table.save("tmp");
    REQUIRE(gate.somebody_waits());
    for (int i = 0; i < 20; ++i) table.push(1);
    CHECK(table.first_weight() == -21);
    const auto second = table.save("tmp2").get();
    CHECK(code_of(second) == Code::kFailedPrecondition);
    CHECK_MESSAGE(contains(text_of(second), "is being written to " + (table.folder / "tmp") + " already"),
                  text_of(second));
    CHECK(code_of(table.node.rpc_sync<std::uint64_t>("ps0", "restore", table.folder / "tmp")) ==
          Code::kFailedPrecondition);
    CHECK_FALSE(saved.ready());
  }
  const auto files = saved.get();
  REQUIRE_MESSAGE(files.ok(), text_of(files));
  table.go_back_to("tmp", *files);
  CHECK(table.first_weight() == -1);
}

TEST_CASE("a save ends at its deadline; the next ones are told of the disk, until that answers") {
  OneTable table;
  const TimePoint limit = table.node.loop().clock().now() + kPatience;
  const auto in_time = [&] { return table.node.loop().clock().now() < limit; };
  {
    const Closed closed;
    auto late = table.save("tmp", std::chrono::seconds(2));
    REQUIRE(gate.somebody_waits());
    CHECK(code_of(late.get()) == Code::kDeadlineExceeded);
    table.push(1);
    Result<Files> next = Error{Code::kUnknown, "not yet"};
    do {  // until the server has heard that nobody waits
      next = table.save("tmp2").get();
      REQUIRE(code_of(next) == Code::kFailedPrecondition);
    } while (!contains(text_of(next), "given up") && in_time());
    CHECK_MESSAGE(contains(text_of(next), "the disk has not given back"), text_of(next));
    CHECK_MESSAGE(contains(text_of(next), table.folder / "tmp"), text_of(next));
    CHECK(table.first_weight() == -2);
  }
  Result<Files> saved = Error{Code::kUnknown, "not yet"};
  do saved = table.save("tmp2").get();
  while (code_of(saved) == Code::kFailedPrecondition && in_time());
  REQUIRE_MESSAGE(saved.ok(), text_of(saved));
  table.push(1);
  table.go_back_to("tmp2", *saved);
  CHECK(table.first_weight() == -2);
}

TEST_CASE("a server ends in time whose disk does not answer, and what it wrote is given up") {
  const TemporaryFolder folder;
  const auto begun = std::chrono::steady_clock::now();
  {
    std::optional<OneTable> table;
    table.emplace();  // before: the first node of a user syncs its secret to disk
    const Closed closed;
    auto saved = table->node.rpc_async_with<Files>({.timeout = kPatience}, "ps0", "save", folder / "tmp",
                                                   Files{table->spec.name});
    REQUIRE(gate.somebody_waits());
    table->client.reset();
    table.reset();
    // The gate would have opened by itself much later.
    CHECK(std::chrono::steady_clock::now() - begun < 2 * kPatience);
  }
  CHECK(gate.nobody_waits());
}
