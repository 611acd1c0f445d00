#pragma once

#include <CLI/CLI.hpp>
#include <optional>
#include <string>
#include <vector>

#include "troupe/tools/job.hpp"
#include "troupe/tools/launcher.hpp"

/// `troupe launch`: the flags, and what they mean.
class LaunchCommand {
 public:
  /// What stands after `--`: the program that all processes of the `--role` flags run.
  explicit LaunchCommand(troupe::tools::Words command) : command_(std::move(command)) {}

  void declare(CLI::App& app);
  /// Returns the process's exit code: 2 for bad input, else that of the job.
  int run();

 private:
  troupe::tools::Outcome<troupe::tools::JobPlan> plan() const;
  troupe::tools::Outcome<troupe::tools::JobPlan> plan_of_flags() const;
  troupe::tools::Outcome<troupe::tools::Additions> additions() const;
  std::optional<troupe::tools::Problem> prepare_meeting(troupe::tools::Meeting* meeting,
                                                        const troupe::tools::JobPlan& plan);
  int launch(troupe::tools::Job job) const;

  troupe::tools::Words command_;
  std::string job_file_;
  std::string name_;
  troupe::tools::Words roles_, settings_, main_, critical_, console_;
  std::string registry_;
  std::optional<int> port_;
  std::string run_dir_;
  std::string pid_file_;
  std::string color_ = "auto";
  double grace_s_ = static_cast<double>(troupe::tools::kGrace.count());
  bool plain_ = false, dry_run_ = false, no_status_ = false, quiet_ = false;
};
