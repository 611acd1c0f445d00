// What the chief learns from the launcher's record, so that it does not wait for those who have ended.
#include <doctest/doctest.h>
#include <unistd.h>

#include <string>

#include "support/temporary_folder.hpp"
#include "wordnet/launched.hpp"
#include "wordnet/settings.hpp"

namespace troupe::wordnet {

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

TEST_CASE("launched: settings keep words and paths of any bytes") {
  JobSettings settings;
  settings.words = {"dog", "caf\xe9"};
  settings.out = "o\xff";
  settings.dataset.folder = "d\xe9";
  const auto read = settings_from_json(to_json(settings));
  REQUIRE(read.ok());
  CHECK(read->words == settings.words);
  CHECK(read->out == settings.out);
  CHECK(read->dataset.folder == settings.dataset.folder);
}

}  // namespace troupe::wordnet
