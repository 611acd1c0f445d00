// A node that has come to its limit of descriptors: those that are in stay, newcomers hear why they are not.
#include <memory>
#include <string>
#include <vector>

#include <troupe/runtime/files.hpp>

#include "cluster.hpp"
#include "process.hpp"
#include "support/temporary_folder.hpp"

using namespace troupe;
using namespace troupe::test;

namespace {

std::vector<std::string> limited(int descriptors, const NodeProcess& node) {
  std::vector<std::string> command{"sh", "-c", "ulimit -n " + std::to_string(descriptors) + " && exec \"$@\"",
                                   "sh"};
  for (const std::string& word : node.command()) command.push_back(word);
  return command;
}

}  // namespace

TEST_CASE("of a herd that comes to a node at its limit those that fit get in, and none is cut off") {
  for (const std::string transports : {"auto", "tcp"}) {
    CAPTURE(transports);
    const TemporaryFolder folder;
    std::unique_ptr<Process> first;
    {
      const Variable log("TROUPE_NODE_LOG", folder / "log");
      first = std::make_unique<Process>(limited(48, {.name = "first", .transports = transports}));
    }
    const std::string ready = first->line();
    REQUIRE_MESSAGE(ready.starts_with("ready "), ready);
    const Variable join_timeout("TROUPE_NODE_JOIN_TIMEOUT", "5s");
    std::vector<std::unique_ptr<Process>> herd;
    herd.reserve(25);
    for (int i = 0; i < 25; ++i)
      herd.push_back(std::make_unique<Process>(NodeProcess{
          .name = "node-" + std::to_string(i), .registry = ready.substr(6), .transports = transports}
                                                   .command()));
    std::vector<Process*> in;
    for (auto& process : herd) {
      const std::string line = process->line();
      if (line.starts_with("ready ")) {
        in.push_back(process.get());
        continue;
      }
      CHECK_MESSAGE(contains(line, "failed RESOURCE_EXHAUSTED"), line);
      CHECK_MESSAGE(contains(line, "ulimit -n"), line);
    }
    MESSAGE(in.size() << " of 25 got in, over " << transports);
    CHECK(in.size() >= 4);
    CHECK(in.size() < 25);
    for (Process* member : in) {
      member->tell("call first 20000");
      const std::string answer = member->line();
      CHECK_MESSAGE(answer.starts_with("value "), answer);
    }
    const auto log = read_file(folder / "log");
    REQUIRE(log.ok());
    CHECK(contains(*log, "a peer was refused"));
    CHECK(contains(*log, "open files"));
    CHECK_FALSE(contains(*log, "a node died"));
  }
}

TEST_CASE("a node whose limit lets nobody in says so to who comes") {
  for (const int descriptors : {12, 14, 16, 18}) {
    CAPTURE(descriptors);
    Process first(limited(descriptors, {.name = "first"}));
    const std::string ready = first.line();
    if (!ready.starts_with("ready ")) {
      // Too few for itself: it has said so.
      CHECK_MESSAGE(contains(ready, "Too many open files"), ready);
      continue;
    }
    const Variable join_timeout("TROUPE_NODE_JOIN_TIMEOUT", "4s");
    Process joining(NodeProcess{.name = "joining", .registry = ready.substr(6)}.command());
    const std::string line = joining.line();
    CHECK_MESSAGE(contains(line, "failed RESOURCE_EXHAUSTED"), line);
    CHECK_MESSAGE(contains(line, "ulimit -n"), line);
  }
}
