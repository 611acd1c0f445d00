#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include <troupe/shards/table_spec.hpp>

namespace troupe::training {

/// What a job depends on beside its task. Flags set it; the values here are the defaults, which a Program may
/// change.
struct JobSettings {
  std::uint64_t epochs = 10;
  std::uint32_t servers = 2;
  std::uint32_t workers = 3;
  /// Workers held at a part of their speed: "worker-2=0.4"; "none" for nobody. Defaults may name workers that
  /// a smaller job does not have.
  std::vector<std::string> throttles = {};
  std::optional<std::uint64_t> staleness = {};          ///< bounded by this; none: as `consistency` says
  std::optional<shards::Consistency> consistency = {};  ///< none: asynchronous
  // Of all tables, if they are set, in place of what the task's specs say.
  std::optional<shards::Schedule> schedule = {};
  std::optional<shards::Clipping> clipping = {};
  std::optional<shards::StepScaling> step_scaling = {};
  std::optional<shards::DelayCompensation> delay_compensation = {};
  std::uint64_t compare_staleness = 1;  ///< of the other mode that the report sets beside this run's
  double compare_seconds = 0;           ///< how long each mode is measured for that; 0: not at all
  std::uint64_t checkpoint_every = 1;   ///< epochs; 0: only at the end
  std::uint32_t keep_checkpoints = 1;   ///< how many, the newest among them
  std::filesystem::path out = "out";    ///< for the checkpoint, result.json, report.html and job.json

  std::map<std::string, double> speeds = {};  ///< what `throttles` says; 1 is full speed

  std::filesystem::path checkpoint() const { return out / "checkpoint"; }
  /// What the launcher writes of the processes.
  std::filesystem::path job_record() const { return out / "job.json"; }
};

/// The mode of consistency that the run trains with, and the one that it is compared with.
shards::Consistency own_consistency(const JobSettings& settings);
shards::Consistency other_consistency(const JobSettings& settings);
/// "asynchronous", "bounded, 4", "synchronous", "2 of n", "2 of n, late ones scaled".
std::string describe(const shards::Consistency& consistency);

}  // namespace troupe::training
