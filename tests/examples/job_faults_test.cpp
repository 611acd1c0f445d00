// What becomes of the job when its processes die, when it is interrupted, and when its input is bad.
#include <doctest/doctest.h>

#include <netinet/in.h>
#include <sys/socket.h>
#include <cstdlib>
#include <fstream>
#include <thread>

#include <troupe/actors/node.hpp>
#include <troupe/rpc/endpoint.hpp>
#include <troupe/runtime/clock.hpp>

#include "examples/job.hpp"

namespace troupe::wordnet {
namespace {

using command_test::count;

/// Kills one of the run's processes and waits until it is no more.
void kill_process(const JobFolder& folder, const std::string& name) {
  const pid_t pid = folder.pid(name);
  REQUIRE(pid > 0);
  const int fd = command_test::pidfd(pid);
  REQUIRE(fd >= 0);
  REQUIRE(kill(pid, SIGKILL) == 0);
  CHECK(command_test::ends_in_time(fd));
  close(fd);
}

/// None of the run's processes is there any more.
void check_all_ended(const JobFolder& folder) {
  for (const auto& process : folder.processes()) {
    const int fd = command_test::pidfd(process["pid"]);
    if (fd < 0) continue;
    CHECK_MESSAGE(command_test::ends_in_time(fd), process["name"]);
    close(fd);
  }
}

/// The command that the message of a failed run gives, literally.
std::string command_in(const std::string& err) {
  const std::string mark = "To go on from it:\n  ";
  const auto at = err.find(mark);
  REQUIRE_MESSAGE(at != std::string::npos, err);
  return err.substr(at + mark.size(), err.find('\n', at + mark.size()) - at - mark.size());
}

}  // namespace

TEST_CASE("kill -9 of a worker: the others finish, each batch counts once, the report says so") {
  for (const char* mode : {"asynchronous", "bounded"}) {
    CAPTURE(mode);
    JobFolder folder;
    auto flags = folder.train({"--epochs", "150", "--checkpoint-every", "0", "--valid-triples", "0"});
    if (mode[0] == 'b') flags.insert(flags.end(), {"--staleness", "1"});
    Command command(flags);
    REQUIRE(command.wait_for("epoch  2:"));
    kill_process(folder, "worker-1");
    CHECK(command.finish() == 0);
    CHECK(command.err() == "");
    CHECK(command.out().find("worker 'worker-1' died") != std::string::npos);
    const auto result = folder.result();
    REQUIRE(result["failures"].size() == 1);
    CHECK(result["failures"][0]["who"] == "worker-1");
    CHECK(result["workers"][1]["alive"] == false);
    CHECK(result["workers"][0]["alive"] == true);
    std::uint64_t triples = 0;
    for (const auto& worker : result["workers"]) triples += worker["triples"].get<std::uint64_t>();
    CHECK(triples == 150 * 2 * kTrain);
    // Each of the eleven batches of an epoch has keys on both servers, which applied it once.
    CHECK(result["staleness"][0]["pushes"] == 150 * 11 * 2);
    CHECK(folder.read("out/report.html").find("Failures") != std::string::npos);
    CHECK(result["test_mrr"] > 0.5);
  }
}

#ifdef TROUPE_SANITIZER
constexpr std::chrono::seconds kEndsWithin{70};  // each process looks for leaks first
#else
constexpr std::chrono::seconds kEndsWithin{10};
#endif

TEST_CASE("kill -9 of a shard server: the message names it, and its command goes on from the checkpoint") {
  JobFolder folder;
  Command command(folder.train({"--epochs", "60"}));
  REQUIRE(command.wait_for("epoch  3:"));
  const auto killed_at = command_test::SteadyClock::now();
  kill_process(folder, "ps-1");
  CHECK(command.finish() == 1);
  CHECK(command_test::SteadyClock::now() - killed_at < kEndsWithin);
  CHECK(command.err().find("shard server 'ps-1' died") != std::string::npos);
  CHECK(command.err().find("Last checkpoint: " + (folder / "out/checkpoint")) != std::string::npos);
  CHECK_MESSAGE(count(command.err(), "\n") == 4, command.err());  // those, and how the server ended
  check_all_ended(folder);
  const std::string resume = command_in(command.err()) + " > " + (folder / "resumed.txt") + " 2>&1";
  const int status = std::system(resume.c_str());
  CHECK_MESSAGE(WEXITSTATUS(status) == 0, folder.read("resumed.txt"));
  CHECK(folder.result()["epochs"].size() == 60);
  CHECK(folder.result()["test_mrr"] > 0.5);
}

TEST_CASE("kill -9 of a shard server before there is a checkpoint") {
  JobFolder folder;
  Command command(folder.train({"--epochs", "1000000", "--checkpoint-every", "0"}));
  REQUIRE(command.wait_for("epoch  1:"));
  kill_process(folder, "ps-0");
  CHECK(command.finish() == 1);
  CHECK(command.err().find("shard server 'ps-0' died") != std::string::npos);
  CHECK(command.err().find("There is no checkpoint yet; begin again.") != std::string::npos);
  check_all_ended(folder);
}

TEST_CASE("kill -9 of the chief, of the launcher, and of all workers: nobody stays behind") {
  for (const char* victim : {"chief", "launcher", "workers"}) {
    CAPTURE(victim);
    JobFolder folder;
    Command command(folder.train({"--epochs", "1000000"}));
    REQUIRE(command.wait_for("epoch  1:"));
    if (victim[0] == 'c') {
      kill_process(folder, "chief");
      CHECK(command.finish() == 128 + SIGKILL);
      CHECK(command.err().find("chief was killed by SIGKILL") != std::string::npos);
      CHECK(command_in(command.err()).find("train --resume " + folder.out()) != std::string::npos);
    } else if (victim[0] == 'l') {
      command.kill(SIGKILL);
      CHECK(command.finish() == -SIGKILL);
    } else {
      for (const char* worker : {"worker-0", "worker-1", "worker-2"}) kill_process(folder, worker);
      CHECK(command.finish() == 1);
      CHECK(command.err().find("no worker is left") != std::string::npos);
    }
    check_all_ended(folder);
  }
}

TEST_CASE("an interrupt ends the job with 130 and says how to go on") {
  for (const char* when : {"waiting for", "epoch  1:", "epoch  4:"}) {
    for (const int signal : {SIGINT, SIGTERM}) {
      CAPTURE(when);
      CAPTURE(signal);
      JobFolder folder;
      Command command(folder.train({"--epochs", "1000000"}));
      REQUIRE(command.wait_for(when));
      command.kill(signal);
      CHECK(command.finish() == 128 + signal);
      CHECK(command.err().starts_with("wordnet: interrupted\n"));
      if (when[0] == 'e')
        CHECK(command_in(command.err()).find("train --resume " + folder.out()) != std::string::npos);
      check_all_ended(folder);
    }
  }
}

TEST_CASE("bad input is one line and exit code 2") {
  JobFolder folder;
  std::filesystem::create_directory(folder / "malformed");
  folder.write("malformed/train.txt", "a\tr\tb\na\tr b\n");
  folder.write("malformed/valid.txt", "");
  folder.write("malformed/test.txt", "");
  folder.write("file", "");
  REQUIRE(run(folder.train({"--epochs", "1"})).code == 0);  // for --resume
  struct Case {
    std::vector<std::string> words;
    std::string expected;
  };
  const std::vector<Case> cases{
      {{"train", "--no-such-flag"}, "--no-such-flag"},
      {{"train", "--out", folder / "o", "--data", folder / "missing"}, "missing"},
      {{"train", "--out", folder / "o", "--data", folder / "malformed"}, "malformed/train.txt:2: "},
      {{"train", "--throttle", "worker-1=3"}, "--throttle worker-1=3"},
      {{"train", "--throttle", "worker-1"}, "--throttle worker-1"},
      {{"train", "--throttle", "worker-7=0.5"}, "there is no worker-7"},
      {{"train", "--staleness", "-1"}, "--staleness"},
      {{"train", "--rate", "1e39"}, "--rate: '1e39'"},
      {{"train", "--rate", "inf"}, "--rate"},
      {{"train", "--n3", "nan"}, "--n3"},
      {{"train", "--keep-checkpoints", "0"}, "--keep-checkpoints"},
      {{"train", "--allow-older"}, "--resume"},
      {{"train", "--servers", "0"}, "--servers"},
      {{"train", "--servers", "2000"}, "--servers"},
      {{"train", "--transport", "pigeon"}, "--transport"},
      {{"train", "--out", folder / "file/out"}, "file/out"},
      {{"tarin"}, "unknown command 'tarin'"},
      {{"train", "--resume", folder / "missing"}, "holds no checkpoint"},
      {{"train", "--resume", folder.out(), "--batch", "3"}, "leave out --batch"},
      {{"train", "--out", folder / "o", "--data", folder / "graph", "--reference", folder / "file"},
       "wordnet_reference"},
  };
  for (const Case& bad : cases) {
    const Finished done = run(bad.words);
    CAPTURE(done.err);
    CHECK(done.code == 2);
    CHECK(done.err.starts_with("wordnet: "));
    CHECK(done.err.find(bad.expected) != std::string::npos);
    CHECK(count(done.err, "\n") == 1);
  }
}

TEST_CASE("a damaged checkpoint is one line and the job ends") {
  JobFolder folder;
  REQUIRE(run(folder.train({"--epochs", "1"})).code == 0);
  for (const auto& entry : std::filesystem::directory_iterator(folder / "out/checkpoint"))
    if (entry.path().filename() != "manifest.json") {
      std::string bytes = folder.read("out/checkpoint/" + entry.path().filename().string());
      bytes[bytes.size() / 2] = static_cast<char>(bytes[bytes.size() / 2] ^ 1);
      folder.write("out/checkpoint/" + entry.path().filename().string(), bytes);
    }
  const Finished done = run({"train", "--resume", folder.out()});
  CAPTURE(done.err);
  CHECK(done.code == 2);
  CHECK(done.err.find("is corrupt") != std::string::npos);
  CHECK(count(done.err, "\n") == 1);  // nothing sends back to it
}

TEST_CASE("a run is not resumed with data whose entities have other numbers") {
  JobFolder folder;
  REQUIRE(run(folder.train({"--epochs", "1"})).code == 0);
  const std::string manifest = folder.read("out/checkpoint/manifest.json");
  // A new entity before the others.
  folder.write("graph/train.txt", "new\tr\te1\n" + folder.read("graph/train.txt"));
  const Finished done = run({"train", "--resume", folder.out(), "--epochs", "2"});
  CAPTURE(done.err);
  CHECK(done.code == 2);
  CHECK(count(done.err, "\n") == 1);
  CHECK(done.err.find(
            "out/checkpoint: the checkpoint was made with others: data was 60 entities, 3 relations") !=
        std::string::npos);
  CHECK(done.err.find("no checkpoint yet") == std::string::npos);
  CHECK(folder.read("out/checkpoint/manifest.json") == manifest);
}

TEST_CASE("a place where no checkpoint can be put is refused before training") {
  JobFolder folder;
  std::filesystem::create_directory(folder / "out");
  std::filesystem::create_directory_symlink("/proc", folder / "out/checkpoint");
  const Finished done = run(folder.train({"--epochs", "1"}));
  CAPTURE(done.err);
  CHECK(done.code != 0);
  CHECK(done.err.find("/proc is a mount point") != std::string::npos);
  CHECK(done.out.find("epoch  1") == std::string::npos);
}

TEST_CASE("a port in use, and a second worker of one name") {
  JobFolder folder;
  const int taken = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  REQUIRE(bind(taken, reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0);
  REQUIRE(listen(taken, 1) == 0);
  socklen_t size = sizeof(address);
  REQUIRE(getsockname(taken, reinterpret_cast<sockaddr*>(&address), &size) == 0);
  const std::string port = std::to_string(ntohs(address.sin_port));
  const Finished refused = run(folder.train({"--registry", "127.0.0.1:" + port}));
  close(taken);
  CAPTURE(refused.err);
  CHECK(refused.code == 2);
  CHECK(refused.err.find("port " + port + " is in use") != std::string::npos);
  CHECK(count(refused.err, "\n") == 1);

  Command command(folder.train({"--epochs", "1000000"}));
  REQUIRE(command.wait_for("epoch  1:"));
  const int registry = command_test::number_after(command.out(), "workers at 127.0.0.1:");
  const Finished second =
      run({"worker", "--name", "worker-0", "--registry", "127.0.0.1:" + std::to_string(registry)});
  CAPTURE(second.err);
  CHECK(second.code == 2);
  CHECK(second.err.find("'worker-0'") != std::string::npos);
  CHECK(count(second.err, "\n") == 1);
  command.kill(SIGINT);
  CHECK(command.finish() == 130);
}

namespace {
struct NoEvents : rpc::EndpointEvents {
  void on_call(rpc::InboundCallPtr) override {}
  void on_session(rpc::SessionId, const rpc::Peer&) override {}
  void on_session_closed(rpc::SessionId, const rpc::Peer&, const Error&) override {}
};
}  // namespace

TEST_CASE("a peer that speaks another version of the protocol") {
  RealClock clock;
  Loop loop(clock);
  NoEvents events;
  std::unique_ptr<rpc::Endpoint> endpoint;
  std::string address;
  // Which the first node of a user makes.
  REQUIRE(Node::start({.name = "first"}));
  std::string secret;
  std::ifstream(std::string(std::getenv("XDG_STATE_HOME")) + "/troupe/secret") >> secret;
  REQUIRE_FALSE(secret.empty());
  {
    Loop::Turn turn(loop);
    auto transport = rpc::make_process_transport(loop);
    REQUIRE(transport);
    rpc::EndpointOptions options;
    options.node_id = 1;
    options.node_name = "old";
    options.protocol_version = 77;
    options.secret = secret;
    endpoint = std::make_unique<rpc::Endpoint>(loop, std::move(*transport), options, events);
    auto listening = endpoint->listen("127.0.0.1:0");
    REQUIRE(listening);
    address = *listening;
  }
  std::thread home([&] { loop.run(); });
  const Finished done = run({"worker", "--name", "worker-0", "--registry", address});
  {
    Loop::Turn turn(loop);
    endpoint->shut_down();
    endpoint.reset();
  }
  loop.stop();
  home.join();
  CAPTURE(done.err);
  CHECK(done.code == 2);
  CHECK(done.err.find("version 77") != std::string::npos);
  CHECK(count(done.err, "\n") == 1);
}

}  // namespace troupe::wordnet
