#include <troupe/actors/node.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <atomic>
#include <mutex>
#include <stdexcept>
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

TEST_CASE(
    "node log: what watchers and tasks throw is logged, others are told all the same, and the node goes on") {
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
  std::atomic<int> told{0};
  (*first)->watch([](const MembershipChange&) { throw std::runtime_error("not today"); });
  (*first)->watch([&](const MembershipChange&) { ++told; });
  (*first)->loop().post([] { throw std::runtime_error("nor now"); });
  auto second = Node::start({.name = "second", .registry = (*first)->address()});
  REQUIRE(second);
  const auto logged = [&](const char* what) {
    const std::lock_guard lock(mutex);
    return std::any_of(lines.begin(), lines.end(),
                       [&](const std::string& line) { return line.find(what) != std::string::npos; });
  };
  Loop& loop = (*first)->loop();
  CHECK(loop.wait_until([&] { return told > 0; }, loop.clock().now() + 5s));
  CHECK(loop.wait_until([&] { return logged("a watcher of the membership threw: not today"); },
                        loop.clock().now() + 5s));
  CHECK(logged("a task threw: nor now"));
  CHECK((*second)->rpc_sync<std::int64_t>("nobody", "here").error().code == Code::kNotFound);
}
