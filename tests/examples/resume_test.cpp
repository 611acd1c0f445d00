// Whose a run's folder is, which checkpoint a run goes on from, and with what.
#include <doctest/doctest.h>

#include <filesystem>
#include <string>
#include <vector>

#include "examples/job.hpp"

namespace troupe::wordnet {
namespace {

using command_test::count;
namespace fs = std::filesystem;

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

/// A run whose input is refused: one line, before anything is trained or written.
void check_refused(const JobFolder& folder, const std::vector<std::string>& words, const std::string& why) {
  const std::string before = folder.read("out/checkpoint/manifest.json");
  const Finished done = run(words);
  CAPTURE(done.err);
  CHECK(done.code == 2);
  CHECK(done.err.starts_with("wordnet: "));
  CHECK(count(done.err, "\n") == 1);
  CHECK(contains(done.err, why));
  CHECK_FALSE(contains(done.out, "epoch "));
  CHECK(folder.read("out/checkpoint/manifest.json") == before);
}

int epoch_of(const JobFolder& folder, const std::string& checkpoint) {
  const auto manifest = folder.json(checkpoint + "/manifest.json");
  return manifest.is_discarded() ? 0 : manifest.at("metadata").at("epoch").get<int>();
}

/// The largest file of the checkpoint.
std::string file_of(const JobFolder& folder, const std::string& checkpoint) {
  std::string largest;
  std::uintmax_t bytes = 0;
  for (const auto& entry : fs::directory_iterator(folder / checkpoint)) {
    if (entry.file_size() <= bytes || entry.path().extension() != ".safetensors") continue;
    bytes = entry.file_size();
    largest = checkpoint + "/" + entry.path().filename().string();
  }
  REQUIRE_FALSE(largest.empty());
  return largest;
}

}  // namespace

TEST_CASE("a folder is one run's: a second run there is refused at once, and spoils nothing") {
  JobFolder folder;
  Command first(folder.train({"--epochs", "1000000", "--checkpoint-every", "0"}));
  REQUIRE(first.wait_for("epoch  1:"));
  const std::string settings = folder.read("out/settings.json");
  const std::string owner = "process " + std::to_string(first.pid());
  check_refused(folder, folder.train({"--epochs", "1", "--rate", "0.2"}), owner);
  CHECK(folder.read("out/settings.json") == settings);
  // By itself, too, as on another machine of the job.
  const Finished chief =
      run({"chief", "--registry", "127.0.0.1:0", "--settings", folder / "out/settings.json"});
  CAPTURE(chief.err);
  CHECK(chief.code == 2);
  CHECK(contains(chief.err, "out/checkpoint belongs to a run that has not ended, process "));
  CHECK(count(chief.err, "\n") == 1);
  first.kill(SIGINT);
  CHECK(first.finish() == 130);
  CHECK(run(folder.train({"--epochs", "1"})).code == 0);  // it has ended
}

TEST_CASE("the last checkpoints are kept, and an older one is gone on from if the newest is damaged") {
  JobFolder folder;
  REQUIRE(run(folder.train({"--epochs", "4", "--keep-checkpoints", "3"})).code == 0);
  CHECK(epoch_of(folder, "out/checkpoint") == 4);
  CHECK(epoch_of(folder, "out/checkpoint.1") == 3);
  CHECK(epoch_of(folder, "out/checkpoint.2") == 2);
  CHECK_FALSE(fs::exists(folder / "out/checkpoint.3"));
  const std::vector<std::string> resume{"train", "--resume", folder.out(), "--epochs", "5"};
  std::vector<std::string> allowed = resume;
  allowed.emplace_back("--allow-older");

  // A bit that has flipped shows when the rows are read.
  const std::string flipped = file_of(folder, "out/checkpoint.1");
  std::string bytes = folder.read(flipped);
  bytes[bytes.size() / 2] = static_cast<char>(bytes[bytes.size() / 2] ^ 1);
  folder.write(flipped, bytes);
  // A file that is too short shows at once.
  const std::string torn = file_of(folder, "out/checkpoint");
  fs::resize_file(folder / torn, 100);
  check_refused(folder, resume, torn + " has 100 bytes");
  check_refused(folder, resume, "--allow-older goes on from that");
  const Finished resumed = run(allowed);
  CAPTURE(resumed.err);
  CAPTURE(resumed.out);
  REQUIRE(resumed.code == 0);
  CHECK(contains(resumed.out, torn + " has 100 bytes"));
  CHECK(contains(resumed.out, flipped + " is corrupt"));
  CHECK(contains(resumed.out, "resuming after epoch 2 from " + (folder / "out/checkpoint.2")));
  CHECK(folder.result()["epochs"].size() == 5);
  CHECK(epoch_of(folder, "out/checkpoint") == 5);
}

TEST_CASE("a run goes on with the data and the settings that it began with") {
  JobFolder folder;
  const std::vector<std::string> resume{"train", "--resume", folder.out(), "--epochs", "2"};
  std::vector<std::string> allowed = resume;
  allowed.emplace_back("--allow-added");
  REQUIRE(run(folder.train({"--epochs", "1"})).code == 0);
  const std::string graph = folder.read("graph/train.txt");

  // A process that is started by hand can be given other settings.
  std::string settings = folder.read("out/settings.json");
  const std::string rate = R"(["--rate",["0.1")";
  REQUIRE(contains(settings, rate));
  settings.replace(settings.find(rate), rate.size(), R"(["--rate",["0.25")");
  folder.write("other.json", settings);
  check_refused(folder,
                {"chief", "--registry", "127.0.0.1:0", "--resume", "--settings", folder / "other.json"},
                "made with others: --rate was 0.1 and is 0.25");

  // Other triples of the same entities.
  folder.write("graph/train.txt", graph + "e1\tplus1\te30\n");
  check_refused(folder, resume, "170 training triples");
  check_refused(folder, resume, "--allow-added goes on");
  // A new entity in front, with which the others get other numbers.
  folder.write("graph/train.txt", "new\tplus1\te1\n" + graph);
  check_refused(folder, allowed, "data was 60 entities");
  // Behind the others.
  folder.write("graph/train.txt", graph + "new\tplus1\te1\n");
  check_refused(folder, resume, "61 entities");
  const Finished done = run(allowed);
  CAPTURE(done.err);
  REQUIRE(done.code == 0);
  const auto epochs = folder.result()["epochs"];
  REQUIRE(epochs.size() == 2);
  CHECK(epochs[1]["loss"] < epochs[0]["loss"]);  // what was learned is still there
  // From now on that is the run's data.
  check_refused(folder, {"train", "--resume", folder.out(), "--data", folder / "nothing"}, "nothing");
  CHECK(run({"train", "--resume", folder.out(), "--epochs", "3"}).code == 0);
}

TEST_CASE("a run is resumed with other numbers of servers and workers") {
  JobFolder folder;
  REQUIRE(run(folder.train({"--epochs", "1", "--servers", "2"})).code == 0);
  const Finished done = run({"train", "--resume", folder.out(), "--epochs", "2", "--servers", "3",
                             "--workers", "1", "--keep-checkpoints", "2"});
  CAPTURE(done.err);
  REQUIRE(done.code == 0);
  CHECK(folder.result()["servers"] == 3);
  CHECK(epoch_of(folder, "out/checkpoint.1") == 1);
}

TEST_CASE("test triples with entities that training has not seen are counted") {
  JobFolder folder;
  folder.write("graph/test.txt",
               folder.read("graph/test.txt") + "stranger\tplus1\te1\ne2\tplus1\tstranger\n");
  const Finished done = run(folder.train({"--epochs", "1"}));
  CAPTURE(done.err);
  REQUIRE(done.code == 0);
  const std::string note = "2 of 7 test triples have an entity that no training triple has";
  CHECK(contains(done.out, note));
  CHECK(contains(folder.result()["data"], note));
  CHECK(contains(folder.read("out/report.html"), note));
}

}  // namespace troupe::wordnet
