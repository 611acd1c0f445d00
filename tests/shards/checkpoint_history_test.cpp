// Several checkpoints at one place; places that two runs want; processes that are killed, and disks that are
// full, in the middle of one.
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <ctime>
#include <functional>
#include <random>
#include <span>

#include <troupe/runtime/checksum.hpp>

#include "snapshot_support.hpp"

namespace troupe::shards {
namespace {

using test::embedding_spec;
using test::Table;
using test::TemporaryFolder;
namespace fs = std::filesystem;

/// Checkpoints number `first` to `last` of a table, each with its number in the metadata.
void save_some(Table& table, const fs::path& to, int first, int last, std::uint32_t keep) {
  const fs::path temporary = to.string() + ".tmp";
  for (int i = first; i <= last; ++i) {
    table.train(static_cast<std::uint64_t>(i), static_cast<std::uint64_t>(i) * 10, 2);
    Manifest manifest;
    manifest.tables.push_back(table.shards[0].spec());
    manifest.metadata = R"({"number":)" + std::to_string(i) + "}";
    for (std::uint32_t shard = 0; shard < table.shards.size(); ++shard)
      manifest.files.push_back(write_table_shard(temporary, shard, table.shards[shard]).value());
    commit(temporary, to, manifest, keep).value();
  }
}

int number_of(const Manifest& manifest) {
  return std::atoi(manifest.metadata.substr(manifest.metadata.find(':') + 1).c_str());
}
int number_at(const fs::path& folder) {
  const auto manifest = read_manifest(folder);
  return manifest && verify(folder, *manifest) ? number_of(*manifest) : -1;
}

/// Waits for something to be read, or for the end of a process (by its pidfd), no longer than a busy machine
/// needs.
bool comes(int fd) {
  constexpr int kPatience_ms = 60'000;
  pollfd waited{fd, POLLIN, 0};
  return ::poll(&waited, 1, kPatience_ms) == 1;
}

/// What `body` does in a process of its own; its exit status, or -signal.
int in_child(const std::function<int()>& body) {
  const pid_t child = ::fork();
  if (child == 0) ::_exit(body());
  const int fd = static_cast<int>(::syscall(SYS_pidfd_open, child, 0));
  const bool ended = comes(fd);
  ::close(fd);
  if (!ended) ::kill(child, SIGKILL);
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
  CHECK_MESSAGE(ended, "the process does not end");
  return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

}  // namespace

TEST_CASE("as many checkpoints are kept as are asked for, the newest of the older ones first") {
  const TemporaryFolder folder;
  Table table(embedding_spec(3), 2);
  const fs::path at = folder / "a";
  save_some(table, at, 1, 1, 3);
  CHECK(number_at(at) == 1);
  CHECK_FALSE(fs::exists(at.string() + ".1"));
  save_some(table, at, 2, 5, 3);
  CHECK(number_at(at) == 5);
  CHECK(number_at(at.string() + ".1") == 4);
  CHECK(number_at(at.string() + ".2") == 3);
  CHECK_FALSE(fs::exists(at.string() + ".3"));
  CHECK_FALSE(fs::exists(at.string() + ".tmp"));
  save_some(table, at, 6, 6, 2);
  CHECK(number_at(at) == 6);
  CHECK(number_at(at.string() + ".1") == 5);
  CHECK_FALSE(fs::exists(at.string() + ".2"));
  save_some(table, at, 7, 7, 1);
  CHECK(number_at(at) == 7);
  CHECK_FALSE(fs::exists(at.string() + ".1"));
}

TEST_CASE("what is no checkpoint is not replaced by an older one") {
  const TemporaryFolder folder;
  Table table(embedding_spec(3), 1);
  save_some(table, folder / "a", 1, 1, 2);
  test::write_all(folder / "a.1", "mine");
  Manifest manifest;
  manifest.tables.push_back(table.shards[0].spec());
  manifest.files.push_back(write_table_shard(folder / "a.tmp", 0, table.shards[0]).value());
  const auto refused = commit(folder / "a.tmp", folder / "a", manifest, 2);
  REQUIRE_FALSE(refused.ok());
  CHECK(refused.error().code == Code::kFailedPrecondition);
  CHECK(refused.error().message.find("a.1") != std::string::npos);
  CHECK(number_at(folder / "a") == 1);
  CHECK(test::read_all(folder / "a.1") == "mine");
  CHECK(commit(folder / "a.tmp", folder / "a", manifest, 1).ok());
  CHECK(test::read_all(folder / "a.1") == "mine");
}

TEST_CASE("an older checkpoint is found if the newest is torn and that is allowed") {
  const TemporaryFolder folder;
  const fs::path at = folder / "a";
  CHECK(find_checkpoint(at, Older::kAllowed).error().code == Code::kNotFound);
  Table table(embedding_spec(3), 2);
  save_some(table, at, 1, 3, 3);
  CHECK(number_of(find_checkpoint(at, Older::kRefused).value().manifest) == 3);

  fs::resize_file(at / "entity.1.safetensors", 100);
  const auto torn = find_checkpoint(at, Older::kRefused);
  REQUIRE_FALSE(torn.ok());
  CHECK(torn.error().code == Code::kDataLoss);
  CHECK(torn.error().message.find("entity.1.safetensors") != std::string::npos);
  auto older = find_checkpoint(at, Older::kAllowed).value();
  CHECK(number_of(older.manifest) == 2);
  CHECK(older.folder == fs::path(at.string() + ".1"));
  REQUIRE(older.passed_over.size() == 1);
  CHECK(older.passed_over[0].message == torn.error().message);

  // A flipped bit shows when the contents are looked at.
  std::string text = test::read_all(older.folder / "entity.0.safetensors");
  text.back() = static_cast<char>(text.back() ^ 1);
  test::write_all(older.folder / "entity.0.safetensors", text);
  CHECK(number_of(find_checkpoint(at, Older::kAllowed, Check::kSizes).value().manifest) == 2);
  older = find_checkpoint(at, Older::kAllowed, Check::kContents).value();
  CHECK(number_of(older.manifest) == 1);
  CHECK(older.passed_over.size() == 2);
  // The newest one is gone as a whole, or all are bad.
  fs::remove_all(at);
  CHECK(number_of(find_checkpoint(at, Older::kAllowed).value().manifest) == 2);
  fs::remove_all(at.string() + ".1");
  CHECK(number_of(find_checkpoint(at, Older::kAllowed).value().manifest) == 1);
  test::write_all(fs::path(at.string() + ".2") / "manifest.json", "{");
  CHECK_FALSE(find_checkpoint(at, Older::kAllowed).ok());
}

TEST_CASE("a file whose header names a tensor twice is refused, also with one range") {
  const TemporaryFolder folder;
  Table table(embedding_spec(3), 1);
  save_some(table, folder / "a", 1, 1, 1);
  Manifest manifest = read_manifest(folder / "a").value();
  const fs::path path = folder / "a/entity.0.safetensors";
  std::string text = test::read_all(path);
  std::uint64_t length = 0;
  std::memcpy(&length, text.data(), sizeof length);
  const std::uint64_t old_length = length;
  std::string header = text.substr(8, length);
  const std::size_t begin = header.find("\"keys\":{");
  REQUIRE(begin != std::string::npos);
  const std::string keys = header.substr(begin, header.find('}', begin) + 1 - begin);
  header.insert(1, keys + ",");
  header.resize((header.size() + 7) / 8 * 8, ' ');
  length = header.size();
  std::string changed(8, '\0');
  std::memcpy(changed.data(), &length, sizeof length);
  changed += header + text.substr(8 + old_length);
  test::write_all(path, changed);
  manifest.files[0].bytes = changed.size();
  manifest.files[0].crc32c = crc32c(std::as_bytes(std::span(changed)));
  TableShard into = TableShard::create(manifest.tables[0]).value();
  const auto loaded = load_rows(folder / "a", manifest, "entity", into);
  REQUIRE_FALSE(loaded.ok());
  CHECK(loaded.error().code == Code::kDataLoss);
  CHECK(loaded.error().message.find("'keys' comes twice") != std::string::npos);
}

TEST_CASE("fingerprints say what has changed since a checkpoint was made") {
  const TemporaryFolder folder;
  Table table(embedding_spec(3), 1);
  Manifest manifest;
  manifest.tables.push_back(table.shards[0].spec());
  manifest.files.push_back(write_table_shard(folder / "a.tmp", 0, table.shards[0]).value());
  manifest.fingerprints = {{"data", "60 entities, 1f"}, {"settings", "77"}};
  REQUIRE(commit(folder / "a.tmp", folder / "a", manifest).ok());
  const Manifest read = read_manifest(folder / "a").value();
  CHECK(read.fingerprints == manifest.fingerprints);
  CHECK(check_fingerprints(read, manifest.fingerprints).ok());
  CHECK(check_fingerprints(read, {{"data", "60 entities, 1f"}, {"schema", "new"}}).ok());
  const auto other =
      check_fingerprints(read, {{"data", "61 entities, 20"}, {"settings", "78"}}, {"settings"});
  REQUIRE_FALSE(other.ok());
  CHECK(other.error().code == Code::kFailedPrecondition);
  CHECK(other.error().message.find("data was 60 entities, 1f and is 61 entities, 20") != std::string::npos);
  CHECK(other.error().message.find("settings") == std::string::npos);
  const std::string path = folder / "a/manifest.json";
  std::string text = test::read_all(path);
  text.replace(text.find("\"77\""), 4, "77");
  test::write_all(path, text);
  CHECK(read_manifest(folder / "a").error().code == Code::kDataLoss);
}

TEST_CASE("a place belongs to one run, until that ends in whatever way") {
  const TemporaryFolder folder;
  const CheckpointPlace place = checkpoint_place(folder / "deep/a").value();
  {
    const auto lock = CheckpointLock::take(place);
    REQUIRE(lock.ok());
    const auto second = CheckpointLock::take(place);
    REQUIRE_FALSE(second.ok());
    CHECK(second.error().code == Code::kFailedPrecondition);
    CHECK(second.error().message.find("process " + std::to_string(::getpid())) != std::string::npos);
    CHECK(in_child([&] { return CheckpointLock::take(place).ok() ? 1 : 0; }) == 0);
    CHECK(CheckpointLock::take(checkpoint_place(folder / "deep/b").value()).ok());
  }
  CHECK(CheckpointLock::take(place).ok());
  CHECK(in_child([&] {
          const auto lock = CheckpointLock::take(place);
          ::raise(SIGKILL);
          return 1;
        }) == -SIGKILL);
  CHECK(CheckpointLock::take(place).ok());
}

TEST_CASE("a process that is killed while it saves and commits leaves a whole checkpoint") {
  const TemporaryFolder folder;
  const fs::path at = folder / "a";
  Table table(embedding_spec(16), 2);
  save_some(table, at, 1, 1, 2);
  std::mt19937_64 random(troupe::test::test_seed());
  int last = 1;
  for (int round = 0; round < 25; ++round) {
    CAPTURE(round);
    const long moment_us = 1 + static_cast<long>(random() % 10'000);  // what varies is when it dies
    const int status = in_child([&] {
      int number = last;
      if (round % 2 == 1) ++number, save_some(table, at, number, number, 2);
      sigevent killed{};
      killed.sigev_notify = SIGEV_SIGNAL;
      killed.sigev_signo = SIGKILL;
      timer_t timer{};
      itimerspec moment{};
      moment.it_value.tv_nsec = moment_us * 1000;
      if (::timer_create(CLOCK_MONOTONIC, &killed, &timer) != 0) return 1;
      if (::timer_settime(timer, 0, &moment, nullptr) != 0) return 2;
      save_some(table, at, number + 1, number + 1000, 2);
      return 0;
    });
    REQUIRE(status == -SIGKILL);
    const auto found = find_checkpoint(at, Older::kRefused, Check::kContents);
    REQUIRE_MESSAGE(found.ok(), found.error().to_string());
    CHECK(number_of(found->manifest) >= last);
    last = number_of(found->manifest);
  }
  CHECK(last > 12);
  save_some(table, at, last + 1, last + 2, 2);  // what they left does not stand in the way
  CHECK(number_at(at) == last + 2);
  CHECK(number_at(at.string() + ".1") == last + 1);
}

TEST_CASE("half of a checkpoint that could not be removed stands in nobody's way") {
  const TemporaryFolder folder;
  constexpr int kNoMount = 77;
  const int status = in_child([&] {
    // As after a death in the middle: a file with something mounted on it cannot be removed. A disk in memory
    // lists the newest first, so that the manifest goes before this file is met.
    if (::unshare(CLONE_NEWNS) != 0 || ::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0 ||
        ::mount("none", folder.path().c_str(), "tmpfs", 0, "size=4m") != 0)
      return kNoMount;
    const fs::path at = folder / "a";
    Table table(embedding_spec(16), 2);
    save_some(table, at, 1, 2, 2);
    const std::string held = at.string() + ".1/entity.0.safetensors";
    if (::mount(held.c_str(), held.c_str(), nullptr, MS_BIND, nullptr) != 0) return kNoMount;
    for (int i = 3; i <= 6; ++i) {
      save_some(table, at, i, i, 2);
      if (number_at(at) != i || number_at(at.string() + ".1") != i - 1) return i;
    }
    return 0;
  });
  if (status == kNoMount) {
    MESSAGE("skipped: this process may not mount a disk");
    return;
  }
  CHECK(status == 0);
}

TEST_CASE("a disk that is full while a checkpoint is written keeps the older one, and takes the next") {
  const TemporaryFolder folder;
  constexpr int kNoMount = 77;
  const int status = in_child([&] {
    // A small disk that only this process sees.
    if (::unshare(CLONE_NEWNS) != 0 || ::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0 ||
        ::mount("none", folder.path().c_str(), "tmpfs", 0, "size=256k") != 0)
      return kNoMount;
    const fs::path at = folder / "a";
    Table table(embedding_spec(16), 1);
    save_some(table, at, 1, 1, 1);
    TableShard large = TableShard::create(embedding_spec(64)).value();
    std::vector<std::uint64_t> keys(2000);
    for (std::size_t i = 0; i < keys.size(); ++i) keys[i] = i;
    std::vector<float> rows(keys.size() * 64);
    if (!large.pull(keys, rows.data())) return 1;
    const auto full = write_table_shard(folder / "a.tmp", 0, large);
    if (full || full.error().code != Code::kResourceExhausted) return 2;
    if (fs::exists(folder / "a.tmp/entity.0.safetensors")) return 3;
    if (number_at(at) != 1) return 4;
    save_some(table, at, 2, 2, 1);
    return number_at(at) == 2 ? 0 : 5;
  });
  if (status == kNoMount) {
    MESSAGE("skipped: this process may not mount a disk");
    return;
  }
  CHECK(status == 0);
}

}  // namespace troupe::shards
