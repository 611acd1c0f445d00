#pragma once

#include <filesystem>
#include <map>
#include <string>

namespace troupe::training {

using EndedProcesses = std::map<std::string, std::string>;

/// Processes of this one's job that have ended, by name, and how ("exited with code 1"), as the launcher's
/// record tells. Empty if `record` is none of the process that started this one: then nobody knows.
EndedProcesses ended_processes(const std::filesystem::path& record);

}  // namespace troupe::training
