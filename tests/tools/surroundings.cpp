// The troupe command in surroundings that it did not choose: closed descriptors, terminals, other people's
// processes, limits, texts in other encodings.
#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <nlohmann/json.hpp>

#include "command.hpp"
#include "terminal.hpp"

using namespace command_test;

namespace {

std::vector<std::string> shell(const Folder& folder, const std::string& script) {
  return {"launch", "--run-dir", folder / "run", "--role", "a=1", "--plain", "--", "/bin/sh", "-c", script};
}

std::vector<std::string> with_program(std::vector<std::string> args) {
  args.insert(args.begin(), TROUPE_PROGRAM);
  return args;
}

}  // namespace

TEST_CASE("descriptors: launch ends, and its processes run, whichever of the three are closed") {
  for (int closed = 1; closed < 8; ++closed) {
    CAPTURE(closed);
    Folder folder;
    Command command(shell(folder, "echo out; echo err >&2; echo done > " + (folder / "done")), [&] {
      for (int fd = 0; fd < 3; ++fd)
        if (closed & 1 << fd) close(fd);
    });
    CHECK(command.finish() == 0);
    CHECK(std::filesystem::exists(folder / "done"));
    if (!(closed & 2)) CHECK(command.out() == "a-0 | out\n");
    if (!(closed & 4)) CHECK(command.err().find("a-0 | err\n") != std::string::npos);
  }
}

TEST_CASE("descriptors: what is wrong with the input is still told by the exit code") {
  Command command({"launch", "--role", "a=0", "--", "/bin/true"}, [] {
    for (int fd = 0; fd < 3; ++fd) close(fd);
  });
  CHECK(command.finish() == 2);
}

TEST_CASE("as process 1 or a subreaper launch reaps the orphans that it gets") {
  Folder folder;
  // Each leaves its group and its parent, so that it comes to launch; "wait" waits for none of them.
  Command command(shell(folder,
                        "i=0; while [ $i -lt 20 ]; do setsid sh -c 'sleep 0.01 & exit 0'; i=$((i+1)); done; "
                        "echo ready; read line < " +
                            (folder / "go")),
                  [] { prctl(PR_SET_CHILD_SUBREAPER, 1); });
  REQUIRE(mkfifo((folder / "go").c_str(), 0600) == 0);
  REQUIRE(command.wait_for("ready"));
  const std::string path =
      "/proc/" + std::to_string(command.pid()) + "/task/" + std::to_string(command.pid()) + "/children";
  // The process of the job and the guard stay.
  const auto children = [&] {
    std::ifstream file(path);
    return std::vector<std::string>(std::istream_iterator<std::string>(file), {}).size();
  };
  if (!std::filesystem::exists(path)) {
    MESSAGE("skipped: this kernel does not tell whose children there are");
    return;
  }
  const auto deadline = SteadyClock::now() + kPatience;
  while (children() > 2 && SteadyClock::now() < deadline) sched_yield();
  CHECK(children() == 2);
  std::ofstream(folder / "go") << "go\n";
  CHECK(command.finish() == 0);
}

TEST_CASE("how processes end is known also where the one that started us ignores the ends of its own") {
  Folder folder;
  Command command(shell(folder, "exit 3"), [] { signal(SIGCHLD, SIG_IGN); });
  CHECK(command.finish() == 3);
}

TEST_CASE("SIGTERM: those who serve are asked to end when those whom they serve have ended") {
  Folder folder;
  const std::string server =
      "trap 'echo server asked; exit 0' TERM; echo server ready; while :; do sleep 0.05; done";
  const std::string worker = "trap 'echo worker asked; read line < " + (folder / "go") +
                             "; echo worker done; exit 0' TERM; "
                             "echo worker ready; while :; do sleep 0.05; done";
  const nlohmann::json job{{"name", "test"},
                           {"processes",
                            {{{"role", "server"}, {"command", {"/bin/sh", "-c", server}}},
                             {{"role", "worker"}, {"count", 2}, {"command", {"/bin/sh", "-c", worker}}}}}};
  REQUIRE(mkfifo((folder / "go").c_str(), 0600) == 0);
  const std::string file = folder.write("job.json", job.dump());
  Command command({"launch", file, "--run-dir", folder / "run", "--grace", "3600"});
  for (const char* ready : {"server ready", "worker-0 | worker ready", "worker-1 | worker ready"})
    REQUIRE(command.wait_for(ready));
  command.kill(SIGTERM);
  for (const char* asked : {"worker-0 | worker asked", "worker-1 | worker asked"})
    REQUIRE(command.wait_for(asked));
  CHECK(command.out().find("server asked") == std::string::npos);
  // Open for both ways until the end: what one of them leaves is there for the other, whenever that comes.
  const int go = ::open((folder / "go").c_str(), O_RDWR | O_CLOEXEC);
  REQUIRE(go >= 0);
  REQUIRE(::write(go, "go\ngo\n", 6) == 6);
  CHECK(command.finish() == 143);
  ::close(go);
  CHECK(command.out().find("server asked") > command.out().rfind("worker done"));
}

TEST_CASE("SIGTERM: a role that does not end gets its share of the time, then the next one is asked") {
  Folder folder;
  const nlohmann::json job{
      {"name", "test"},
      {"processes",
       {{{"role", "server"},
         {"command",
          {"/bin/sh", "-c",
           "trap 'echo server asked; exit 0' TERM; echo server ready; while :; do sleep 1000 & wait $!; "
           "done"}}},
        {{"role", "deaf"},
         {"command", {"/bin/sh", "-c", "trap '' TERM; echo deaf ready; while :; do sleep 1000; done"}}}}}};
  const std::string file = folder.write("job.json", job.dump());
  Command command({"launch", file, "--run-dir", folder / "run", "--grace", "0.4"});
  for (const char* ready : {"server ready", "deaf ready"}) REQUIRE(command.wait_for(ready));
  command.kill(SIGTERM);
  CHECK(command.finish() == 143);
  CHECK(command.out().find("server asked") != std::string::npos);
  CHECK(command.err().find("deaf did not end within 0.4 s: killed") != std::string::npos);
}

TEST_CASE("terminals: a dumb one, or of no kind, gets no escape sequence; NO_COLOR no colour") {
  const auto screen = [](const OnTerminal::Variables& environment) {
    Folder folder;
    OnTerminal launch(with_program(shell(folder, "echo one; echo two >&2; exit 3")), environment);
    CHECK(launch.finish() == 3);
    CHECK(launch.screen().find("one") != std::string::npos);
    CHECK(launch.screen().find("two") != std::string::npos);
    return launch.screen();
  };
  CHECK(screen({{"TERM", "dumb"}}).find('\033') == std::string::npos);
  CHECK(screen({{"TERM", ""}}).find('\033') == std::string::npos);
  CHECK(screen({{"TERM", "xterm"}, {"NO_COLOR", "1"}}).find("\033[3") == std::string::npos);
  CHECK(screen({{"TERM", "xterm"}, {"NO_COLOR", ""}}).find("\033[36m") != std::string::npos);
}

TEST_CASE("texts: names, words and paths of any bytes pass, or end with one line and code 2") {
  Folder folder;
  const std::string odd = "caf\xe9";
  auto done = run({"launch", "--run-dir", folder / odd, "--name", odd, "--role", "a=1", "--plain", "--",
                   "/bin/echo", odd});
  CHECK(done.code == 0);
  CHECK(done.out == "a-0 | " + odd + "\n");
  CHECK(std::filesystem::exists(std::filesystem::path(folder / odd) / "job.json"));
  const std::string file = folder.write("job.json", R"({"name": ")" + odd + R"(", "processes": []})");
  done = run({"launch", file});
  CHECK(done.code == 2);
  CHECK(count(done.err, "\n") == 1);
  CHECK(run({"launch", "--role", odd, "--dry-run", "--", "/bin/echo"}).code != 134);
}

TEST_CASE("limits: no process to be had is told, and what was started is ended") {
#ifdef TROUPE_SANITIZER
  MESSAGE("skipped: a sanitizer starts threads of its own");
  return;
#endif
  Folder folder;
  chmod((folder / "").c_str(), 0777);
  Command command(shell(folder, "echo here"), [] {
    const rlimit none{1, 1};
    setrlimit(RLIMIT_NPROC, &none);
    // For root there is no such limit.
    if (getuid() == 0 && (setresgid(54321, 54321, 54321) != 0 || setresuid(54321, 54321, 54321) != 0))
      _exit(125);
  });
  const int code = command.finish();
  if (code == 125 || code == 99) {
    MESSAGE("skipped: the program cannot be run as another user here");
    return;
  }
  CHECK(code == 1);
  CHECK_MESSAGE(command.err().find("cannot start a-0") != std::string::npos, command.err());
}

TEST_CASE("limits: no descriptors to be had is one line and code 1, and nothing hangs") {
  for (rlim_t files = 3; files < 16; ++files) {
    CAPTURE(files);
    Folder folder;
    Command command(shell(folder, "exit 0"), [&] {
      const rlimit few{files, files};
      setrlimit(RLIMIT_NOFILE, &few);
    });
    const int code = command.finish();
    CHECK((code == 0 || code == 1 || code == 2 || code == 127));
  }
}
