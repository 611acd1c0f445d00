#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include <troupe/runtime/result.hpp>
#include <troupe/shards/snapshot.hpp>
#include <troupe/training/job_settings.hpp>
#include <troupe/training/report.hpp>
#include <troupe/training/task.hpp>

#include "flags.hpp"

namespace troupe::training {

/// What a checkpoint of the job says besides the tables: how far the run was.
struct RunProgress {
  FlagWords flags;
  std::uint64_t epoch = 0;  ///< epochs that are in it
  double train_seconds = 0;
  std::uint64_t examples = 0;
  std::vector<EpochReport> epochs;
  std::vector<TimedValue> loss;
  std::vector<FailureReport> failures;
};

/// For the manifest's metadata.
std::string to_json(const RunProgress& progress);

/// A checkpoint that a run may go on from.
struct FoundRun {
  std::filesystem::path folder;  ///< absolute
  std::map<std::string, std::string> fingerprints;
  RunProgress progress;
  std::vector<Error> passed_over;  ///< what is wrong with newer ones
};
/// The newest checkpoint at `checkpoint`, or, if older ones are allowed, the newest good one. kNotFound:
/// there is none; kDataLoss: it is damaged, or another program's. The error tells of older ones.
Result<FoundRun> find_run(const std::filesystem::path& checkpoint, shards::Older older,
                          const shards::OptimizerList& known, shards::Check check = shards::Check::kSizes);

/// The flags that may differ when a run is resumed.
std::vector<std::string> flags_free_to_change(const Task& task);
/// What may not: the data, and each other flag.
std::map<std::string, std::string> fingerprints_of(const FlagWords& flags, const Task& task);
/// kFailedPrecondition, naming what differs and what to do, unless the run may go on with this task and these
/// flags. `allow_added`: also with data to which something was added.
Result<void> check_same_run(const FoundRun& run, const FlagWords& flags, const Task& task, bool allow_added);

/// What to tell a person whose run ended early: which checkpoint there is (`epoch` 0: none), and the command
/// that goes on from it. Several lines without an end of line.
std::string resume_hint(const JobSettings& settings, std::uint64_t epoch, const std::string& program,
                        const std::string& transport);

}  // namespace troupe::training
