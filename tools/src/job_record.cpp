#include "job_record.hpp"

#include <unistd.h>

#include <fstream>
#include <nlohmann/json.hpp>

namespace troupe::tools {

bool write_job_record(const std::filesystem::path& path, const Job& job,
                      const std::vector<ProcessRecord>& processes) {
  using Json = nlohmann::ordered_json;
  Json record = {{"name", job.name},
                 {"launcher_pid", getpid()},
                 {"registry", job.meeting.registry},
                 {"run_dir", job.meeting.run_dir},
                 {"processes", Json::array()}};
  for (const ProcessRecord& process : processes) {
    Json entry = {{"name", process.name},
                  {"role", process.role},
                  {"pid", process.pid},
                  {"state", process.running ? "running" : "ended"}};
    if (!process.running) {
      entry["ending"] = process.ending;
      entry["exit_code"] = process.exit_code;
    }
    record["processes"].push_back(entry);
  }
  std::filesystem::path fresh = path.string() + ".new";
  std::ofstream file(fresh);
  // Names may hold any bytes; what is not UTF-8 is replaced rather than thrown about.
  file << record.dump(2, ' ', false, Json::error_handler_t::replace) << "\n";
  file.close();
  std::error_code error;
  if (file) std::filesystem::rename(fresh, path, error);
  return file && !error;
}

}  // namespace troupe::tools
