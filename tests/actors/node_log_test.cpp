#include <troupe/actors/node.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <mutex>
#include <string>
#include <vector>

using namespace troupe;
using namespace std::chrono_literals;

TEST_CASE("node log: joins and leaves are told, marked with the node's name") {
  std::mutex mutex;
  std::vector<std::string> lines;
  LogOptions log_options;
  log_options.write = [&](std::string_view line) {
    const std::lock_guard lock(mutex);
    lines.emplace_back(line);
  };
  auto log = Logger::open(log_options);
  REQUIRE(log);
  auto first = Node::start({.name = "first", .log = *log});
  REQUIRE(first);
  auto second = Node::start({.name = "second", .registry = (*first)->address()});
  REQUIRE(second);
  second->reset();
  const auto told = [&](const char* what) {
    const std::lock_guard lock(mutex);
    return std::any_of(lines.begin(), lines.end(), [&](const std::string& line) {
      return line.find(what) != std::string::npos && line.find("first") != std::string::npos;
    });
  };
  Loop& loop = (*first)->loop();
  CHECK(loop.wait_until([&] { return told("a node left"); }, loop.clock().now() + 5s));
  CHECK(told("a node joined"));
  const auto stranger =
      Node::start({.name = "stranger", .registry = (*first)->address(), .secret = "nobody else knows it"});
  CHECK_FALSE(stranger.ok());
  CHECK(loop.wait_until([&] { return told("a peer was refused"); }, loop.clock().now() + 5s));
}
