// What the chief learns from the launcher's record, so that it does not wait for those who have ended.
#include <doctest/doctest.h>
#include <unistd.h>

#include <string>

#include "launched.hpp"
#include "support/temporary_folder.hpp"

namespace troupe::training {

TEST_CASE("launched: who has ended, and how, as the launcher that started this process says") {
  const test::TemporaryFolder folder;
  const auto record = [&](pid_t launcher) {
    folder.write("job.json", R"({"launcher_pid": )" + std::to_string(launcher) + R"(, "processes": [
      {"name": "chief", "state": "running"},
      {"name": "ps-0", "state": "ended", "ending": "exited with code 1"}]})");
    return ended_processes(folder.path() / "job.json");
  };
  CHECK(record(getppid()) == EndedProcesses{{"ps-0", "exited with code 1"}});
  CHECK(record(getpid()).empty());  // an earlier run's
  folder.write("job.json", R"({"launcher_pid": "x"})");
  CHECK(ended_processes(folder.path() / "job.json").empty());
  CHECK(ended_processes(folder.path() / "none").empty());
}

}  // namespace troupe::training
