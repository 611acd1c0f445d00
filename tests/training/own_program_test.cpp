// The program of docs/your-own-training.md, run: several processes, deaths, resuming, the end in good order.
#include <doctest/doctest.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>

#include <troupe/actors/node.hpp>

#include "support/temporary_folder.hpp"
#include "tools/command.hpp"

namespace troupe::training {
namespace {

using command_test::Command;
using command_test::Finished;
using command_test::run;
using nlohmann::json;
using test::TemporaryFolder;

constexpr int kTrain = 5400;  // of 6,000 ratings

class Run : public TemporaryFolder {
 public:
  std::string out() const { return (path() / "out").string(); }
  std::vector<std::string> train(const std::vector<std::string>& more) const {
    std::vector<std::string> words{"train",   "--out", out(),       "--users", "100",
                                   "--items", "50",    "--ratings", "6000"};
    words.insert(words.end(), more.begin(), more.end());
    return words;
  }
  json file(const std::string& name) const { return json::parse(read("out/" + name)); }
  pid_t pid(const std::string& name) const {
    const json job = file("job.json");
    for (const auto& process : job.at("processes"))
      if (process["name"] == name) return process["pid"];
    return 0;
  }
  void send(int number, const std::string& name) const {
    const pid_t process = pid(name);
    REQUIRE(process > 0);
    REQUIRE(::kill(process, number) == 0);
  }
};

std::uint64_t examples_of(const json& result) {
  std::uint64_t sum = 0;
  for (const auto& worker : result.at("workers")) sum += worker.at("examples").get<std::uint64_t>();
  return sum;
}

}  // namespace

TEST_CASE("the guide's program learns, and reports in its own words") {
  const Run folder;
  const Finished done = run(folder.train({"--epochs", "20"}));
  CHECK(done.err == "");
  REQUIRE(done.code == 0);
  const auto result = folder.file("result.json");
  CHECK(result["test_rmse"] < 0.5);  // the ratings' own spread is 2
  CHECK(examples_of(result) == 20 * kTrain);
  CHECK(result["examples_per_second"] > 0.0);
  CHECK(result["settings"]["--dimension"] == "8");
  CHECK(result["settings"]["--epochs"] == "20");
  CHECK(done.out.find("RMSE") != std::string::npos);
  const std::string page = folder.read("out/report.html");
  for (const char* part : {"Test RMSE", "Examples per second", "--dimension"})
    CHECK_MESSAGE(page.find(part) != std::string::npos, part);
}

TEST_CASE("the guide's program goes on when a worker is killed, and each batch counts once") {
  const Run folder;
  Command command(folder.train({"--epochs", "60", "--checkpoint-every", "0"}));
  REQUIRE(command.wait_for("epoch  2:"));
  folder.send(SIGKILL, "worker-1");
  CHECK(command.finish() == 0);
  CHECK(command.err() == "");
  CHECK(command.out().find("worker 'worker-1' died") != std::string::npos);
  const auto result = folder.file("result.json");
  CHECK(result["failures"].size() == 1);
  CHECK(examples_of(result) == 60 * kTrain);
  CHECK(result["test_rmse"] < 0.5);
}

TEST_CASE("the guide's program learns in each mode, with schedules and limits that flags give") {
  const std::vector<std::pair<std::vector<std::string>, std::string>> runs{
      {{"--consistency", "sync", "--schedule", "cosine:2000,0.1", "--warm-up", "10,0.1"}, "synchronous"},
      {{"--consistency", "k-of-n:2", "--clip-norm", "1000"}, "2 of n"},
      {{"--consistency", "k-of-n:2,scale", "--clip-value", "100"}, "2 of n, late ones scaled"},
      {{"--consistency", "bounded:2", "--delay-compensation", "0.001"}, "bounded, 2"},
      {{"--step-scaling", "inverse-staleness", "--clip-row-norm", "500"}, "asynchronous"}};
  for (const auto& each : runs) {
    const std::string& mode = each.second;
    CAPTURE(mode);
    const Run folder;
    auto line = folder.train({"--epochs", "20"});
    line.insert(line.end(), each.first.begin(), each.first.end());
    const Finished done = run(line);
    CHECK(done.err == "");
    REQUIRE(done.code == 0);
    const auto result = folder.file("result.json");
    CHECK(result["staleness"][0]["mode"] == mode);
    CHECK(examples_of(result) == 20 * kTrain);
    CHECK(result["test_rmse"] < 1);  // the ratings' own spread is 2
  }
}

TEST_CASE("the guide's program goes on in rounds when a worker is killed") {
  const Run folder;
  Command command(folder.train({"--epochs", "60", "--checkpoint-every", "0", "--consistency", "sync"}));
  REQUIRE(command.wait_for("epoch  2:"));
  folder.send(SIGKILL, "worker-1");
  CHECK(command.finish() == 0);
  CHECK(command.err() == "");
  const auto result = folder.file("result.json");
  CHECK(result["failures"].size() == 1);
  CHECK(examples_of(result) == 60 * kTrain);
}

TEST_CASE("flags of steps that cannot be end the program at once, with one line") {
  const Run folder;
  for (const auto& flags :
       std::vector<std::vector<std::string>>{{"--consistency", "sometimes"},
                                             {"--schedule", "cosine:0"},
                                             {"--clip-norm", "-1"},
                                             {"--consistency", "sync", "--staleness", "1"},
                                             {"--consistency", "sync", "--delay-compensation", "1"}}) {
    CAPTURE(flags[0]);
    const Finished refused = run(folder.train(flags));
    CHECK(refused.code == 2);
    CHECK(refused.out == "");
    CHECK(std::count(refused.err.begin(), refused.err.end(), '\n') == 1);
    CHECK(refused.err.find(flags[flags.size() - 2]) != std::string::npos);
  }
}

TEST_CASE("the guide's program is resumed after a server's death, with the flags of the run") {
  const Run folder;
  Command command(folder.train({"--epochs", "100000", "--dimension", "4"}));
  REQUIRE(command.wait_for("epoch  3:"));
  folder.send(SIGKILL, "ps-0");
  CHECK(command.finish() == 1);
  CHECK(command.err().find("shard server 'ps-0' died") != std::string::npos);
  CHECK(command.err().find("train --resume " + folder.out()) != std::string::npos);
  const Finished resumed = run({"train", "--resume", folder.out(), "--epochs", "1"});
  CHECK(resumed.err == "");
  REQUIRE(resumed.code == 0);
  CHECK(folder.file("result.json")["settings"]["--dimension"] == "4");
  CHECK(folder.file("result.json")["epochs"].size() >= 3);
  const Finished refused = run({"train", "--resume", folder.out(), "--rate", "0.5"});
  CHECK(refused.code == 2);
  CHECK(refused.err.find("leave out --rate") != std::string::npos);
}

TEST_CASE("a setting that no table can have is told before anything starts") {
  for (const char* rate : {"1e39", "inf", "nan", "-1"}) {
    CAPTURE(rate);
    const Run folder;
    const Finished refused = run(folder.train({"--epochs", "1", std::string("--rate=") + rate}));
    CAPTURE(refused.err);
    CHECK(refused.code == 2);
    CHECK(command_test::count(refused.err, "\n") == 1);
    CHECK(refused.err.find("learning_rate") != std::string::npos);
    CHECK(refused.out.find("waiting for") == std::string::npos);
  }
}

TEST_CASE("at the end of a job its processes leave, the chief as the last of them") {
  const Run folder;
  Command job(folder.train({"--epochs", "300"}));
  REQUIRE(job.wait_for("epoch  1:"));
  folder.send(SIGSTOP, "worker-0");  // no epoch ends without it: the job waits for the observer
  const int home = command_test::number_after(job.out(), "workers at 127.0.0.1:");
  auto observer =
      Node::start({.name = "observer", .role = "observer", .registry = "127.0.0.1:" + std::to_string(home)});
  REQUIRE(observer);
  std::map<std::string, MembershipEvent> ends;  // with the loop's turn
  (*observer)->watch([&](const MembershipChange& change) {
    if (change.event == MembershipEvent::kLeft || change.event == MembershipEvent::kDied)
      ends[change.member.name] = change.event;
  });
  folder.send(SIGCONT, "worker-0");
  Loop& loop = (*observer)->loop();
  CHECK(loop.wait_until([&] { return ends.size() >= 5; }, loop.clock().now() + command_test::kPatience));
  const bool chief_was_there = [&] {
    const auto members = (*observer)->membership().members;
    return std::any_of(members.begin(), members.end(),
                       [](const Member& each) { return each.name == "chief"; });
  }();
  observer->reset();  // for whom the chief waits, too
  CHECK(job.finish() == 0);
  CHECK(chief_was_there);
  for (const char* name : {"ps-0", "ps-1", "worker-0", "worker-1", "worker-2"}) {
    CAPTURE(name);
    REQUIRE(ends.contains(name));
    CHECK(ends[name] == MembershipEvent::kLeft);
  }
}

}  // namespace troupe::training
