#pragma once

#include <CLI/CLI.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <troupe/training/job_settings.hpp>
#include <troupe/training/task.hpp>

namespace troupe::training {

/// A run's settings as they travel to its processes and into its checkpoints: each flag with its words.
using FlagWords = std::vector<std::pair<std::string, std::vector<std::string>>>;

/// Adds the flags that every job has; they write to `settings`, which must live until they are parsed.
void add_job_flags(CLI::App& app, JobSettings& settings);

/// The flags of `app`, parsed, but for those named: as they were given, or else as they are by default where
/// that is known and one word.
FlagWords words_of(const CLI::App& app, const std::vector<std::string>& without);
/// `words` with those of `newer` in place of, or after, theirs.
FlagWords merge(FlagWords words, const FlagWords& newer);

/// Any bytes are kept.
std::string to_json(const FlagWords& words);
/// kInvalidArgument for anything but what to_json() writes.
Result<FlagWords> flag_words_from_json(std::string_view text);

/// Sets job and task as the flags say. kInvalidArgument names the flag.
Result<void> apply(const FlagWords& words, JobSettings& settings, Task& task);
/// What flags alone do not see: whether they go together, and read_throttles(). `throttled`: a person gave
/// --throttle.
Result<void> check_settings(JobSettings& settings, bool throttled);
/// Makes settings.speeds of settings.throttles. `given`: by a person, who is told of workers that are not
/// there. kInvalidArgument.
Result<void> read_throttles(JobSettings& settings, bool given);

}  // namespace troupe::training
