// Bad input to the troupe command: one clear line and exit code 2.
#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include "command.hpp"

using namespace command_test;

namespace {

void check_bad(const std::vector<std::string>& args, const std::string& expected) {
  auto done = run(args);
  CAPTURE(done.err);
  CHECK(done.code == 2);
  CHECK(done.out.empty());
  CHECK(count(done.err, "\n") == 1);
  CHECK(done.err.find(expected) != std::string::npos);
}

void check_bad_file(const std::string& text, const std::string& expected) {
  Folder folder;
  check_bad({"launch", folder.write("bad.json", text), "--run-dir", folder / "run"}, expected);
  CHECK_FALSE(std::filesystem::exists(folder / "run"));
}

}  // namespace

TEST_CASE("unknown flags and commands come with the nearest known one") {
  check_bad({"launch", "--grac", "3", "--role", "a", "--", "true"},
            "unknown flag --grac (did you mean \"--grace\"?)");
  check_bad({"lanuch"}, "unexpected argument lanuch (did you mean \"launch\"?)");
}

TEST_CASE("flags that make no job say what is missing") {
  check_bad({"launch"}, "Give a job file, or --role");
  check_bad({"launch", "--role", "a"}, "Give the program after --");
  check_bad({"launch", "--role", "a=0", "--", "true"}, "the count must be 1 or more");
  check_bad({"launch", "--role", "a=x", "--", "true"}, "the count must be 1 or more");
  check_bad({"launch", "--role", "a=2000", "--", "true"}, "at most 1024 processes");
  check_bad({"launch", "--port", "99999", "--role", "a", "--", "true"}, "--port");
  check_bad({"launch", "--grace", "soon", "--role", "a", "--", "true"}, "--grace");
}

TEST_CASE("names that do not fit are told, with the nearest one that does") {
  check_bad({"launch", "--role", "a=2", "--role", "a=1", "--", "true"}, "two processes are named \"a-0\"");
  check_bad({"launch", "--role", "worker=2", "--set", "worker-3:x=1", "--", "true"},
            "no process or role is named \"worker-3\" (did you mean \"worker-0\"?)");
  check_bad({"launch", "--role", "a", "--set", "a", "--", "true"}, "must be NAME:KEY=VALUE");
  check_bad({"launch", "--role", "a=2", "--console", "a", "--", "true"},
            "only one process can be the console");
  check_bad({"launch", "--role", "a", "--", "true", "{nmae}"}, "unknown placeholder {nmae}");
}

TEST_CASE("a program that is not there is told before anything starts") {
  Folder folder;
  check_bad({"launch", "--role", "a", "--run-dir", folder / "run", "--", "no-such-program-at-all"},
            "a: program not found: no-such-program-at-all");
  CHECK_FALSE(std::filesystem::exists(folder / "run"));
}

TEST_CASE("a job file that is missing or malformed is told with the place") {
  check_bad({"launch", "/no/such/job.json"}, "cannot read the job file /no/such/job.json: No such file");
  check_bad({"launch", "/tmp"}, "is a folder");
  check_bad_file("{\n  \"name\": \"x\",\n  \"processes\": [,]\n}",
                 "bad.json: not valid JSON at line 3, column 17");
  check_bad_file("", "not valid JSON at line 1");
  check_bad_file("{\"processes\": []}", "\"processes\" must be a list with at least one entry");
  check_bad_file("[]", "must be an object");
}

TEST_CASE("keys and values of a job file that do not fit are told with the place") {
  check_bad_file(R"({"proceses": []})", "unknown key \"proceses\" (did you mean \"processes\"?)");
  check_bad_file(R"({"processes": [{"role": "a", "comand": ["true"]}]})",
                 "processes[0]: unknown key \"comand\" (did you mean \"command\"?)");
  check_bad_file(R"({"processes": [{"command": ["true"]}]})", "processes[0]: \"role\" is missing");
  check_bad_file(R"({"processes": [{"role": "a", "command": "true"}]})", "\"command\" must be a list");
  check_bad_file(R"({"processes": [{"role": "a", "command": [true]}]})", "only strings and numbers");
  check_bad_file(R"({"processes": [{"role": "a", "count": 1.5, "command": ["true"]}]})", "\"count\" must be");
  check_bad_file(R"({"processes": [{"role": "a", "count": -1, "command": ["true"]}]})", "\"count\" must be");
  check_bad_file(R"({"processes": [{"role": "a"}]})", "a has no command");
  check_bad_file(R"({"processes": [{"role": "a b", "command": ["true"]}]})", "cannot be a name");
  check_bad_file(R"({"processes": [{"role": "a", "env": {"A=B": "1"}, "command": ["true"]}]})",
                 "no name for an environment");
  check_bad_file(R"({"processes": [{"role": "w", "count": 2, "command": ["true"], "workers": {"w-2": {}}}]})",
                 "no process of role \"w\" is named \"w-2\"");
  check_bad_file(R"({"name": "a", "name": "b", "processes": []})", "\"name\" stands twice");
}

TEST_CASE("a port in use is told") {
  int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof address;
  REQUIRE(bind(listener, reinterpret_cast<sockaddr*>(&address), size) == 0);
  REQUIRE(listen(listener, 1) == 0);
  REQUIRE(getsockname(listener, reinterpret_cast<sockaddr*>(&address), &size) == 0);
  std::string port = std::to_string(ntohs(address.sin_port));
  Folder folder;
  check_bad({"launch", "--role", "a", "--port", port, "--run-dir", folder / "run", "--", "true"},
            "port " + port + " is in use");
  close(listener);
}

TEST_CASE("help, version and a dry run print to standard output and start nothing") {
  Folder folder;
  CHECK(run({"--version"}).out.starts_with("troupe "));
  CHECK(run({"--help"}).out.find("launch") != std::string::npos);
  CHECK(run({"launch", "--help"}).out.find("--grace") != std::string::npos);
  auto dry = run({"launch", "--role", "a=2", "--dry-run", "--run-dir", folder / "run", "--", "echo", "it's"});
  CHECK(dry.code == 0);
  CHECK(dry.out == "a-0: echo 'it'\\''s' --name a-0 --role a\na-1: echo 'it'\\''s' --name a-1 --role a\n");
  CHECK_FALSE(std::filesystem::exists(folder / "run"));
}
