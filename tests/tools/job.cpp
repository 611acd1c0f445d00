// Plans become processes.
#include "troupe/tools/job.hpp"

#include <doctest/doctest.h>

#include <fstream>

#include "command.hpp"
#include "troupe/tools/meeting.hpp"
#include "troupe/tools/nearest.hpp"

using namespace troupe::tools;

namespace {

Job made(const JobPlan& plan, const Additions& additions = {}) {
  auto job = make_job(plan, additions, {"127.0.0.1:4711", "out/run"});
  auto* problem = std::get_if<Problem>(&job);
  REQUIRE_MESSAGE(problem == nullptr, problem->text);
  return std::get<Job>(job);
}

RolePlan role(const std::string& name, std::optional<int> count, Words command) {
  RolePlan plan;
  plan.role = name;
  plan.count = count;
  plan.command = std::move(command);
  return plan;
}

}  // namespace

TEST_CASE("processes are named by role and index; one without a count by its role") {
  JobPlan plan;
  plan.roles = {role("ps", 2, {"true"}), role("trainer", std::nullopt, {"true"})};
  plan.roles.push_back(role("w", 2, {"true"}));
  plan.roles.back().name = "worker{index}";
  Words names;
  for (const Process& process : made(plan).processes) names.push_back(process.name);
  CHECK(names == Words{"ps-0", "ps-1", "trainer", "worker0", "worker1"});
}

TEST_CASE("placeholders are filled in commands and environment, and ${...} stays for the shell") {
  JobPlan plan;
  plan.roles = {
      role("w", 2, {"sh", "-c", "{name} {role} {index}/{count} {registry} {run_dir} ${name} {X} {} {a b}"})};
  plan.roles[0].env = {{"WHO", "<{name}>"}};
  Job job = made(plan);
  CHECK(job.processes[1].command[2] == "w-1 w 1/2 127.0.0.1:4711 out/run ${name} {X} {} {a b}");
  CHECK(job.processes[1].env["WHO"] == "<w-1>");
  CHECK(job.processes[1].program.ends_with("/sh"));
}

TEST_CASE("single settings add to the role's, and the command line's come last") {
  JobPlan plan;
  plan.roles = {role("w", 2, {"echo"})};
  plan.roles[0].args = {"all"};
  plan.roles[0].env = {{"A", "1"}, {"B", "1"}};
  plan.roles[0].workers["w-1"] = {std::nullopt, {"--throttle", "0.4"}, {{"B", "2"}},
                                  true,         std::nullopt,          std::nullopt};
  Additions additions;
  additions.settings = {{"w-1", "fast", std::nullopt}, {"w", "level", "3"}};
  additions.marks = {{"w-0", &Marks::critical}};
  Job job = made(plan, additions);
  CHECK(job.processes[0].command == Words{"echo", "all", "--level", "3"});
  CHECK(job.processes[1].command == Words{"echo", "all", "--throttle", "0.4", "--fast", "--level", "3"});
  CHECK(job.processes[1].env == Environment{{"A", "1"}, {"B", "2"}});
  CHECK(job.processes[0].marks.critical);
  CHECK_FALSE(job.processes[0].marks.main);
  CHECK(job.processes[1].marks.main);
}

TEST_CASE("a job file holds all that a plan holds") {
  command_test::Folder folder;
  std::string file = folder.write("job.json", R"({
    "name": "demo", "registry": "unix",
    "processes": [
      {"role": "ps", "count": 2, "command": ["server", 1], "critical": true},
      {"role": "worker", "count": 3, "name": "worker{index}", "command": ["work"], "args": ["--rate", 0.5],
       "env": {"OMP_NUM_THREADS": 1}, "main": true,
       "workers": {"worker2": {"args": ["--throttle", 0.4], "console": true}}}
    ]})");
  auto read = read_job_file(file);
  auto* problem = std::get_if<Problem>(&read);
  REQUIRE_MESSAGE(problem == nullptr, problem->text);
  const auto& plan = std::get<JobPlan>(read);
  CHECK(plan.name == "demo");
  CHECK(plan.registry == "unix");
  CHECK(plan.roles[0].command == Words{"server", "1"});
  CHECK(plan.roles[0].marks.critical);
  CHECK(plan.roles[1].count == 3);
  CHECK(plan.roles[1].args == Words{"--rate", "0.5"});
  CHECK(plan.roles[1].env.at("OMP_NUM_THREADS") == "1");
  CHECK(plan.roles[1].workers.at("worker2").args == Words{"--throttle", "0.4"});
  CHECK(plan.roles[1].workers.at("worker2").console == true);
}

TEST_CASE("settings are read as NAME:KEY=VALUE, with the value as it is") {
  auto setting = std::get<Setting>(parse_setting("w-1:path=a:b=c"));
  CHECK(setting.target == "w-1");
  CHECK(setting.key == "path");
  CHECK(setting.value == "a:b=c");
  CHECK_FALSE(std::get<Setting>(parse_setting("w:flag")).value.has_value());
  CHECK(std::get<Setting>(parse_setting("w:empty=")).value == "");
  for (const char* bad : {"", "w", ":k=v", "w:", "w:=v", "w=a:b"}) {
    CAPTURE(bad);
    CHECK(std::holds_alternative<Problem>(parse_setting(bad)));
  }
}

TEST_CASE("the nearest word is near, or there is none") {
  Words known{"command", "count", "console"};
  CHECK(nearest("comand", known) == "command");
  CHECK(nearest("cuont", known) == "count");
  CHECK(nearest("cmd", known) == "");
  CHECK(nearest("consle", known) == "console");
  CHECK(nearest("elephant", known) == "");
}

TEST_CASE("run folders are fresh") {
  command_test::Folder folder;
  std::filesystem::path before = std::filesystem::current_path();
  std::filesystem::current_path(folder / "");
  auto first = std::get<std::string>(make_run_dir("", "demo"));
  auto second = std::get<std::string>(make_run_dir("", "demo"));
  CHECK(first.starts_with("out/demo-"));
  CHECK(first != second);
  CHECK(std::filesystem::is_directory(second));
  CHECK(std::holds_alternative<Problem>(make_run_dir(folder.write("file", "") + "/below", "demo")));
  std::filesystem::current_path(before);
}
