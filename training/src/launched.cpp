#include "launched.hpp"

#include <unistd.h>

#include <troupe/runtime/json.hpp>

namespace troupe::training {

EndedProcesses ended_processes(const std::filesystem::path& record) {
  EndedProcesses ended;
  const auto json = read_json_file(record.string());
  if (!json) return ended;
  try {
    if (json->at("launcher_pid").get<pid_t>() != getppid()) return ended;
    for (const Json& process : json->at("processes"))
      if (process.at("state") == "ended")
        ended[process.at("name").get<std::string>()] = process.at("ending").get<std::string>();
  } catch (const Json::exception&) {
    ended.clear();  // of another program's making
  }
  return ended;
}

}  // namespace troupe::training
