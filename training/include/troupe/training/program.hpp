#pragma once

#include <functional>
#include <memory>
#include <string>

#include <troupe/training/job_settings.hpp>
#include <troupe/training/task.hpp>

namespace troupe::training {

/// A training program: what it is called, and what it trains.
struct Program {
  std::string name;   ///< of the job, and before messages
  std::string about;  ///< one line, for --help
  std::function<std::unique_ptr<Task>()> make_task;
  JobSettings defaults = {};
};

/// The whole of main(). `PROGRAM train` starts the job on this machine: a chief (registry, progress,
/// evaluation, checkpoints, report), shard servers and workers, each of them this same program with another
/// first word. Returns the exit code: 0; 2 for bad input; 128 + n after signal n; 1 for faults. Catches what
/// is thrown.
int run_program(const Program& program, int argc, char** argv);

}  // namespace troupe::training
