#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include <troupe/runtime/result.hpp>
#include <troupe/training/job_settings.hpp>
#include <troupe/training/report.hpp>

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
  std::string data;  ///< Task::data_identity()
};

/// For the manifest's metadata.
std::string to_json(const RunProgress& progress);
/// Of the checkpoint in `folder`. kNotFound: there is none; kDataLoss: it is damaged, or another program's.
Result<RunProgress> read_run_progress(const std::filesystem::path& folder);

/// What to tell a person whose run ended early: which checkpoint there is (`epoch` 0: none), and the command
/// that goes on from it. Several lines without an end of line.
std::string resume_hint(const JobSettings& settings, std::uint64_t epoch, const std::string& program,
                        const std::string& transport);

}  // namespace troupe::training
