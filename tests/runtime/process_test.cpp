#include <doctest/doctest.h>
#include <fcntl.h>
#include <pty.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cstdlib>
#include <functional>
#include <string>

#include <troupe/runtime/json.hpp>
#include <troupe/runtime/log.hpp>
#include <troupe/runtime/process.hpp>
#include <troupe/runtime/text.hpp>

using namespace troupe;

namespace {

int exit_code_in_child(const std::function<int()>& body) {
  const pid_t child = fork();
  REQUIRE(child >= 0);
  if (child == 0) std::_Exit(body());
  int status = 0;
  waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

/// What `body` writes to a terminal that is its standard error.
std::string on_terminal(const char* term, const char* no_color, const std::function<void()>& body) {
  int terminal = -1;
  const pid_t child = forkpty(&terminal, nullptr, nullptr, nullptr);
  REQUIRE(child >= 0);
  if (child == 0) {
    setenv("TERM", term, 1);
    setenv("NO_COLOR", no_color, 1);
    body();
    std::_Exit(0);
  }
  std::string text;
  std::array<char, 1024> bytes;
  for (ssize_t got = 0; (got = read(terminal, bytes.data(), bytes.size())) > 0;)
    text.append(bytes.data(), static_cast<std::size_t>(got));
  close(terminal);
  waitpid(child, nullptr, 0);
  return text;
}

}  // namespace

TEST_CASE("descriptors that are closed at the start are opened, in their places") {
  CHECK(exit_code_in_child([] {
          close(0);
          close(2);
          if (!open_standard_descriptors()) return 1;
          if (fcntl(0, F_GETFD) < 0 || fcntl(2, F_GETFD) < 0) return 2;
          const int next = open("/dev/null", O_RDONLY);
          return next > 2 ? 0 : 3;
        }) == 0);
}

TEST_CASE("a child of fork() has left the home of what was made before, and none else") {
  const HomeProcess home;
  CHECK_FALSE(home.left());
  CHECK(exit_code_in_child([&] {
          const HomeProcess own;
          if (!home.left() || own.left()) return 1;
          return exit_code_in_child([&] { return own.left() && home.left() ? 0 : 1; });
        }) == 0);
  CHECK_FALSE(home.left());
  CHECK(HomeProcess::error().code == Code::kFailedPrecondition);
}

TEST_CASE("threads that are to be had are counted, and run") {
  CHECK(room_for_threads(4).ok());
  bool ran = false;
  auto thread = start_thread([&] { ran = true; });
  REQUIRE(thread.ok());
  thread->join();
  CHECK(ran);
}

TEST_CASE("UTF-8 is told from what is not, and that is replaced") {
  for (const char* good :
       {"", "plain", "h\u00f6chst", "\u20ac", "\U0001f600", "\ud7ff", "\ue000", "\U0010ffff"}) {
    CHECK(is_utf8(good));
    CHECK(to_utf8(good) == good);
  }
  for (const char* bad :
       {"\xe9", "caf\xe9", "\x80", "\xc0\xaf", "\xc1\xbf", "\xe0\x80\x80", "\xed\xa0\x80", "\xf0\x80\x80\x80",
        "\xf4\x90\x80\x80", "\xf5\x80\x80\x80", "\xff", "\xe2\x82", "\xc3"}) {
    CAPTURE(std::string(bad));
    CHECK_FALSE(is_utf8(bad));
    CHECK(is_utf8(to_utf8(bad)));
    CHECK_NOTHROW((void)Json(to_utf8(bad)).dump());
  }
  CHECK(to_utf8("caf\xe9!") == "caf\ufffd!");
}

TEST_CASE("any bytes go through JSON and come back as they were") {
  std::string all;
  for (int byte = 0; byte < 256; ++byte) all += static_cast<char>(byte);
  for (const std::string& bytes :
       {std::string("word"), std::string("h\u00f6chst"), std::string("caf\xe9"), all}) {
    const std::string text = json_of_bytes(bytes).dump();
    CHECK(bytes_of_json(Json::parse(text)) == bytes);
  }
  CHECK(json_of_bytes("word") == Json("word"));
  CHECK_THROWS_AS((void)bytes_of_json(Json(3)), const Json::exception&);
}

TEST_CASE("a log line is UTF-8 and cannot draw on the terminal, whatever is logged") {
  std::string line;
  LogOptions options;
  options.write = [&](std::string_view text) { line = text; };
  auto log = Logger::open(options);
  REQUIRE(log.ok());
  log->info("caf\xe9 \x1b[31m", {{"value", std::string("\x1b[2J\xff")}, {"word", std::string("caf\xe9")}});
  CHECK(is_utf8(line));
  CHECK(line.find('\x1b') == std::string::npos);
  CHECK(line.find("\\u001b[2J") != std::string::npos);
}

TEST_CASE("the log is coloured on a terminal that can, and not against NO_COLOR") {
  const auto log = [] {
    auto logger = Logger::open({});
    if (logger) logger->warn("careful");
  };
  CHECK(on_terminal("xterm", "", log).find("\033[") != std::string::npos);
  for (const std::string& plain : {on_terminal("xterm", "1", log), on_terminal("dumb", "", log)}) {
    CHECK(plain.find("careful") != std::string::npos);
    CHECK(plain.find('\033') == std::string::npos);
  }
}
