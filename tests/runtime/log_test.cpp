#include <troupe/runtime/log.hpp>

#include <unistd.h>

#include <filesystem>
#include <string>
#include <thread>
#include <vector>

#include <doctest/doctest.h>
#include <troupe/runtime/files.hpp>
#include <troupe/runtime/json.hpp>

using namespace troupe;
using namespace std::chrono_literals;

namespace {

struct Captured {
  explicit Captured(LogFormat format, LogLevel level = LogLevel::kInfo)
      : log(*Logger::open({.level = level,
                           .format = format,
                           .write = [this](std::string_view line) { lines.emplace_back(line); },
                           .clock = &clock})) {}
  SimClock clock;
  std::vector<std::string> lines;
  Logger log;
};

}  // namespace

TEST_CASE("a text line has level, time, node, worker, message, fields and trace") {
  Captured captured(LogFormat::kText);
  captured.clock.advance_to(TimePoint{1'250'000'000});
  const Logger log = captured.log.with_node("ps-0").with_worker("entity");
  log.with_trace(255).warn(
      "late", {{"peer", "w-1"}, {"rank", 3}, {"ratio", 0.5}, {"ok", true}, {"after", Duration(20ms)}});
  captured.log.info("plain");
  REQUIRE(captured.lines.size() == 2);
  CHECK(
      captured.lines[0] ==
      "warn  1.250000 ps-0/entity late peer=w-1 rank=3 ratio=0.5 ok=true after=20ms trace=00000000000000ff");
  CHECK(captured.lines[1] == "info  1.250000 plain");
}

TEST_CASE("a line carries the whole trace and the span in which its thread works") {
  struct Working final : CurrentTrace {
    TraceContext current() const override { return trace; }
    TraceContext trace;
  };
  Captured captured(LogFormat::kText);
  const auto working = std::make_shared<Working>();
  const Logger log = captured.log.with_current_trace(working);
  log.info("outside");
  working->trace = {0x4bf92f3577b34da6U, 0xa3ce929d0e0e4736U, 0xf067aa0ba902b7U, TraceContext::kSampled};
  log.info("within");
  log.error("failed", Error{Code::kAborted, "why", {}, {}, working->trace.trace_low});
  log.error("other", Error{Code::kAborted, "why", {}, {}, 1});
  working->trace.flags = 0;
  log.info("not sampled");
  const std::string within = " trace=4bf92f3577b34da6a3ce929d0e0e4736 span=00f067aa0ba902b7";
  REQUIRE(captured.lines.size() == 5);
  CHECK(captured.lines[0].ends_with("outside"));
  CHECK(captured.lines[1].ends_with("within" + within));
  CHECK(captured.lines[2].ends_with("code=ABORTED error=why" + within));
  CHECK(captured.lines[3].ends_with(" trace=0000000000000001"));
  CHECK(captured.lines[4].ends_with("not sampled"));
  Captured json(LogFormat::kJson);
  working->trace.flags = TraceContext::kSampled;
  json.log.with_current_trace(working).info("x");
  const auto line = parse_json(json.lines.at(0), "line");
  REQUIRE(line.ok());
  CHECK(line->at("trace") == "4bf92f3577b34da6a3ce929d0e0e4736");
  CHECK(line->at("span") == "00f067aa0ba902b7");
}

TEST_CASE("a JSON line holds the same, in order, as one object") {
  Captured captured(LogFormat::kJson);
  captured.log.with_node("ps-0").with_trace(1).info("joined \"x\"\n", {{"count", 7U}, {"bad", "\xff"}});
  REQUIRE(captured.lines.size() == 1);
  const Result<Json> line = parse_json(captured.lines[0], "line");
  REQUIRE(line.ok());
  CHECK(line->at("time") == "0.000000");
  CHECK(line->at("level") == "info");
  CHECK(line->at("node") == "ps-0");
  CHECK(line->at("trace") == "0000000000000001");
  CHECK(line->at("message") == "joined \"x\"\n");
  CHECK(line->at("count") == 7);
  CHECK_FALSE(line->contains("worker"));
}

TEST_CASE("a text line is one line, and values with spaces are quoted") {
  Captured captured(LogFormat::kText);
  captured.log.info("two\nlines", {{"path", "a b"}, {"empty", ""}, {"quote", "x\"y"}});
  REQUIRE(captured.lines.size() == 1);
  CHECK(captured.lines[0].find('\n') == std::string::npos);
  CHECK(captured.lines[0].ends_with(R"(two\nlines path="a b" empty="" quote="x\"y")"));
}

TEST_CASE("lines below the level are not written, and the level changes for all copies") {
  Captured captured(LogFormat::kText, LogLevel::kWarn);
  const Logger copy = captured.log.with_node("n");
  copy.info("no");
  CHECK_FALSE(copy.enabled(LogLevel::kInfo));
  captured.log.set_level(LogLevel::kTrace);
  copy.trace("yes");
  captured.log.set_level(LogLevel::kOff);
  copy.error("no");
  copy.log(LogLevel::kOff, "never");
  REQUIRE(captured.lines.size() == 1);
  CHECK(captured.lines[0].ends_with("n yes"));
}

TEST_CASE("an error is logged with code, text and trace") {
  Captured captured(LogFormat::kText);
  captured.log.error("pull failed", Error{Code::kUnavailable, "ps-1 is dead", "ps-1", "closed", 16});
  REQUIRE(captured.lines.size() == 1);
  CHECK(captured.lines[0].ends_with(
      "pull failed code=UNAVAILABLE error=\"ps-1 is dead\" at=ps-1 cause=closed trace=0000000000000010"));
}

TEST_CASE("a default logger logs nothing, and so do its copies") {
  const Logger silent;
  CHECK_FALSE(silent.enabled(LogLevel::kError));
  silent.with_node("n").with_trace(4).error("nothing");
  silent.flush();
}

TEST_CASE("a file takes whole lines of many threads; one that cannot be opened is an error") {
  const std::string path =
      (std::filesystem::temp_directory_path() / ("troupe-log-" + std::to_string(getpid()))).string();
  {
    const Result<Logger> log = Logger::open({.format = LogFormat::kJson, .file = path});
    REQUIRE(log.ok());
    std::vector<std::thread> threads;
    threads.reserve(4);
    for (int t = 0; t < 4; ++t) {
      threads.emplace_back([log = log->with_worker(std::to_string(t))] {
        for (int i = 0; i < 200; ++i) log.info("line", {{"i", i}});
      });
    }
    for (std::thread& thread : threads) thread.join();
    log->flush();
  }
  const std::string text = *read_file(path);
  std::filesystem::remove(path);
  int lines = 0;
  for (std::size_t begin = 0; begin < text.size(); ++lines) {
    const std::size_t end = text.find('\n', begin);
    REQUIRE(end != std::string::npos);
    REQUIRE(parse_json(text.substr(begin, end - begin), "line").ok());
    begin = end + 1;
  }
  CHECK(lines == 800);
  CHECK_FALSE(Logger::open({.file = "/dev/null/log"}));
}

TEST_CASE("levels have names") {
  CHECK(*parse_log_level("warn") == LogLevel::kWarn);
  CHECK_FALSE(parse_log_level("loud"));
  CHECK(to_string(LogLevel::kDebug) == "debug");
}
