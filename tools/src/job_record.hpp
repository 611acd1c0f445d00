#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "troupe/tools/job.hpp"

namespace troupe::tools {

/// One process as job.json shows it.
struct ProcessRecord {
  std::string name;
  std::string role;
  int pid = 0;
  bool running = false;
  std::string ending;  ///< how it ended, in words
  int exit_code = 0;
};

/// Writes the list of processes for people and scripts, in one step (rename). False if that failed.
bool write_job_record(const std::filesystem::path& path, const Job& job,
                      const std::vector<ProcessRecord>& processes);

}  // namespace troupe::tools
