// The troupe launch command with real processes: output, ends, signals.
#include <sys/stat.h>

#include <nlohmann/json.hpp>
#include <sstream>

#include <troupe/tools/launcher.hpp>

#include "command.hpp"

using namespace command_test;

namespace {

// `troupe launch` with one /bin/sh script for each process: {name, marks, script}.
struct Script {
  std::string name;
  std::string script;
  std::string marks;  // such as R"("main": true)"
};

std::vector<std::string> job(const Folder& folder, const std::vector<Script>& scripts,
                             std::vector<std::string> flags = {}) {
  std::string entries;
  for (const Script& script : scripts) {
    nlohmann::json command = {"/bin/sh", "-c", script.script};
    entries += (entries.empty() ? "" : ",\n") + std::string(R"({"role": ")") + script.name +
               R"(", "command": )" + command.dump() + (script.marks.empty() ? "" : ", " + script.marks) + "}";
  }
  std::string file = folder.write("job.json", R"({"name": "test", "processes": [)" + entries + "]}");
  std::vector<std::string> args{"launch", file, "--run-dir", folder / "run"};
  args.insert(args.end(), flags.begin(), flags.end());
  return args;
}

// A process that stays until it is asked to end.
const std::string kStays = "trap 'exit 0' TERM INT; echo ready; while :; do sleep 0.05; done";

int pid_of(const Folder& folder, const std::string& name) {
  auto record = nlohmann::json::parse(std::ifstream(folder / "run/job.json"));
  for (const auto& process : record["processes"]) {
    if (process["name"] == name) return process["pid"];
  }
  return -1;
}

}  // namespace

TEST_CASE("each line stands behind the name of its process, standard error on standard error") {
  Folder folder;
  auto done = run(job(folder, {{"a", "echo one; echo two", ""}, {"long", "echo three; echo four >&2", ""}}));
  CHECK(done.code == 0);
  CHECK(done.out.find("a    | one\na    | two\n") != std::string::npos);
  CHECK(done.out.find("long | three\n") != std::string::npos);
  CHECK(done.err.find("long | four\n") != std::string::npos);
  CHECK(done.out.find("four") == std::string::npos);
}

TEST_CASE("colour is on request only when output is no terminal") {
  Folder folder;
  CHECK(run(job(folder, {{"a", "echo one", ""}})).out == "a | one\n");
  CHECK(run(job(folder, {{"a", "echo one", ""}}, {"--color", "always"})).out.find("\033[36ma |\033[0m one") ==
        0);
}

TEST_CASE("a line without an end, and one in two parts, come out whole") {
  Folder folder;
  auto done = run(job(folder, {{"a", "printf 'x'; printf 'y\\nlast'", ""}}));
  CHECK(done.out == "a | xy\na | last\n");
}

TEST_CASE("a line of one megabyte comes out whole") {
  Folder folder;
  auto done = run(job(folder, {{"a", "head -c 1000000 /dev/zero | tr '\\0' x; echo; echo end", ""}}));
  CHECK(done.code == 0);
  CHECK(done.out.size() == 4 + 1000000 + 1 + 8);
  CHECK(done.out.ends_with("x\na | end\n"));
}

TEST_CASE("two talkative processes do not mix within a line") {
  Folder folder;
  std::string talk =
      "i=0; while [ $i -lt 2000 ]; do echo $0aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaz; i=$((i+1)); done";
  auto done = run(job(folder, {{"p", talk, ""}, {"q", talk, ""}}));
  std::istringstream lines(done.out);
  size_t good = 0;
  for (std::string line; std::getline(lines, line);) {
    bool whole = (line.starts_with("p | ") || line.starts_with("q | ")) && line.ends_with("aaz") &&
                 count(line, "|") == 1;
    CHECK_MESSAGE(whole, line);
    good += whole ? 1 : 0;
  }
  CHECK(good == 4000);
}

TEST_CASE("fifty processes run, and all are reaped") {
  Folder folder;
  auto done = run({"launch", "--role", "w=50", "--run-dir", folder / "run", "--", "/bin/sh", "-c",
                   "echo I am {name} of {count}"});
  CHECK(done.code == 0);
  CHECK(count(done.out, " of 50\n") == 50);
  CHECK(done.out.find("w-49 | I am w-49 of 50\n") != std::string::npos);
  auto record = nlohmann::json::parse(std::ifstream(folder / "run/job.json"));
  CHECK(record["processes"].size() == 50);
  for (const auto& process : record["processes"]) CHECK(process["state"] == "ended");
}

TEST_CASE("the exit code is that of the main process, and its end is the job's") {
  Folder folder;
  auto done = run(job(folder, {{"server", kStays, ""}, {"main", "exit 7", R"("main": true)"}}));
  CHECK(done.code == 7);
  CHECK(done.err.find("main exited with code 7") != std::string::npos);
  CHECK(done.err.find("server exited") == std::string::npos);
}

TEST_CASE("the console process is main, and its output passes through as it is") {
  Folder folder;
  auto done = run(job(folder, {{"server", kStays, ""}, {"show", "printf 'a\\rb'", R"("console": true)"}}));
  CHECK(done.code == 0);
  CHECK(done.out.find("a\rb") != std::string::npos);
  CHECK(done.out.find("show |") == std::string::npos);
}

TEST_CASE("without a main process the job ends when all have ended, with the first code that is not 0") {
  Folder folder;
  CHECK(run(job(folder, {{"a", "exit 0", ""}, {"b", "exit 3", ""}, {"c", "exit 4", ""}})).code == 3);
}

TEST_CASE("when a critical process fails the others are asked to end, and the exit code is 1") {
  Folder folder;
  auto done =
      run(job(folder, {{"a", "trap 'echo asked; exit 0' TERM; echo ready; while :; do sleep 0.05; done", ""},
                       {"b", "exit 5", R"("critical": true)"}}));
  CHECK(done.code == 1);
  CHECK(done.err.find("b exited with code 5") != std::string::npos);
  CHECK(done.err.find("ending the job: b is critical") != std::string::npos);
}

TEST_CASE("kill -9 of one process is told, and the others finish") {
  Folder folder;
  Command command(
      job(folder, {{"w-0", kStays, ""},
                   {"main", "read line < " + (folder / "go") + "; echo finished", R"("main": true)"}}));
  REQUIRE(mkfifo((folder / "go").c_str(), 0600) == 0);
  REQUIRE(command.wait_for("w-0  | ready"));
  kill(pid_of(folder, "w-0"), SIGKILL);
  REQUIRE(command.wait_for("w-0 was killed by SIGKILL (9)"));
  std::ofstream(folder / "go") << "go\n";
  CHECK(command.finish() == 0);
  CHECK(command.out().find("main | finished") != std::string::npos);
}

TEST_CASE("a signal reaches every process, and the exit code tells which it was") {
  for (int signal : {SIGINT, SIGTERM}) {
    Folder folder;
    std::string told =
        "trap 'echo got INT; exit 0' INT; trap 'echo got TERM; exit 0' TERM; echo ready; "
        "while :; do sleep 0.05; done";
    Command command(job(folder, {{"a", told, ""}, {"b", told, ""}}));
    REQUIRE(command.wait_for("a | ready"));
    REQUIRE(command.wait_for("b | ready"));
    command.kill(signal);
    CHECK(command.finish() == 128 + signal);
    std::string name = signal == SIGINT ? "INT" : "TERM";
    CHECK(command.out().find("a | got " + name) != std::string::npos);
    CHECK(command.out().find("b | got " + name) != std::string::npos);
  }
}

TEST_CASE("processes have 5 s to end in, and longer where a sanitizer looks for leaks first") {
#ifdef TROUPE_SANITIZER
  CHECK(troupe::tools::LaunchOptions().grace >= std::chrono::seconds(30));
#else
  CHECK(troupe::tools::LaunchOptions().grace == std::chrono::seconds(5));
#endif
}

TEST_CASE("a process that ignores SIGTERM is killed after the grace period") {
  Folder folder;
  Command command(job(folder, {{"deaf", "trap '' TERM INT; echo ready; while :; do sleep 1000; done", ""}},
                      {"--grace", "0.2"}));
  REQUIRE(command.wait_for("ready"));
  command.kill(SIGINT);
  CHECK(command.finish() == 130);
  CHECK(command.err().find("deaf did not end within 0.2 s: killed") != std::string::npos);
}

TEST_CASE("a stopped process can be ended too") {
  Folder folder;
  Command command(job(folder, {{"a", "echo ready; kill -STOP $$; exit 3", ""}}, {"--grace", "3600"}));
  REQUIRE(command.wait_for("ready"));
  command.kill(SIGTERM);
  CHECK(command.finish() == 143);
}

TEST_CASE("a second signal kills at once") {
  Folder folder;
  Command command(job(folder,
                      {{"deaf", "trap 'echo noted' INT; echo ready; while :; do sleep 0.05; done", ""}},
                      {"--grace", "3600"}));
  REQUIRE(command.wait_for("ready"));
  command.kill(SIGINT);
  REQUIRE(command.wait_for("noted"));
  command.kill(SIGINT);
  CHECK(command.finish() == 130);
}

TEST_CASE("no process survives kill -9 of the launcher, nor do their children") {
  Folder folder;
  Command command(
      job(folder, {{"a", "sleep 1000 & echo parent $$ child $!; wait", ""},
                   {"b", "trap '' TERM INT HUP; sleep 1000 & echo second $$ deep $!; wait", ""}}));
  std::vector<int> fds;
  REQUIRE(command.wait_for("child "));
  REQUIRE(command.wait_for("deep "));
  for (const char* mark : {"parent ", "child ", "second ", "deep "}) {
    fds.push_back(pidfd(number_after(command.out(), mark)));
    REQUIRE(fds.back() >= 0);
  }
  command.kill(SIGKILL);
  for (int fd : fds) {
    CHECK(ends_in_time(fd));
    close(fd);
  }
}

TEST_CASE("what a process leaves behind ends with it") {
  Folder folder;
  Command command(job(folder, {{"a", "sleep 1000 & echo child $!; read line < " + (folder / "go"), ""}}));
  REQUIRE(mkfifo((folder / "go").c_str(), 0600) == 0);
  REQUIRE(command.wait_for("child "));
  int fd = pidfd(number_after(command.out(), "child "));
  REQUIRE(fd >= 0);
  std::ofstream(folder / "go") << "go\n";
  CHECK(command.finish() == 0);
  CHECK(ends_in_time(fd));
  close(fd);
}

TEST_CASE("when the reader of our output is gone the job ends") {
  Folder folder;
  Command command(job(folder, {{"a", "while :; do echo text; done", ""}}));
  REQUIRE(command.wait_for("text"));
  command.close_out();
  CHECK(command.finish() == 1);
}

TEST_CASE("processes whose output nobody reads are slowed, and still end when asked to") {
  Folder folder;
  std::string floods = "echo pid $$ >&2; head -c 100000000 /dev/zero | tr '\\0' '\\n'; echo all written >&2";
  Command command(job(folder, {{"a", floods, ""}}));
  REQUIRE(command.wait_for("pid "));
  int fd = pidfd(number_after(command.err(), "pid "));
  REQUIRE(fd >= 0);
  command.kill(SIGTERM);
  CHECK(ends_in_time(fd));  // before anyone reads on
  close(fd);
  CHECK(command.finish() == 143);
  CHECK(command.err().find("all written") == std::string::npos);
}

TEST_CASE("the record of processes names them all with their ids") {
  Folder folder;
  Command command(job(folder, {{"a", kStays, ""}, {"b", kStays, ""}}, {"--pid-file", folder / "pids.json"}));
  REQUIRE(command.wait_for("a | ready"));
  REQUIRE(command.wait_for("b | ready"));
  auto record = nlohmann::json::parse(std::ifstream(folder / "pids.json"));
  CHECK(record["launcher_pid"] == command.pid());
  CHECK(record["processes"][1]["name"] == "b");
  CHECK(record["processes"][1]["state"] == "running");
  CHECK(kill(record["processes"][1]["pid"], 0) == 0);
  command.kill(SIGTERM);
  CHECK(command.finish() == 143);
}

TEST_CASE("settings reach the process they name, and {registry} is the same free port for all") {
  Folder folder;
  auto done = run({"launch", "--role", "ps=1", "--role", "w=2", "--set", "w-1:throttle=0.4", "--registry",
                   "tcp", "--run-dir", folder / "run", "--", "/bin/echo"});
  REQUIRE(done.code == 0);
  int port = number_after(done.out, "--name w-0 --role w --registry 127.0.0.1:");
  CHECK(port > 0);
  CHECK(count(done.out, "127.0.0.1:" + std::to_string(port)) == 3);
  CHECK(done.out.find("--name w-1 --role w --registry 127.0.0.1:" + std::to_string(port) +
                      " --throttle 0.4") != std::string::npos);
  CHECK(count(done.out, "throttle") == 1);
}

TEST_CASE("a unix registry is a path in a fresh folder that is removed in the end") {
  Folder folder;
  auto done = run({"launch", "--role", "a", "--registry", "unix", "--run-dir", folder / "run", "--",
                   "/bin/echo", "{name}", "{registry}"});
  REQUIRE(done.code == 0);
  std::string path = done.out.substr(std::string("a | a ").size());
  path.pop_back();
  CHECK(path.ends_with("/registry"));
  CHECK_FALSE(std::filesystem::exists(std::filesystem::path(path).parent_path()));
}
