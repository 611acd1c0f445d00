#pragma once

#include <CLI/CLI.hpp>
#include <string>

#include <troupe/runtime/result.hpp>
#include <troupe/training/job_settings.hpp>

/// The flags that say when and how the tables of a job make their steps.
namespace troupe::training {

/// They write to `settings`, which must live until they are parsed.
void add_step_flags(CLI::App& app, JobSettings& settings);
/// kInvalidArgument naming the flags that do not go together.
Result<void> check_step_flags(const JobSettings& settings);

/// "async", "bounded:4", "sync", "k-of-n:2", "k-of-n:2,scale". kInvalidArgument saying what would do; so are
/// values that no table may have.
Result<shards::Consistency> consistency_of(const std::string& text);
/// "constant", "step:1000,0.5", "exponential:0.999", "cosine:1000", "cosine:1000,0.1", "inverse-sqrt:1000",
/// "polynomial:1000,2", "polynomial:1000,2,0.1".
Result<shards::Decay> decay_of(const std::string& text);

/// What the settings say of a table's steps, in its spec.
void set_steps(const JobSettings& settings, shards::TableSpec& spec);

}  // namespace troupe::training
