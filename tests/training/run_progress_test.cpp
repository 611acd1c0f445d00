// Which checkpoint a run goes on from, and with what.
#include "run_progress.hpp"

#include <doctest/doctest.h>

#include <filesystem>

#include <troupe/shards/table_shard.hpp>

#include "support/temporary_folder.hpp"

namespace troupe::training {
namespace {

/// A task of some data, to which something may have been added.
struct Learner : Task {
  explicit Learner(std::string identity, std::string of = "")
      : data(std::move(identity)), adds(std::move(of)) {}
  std::string data, adds;
  std::vector<std::string> flags_free_to_change() const override { return {"--words"}; }
  std::vector<shards::TableSpec> tables() const override { return {}; }
  std::uint64_t batches_per_epoch() const override { return 0; }
  void plan(const BatchId&, Step&) override {}
  Result<void> compute(const BatchId&, Step&) override { return {}; }
  std::string data_identity() const override { return data; }
  bool adds_to(const std::string& identity) const override { return identity == adds; }
};

const FlagWords kFlags{
    {"--rate", {"0.1"}}, {"--epochs", {"3"}}, {"--words", {"a", "b"}}, {"--layers", {"4", "5"}}};

/// Checkpoints of a run, each an epoch further, three kept.
void save_epochs(const std::filesystem::path& to, std::uint64_t last) {
  shards::TableSpec spec;
  spec.name = "rows";
  spec.dim = 2;
  auto shard = shards::TableShard::create(spec).value();
  for (std::uint64_t epoch = 1; epoch <= last; ++epoch) {
    shards::Manifest manifest;
    manifest.tables = {spec};
    manifest.files = {shards::write_table_shard(to.string() + ".tmp", 0, shard).value()};
    RunProgress progress;
    progress.epoch = epoch;
    progress.flags = kFlags;
    manifest.metadata = to_json(progress);
    manifest.fingerprints = fingerprints_of(kFlags, Learner("ten rows"));
    shards::commit(to.string() + ".tmp", to, manifest, 3).value();
  }
}

Result<FoundRun> find(const std::filesystem::path& at, shards::Older older) {
  return find_run(at, older, shards::builtin_optimizers());
}

}  // namespace

TEST_CASE("a run is found where it was left, also through a link, or by an older checkpoint") {
  const test::TemporaryFolder folder;
  const std::filesystem::path at = folder / "checkpoint";
  save_epochs(at, 3);
  auto run = find(at, shards::Older::kRefused);
  REQUIRE(run);
  CHECK(run->progress.epoch == 3);
  CHECK(run->progress.flags == kFlags);
  CHECK(run->fingerprints == fingerprints_of(kFlags, Learner("ten rows")));
  std::filesystem::create_directory_symlink(at, folder / "link");
  std::filesystem::resize_file(at / "rows.0.safetensors", 3);
  const auto torn = find(folder / "link", shards::Older::kRefused);
  REQUIRE_FALSE(torn);
  CHECK(torn.error().code == Code::kDataLoss);
  CHECK(torn.error().message.find("rows.0.safetensors has 3 bytes") != std::string::npos);
  CHECK(torn.error().message.find("--allow-older") != std::string::npos);
  run = find(folder / "link", shards::Older::kAllowed);
  REQUIRE(run);
  CHECK(run->progress.epoch == 2);
  CHECK(run->passed_over.size() == 1);

  const auto none = find(folder / "nowhere", shards::Older::kRefused);
  REQUIRE_FALSE(none);
  CHECK(none.error().code == Code::kNotFound);
  CHECK(none.error().message.find("--allow-older") == std::string::npos);
}

TEST_CASE("data and settings are to be those of the run; what changes no row may differ") {
  const FoundRun run{"/there", fingerprints_of(kFlags, Learner("ten rows")), {}, {}};
  CHECK_FALSE(run.fingerprints.contains("--epochs"));
  CHECK_FALSE(run.fingerprints.contains("--words"));
  CHECK(run.fingerprints.at("--layers") == "4 5");
  CHECK(check_same_run(run, kFlags, Learner("ten rows"), false));
  CHECK(check_same_run(run, merge(kFlags, {{"--epochs", {"9"}}, {"--words", {"c"}}, {"--workers", {"7"}}}),
                       Learner("ten rows"), false));
  CHECK(check_same_run(run, merge(kFlags, {{"--new-flag", {"9"}}}), Learner("ten rows"), false));
  const auto refused = [&](const FlagWords& flags, const Learner& task, bool allow_added,
                           const std::string& why) {
    const auto same = check_same_run(run, flags, task, allow_added);
    REQUIRE_FALSE(same);
    CHECK(same.error().code == Code::kFailedPrecondition);
    CHECK(same.error().message.find("/there") != std::string::npos);
    CHECK_MESSAGE(same.error().message.find(why) != std::string::npos, same.error().message);
  };
  const FlagWords faster = merge(kFlags, {{"--rate", {"0.5"}}});
  refused(faster, Learner("ten rows"), true, "--rate was 0.1 and is 0.5");
  refused(kFlags, Learner("others"), true, "data was ten rows and is others");
  refused(kFlags, Learner("eleven rows", "ten rows"), false, "--allow-added goes on");
  CHECK(check_same_run(run, kFlags, Learner("eleven rows", "ten rows"), true));
  refused(faster, Learner("eleven rows", "ten rows"), true, "--rate was 0.1");
}

}  // namespace troupe::training
