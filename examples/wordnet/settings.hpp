#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include <troupe/runtime/result.hpp>
#include <troupe/shards/table_spec.hpp>

#include "wordnet/dataset.hpp"
#include "wordnet/hyper_parameters.hpp"

namespace troupe::wordnet {

/// Everything that a run of the main job depends on. The chief gets it from flags, or from the checkpoint
/// that it resumes; the others get it from the chief.
struct JobSettings {
  DatasetOptions dataset;
  HyperParameters parameters;
  std::uint32_t servers = 2;
  std::uint32_t workers = 3;
  std::map<std::string, double> speeds{{"worker-2", 0.4}};  ///< of throttled workers, 1 being full speed
  std::optional<std::uint64_t> staleness;                   ///< bounded by this; none: asynchronous
  std::uint64_t compare_staleness = 1;  ///< of the other mode that the report sets beside this run's
  double compare_seconds = 4;           ///< how long each mode is measured for that; 0: not at all
  std::size_t valid_triples = 300;      ///< checked after each epoch; 0: none
  std::uint64_t checkpoint_every = 1;   ///< epochs
  std::vector<std::string> words{"dog", "computer", "river", "run", "happy"};
  std::size_t neighbours = 10;
  std::filesystem::path out = "out/wordnet";

  std::filesystem::path checkpoint() const { return out / "checkpoint"; }
  /// What the launcher writes of the processes.
  std::filesystem::path job_record() const { return out / "job.json"; }
};

std::string to_json(const JobSettings& settings);
/// kInvalidArgument for anything but what to_json() writes.
Result<JobSettings> settings_from_json(std::string_view text);

/// The tables of a run: "entity" and "relation", with a suffix for those that only a comparison uses.
shards::TableSpec entity_table(const JobSettings& settings, const shards::Consistency& consistency,
                               const std::string& suffix);
shards::TableSpec relation_table(const JobSettings& settings, const shards::Consistency& consistency,
                                 const std::string& suffix);

/// The mode of consistency that the run trains with, and the one that it is compared with.
shards::Consistency own_consistency(const JobSettings& settings);
shards::Consistency other_consistency(const JobSettings& settings);
std::string describe(const shards::Consistency& consistency);

}  // namespace troupe::wordnet
