#pragma once

#include <nlohmann/json.hpp>

#include "support/temporary_folder.hpp"
#include "tools/command.hpp"

/// What the tests of the whole job share: a small graph that is learned in no time, the program on it.
namespace troupe::wordnet {

using test::TemporaryFolder;

using command_test::Command;
using command_test::Finished;
using command_test::run;

constexpr int kEntities = 60;
constexpr int kTrain = 170;  // triples; each is two examples an epoch

/// A folder with the graph in "graph" and room for runs.
class JobFolder : public TemporaryFolder {
 public:
  /// `kEntities` entities on a circle, three relations: one, two and three steps on. Ten triples are held out
  /// that the others imply.
  JobFolder() {
    std::filesystem::create_directory(path() / "graph");
    std::string train, valid, test;
    for (int i = 0; i < 3 * kEntities; ++i) {
      const int head = i / 3, kind = i % 3;
      const std::string line = "e" + std::to_string(head) + "\tplus" + std::to_string(kind + 1) + "\te" +
                               std::to_string((head + kind + 1) % kEntities) + "\n";
      (i % 36 == 5 ? valid : i % 36 == 23 ? test : train) += line;
    }
    write("graph/train.txt", train);
    write("graph/valid.txt", valid);
    write("graph/test.txt", test);
  }

  std::string operator/(const std::string& name) const { return (path() / name).string(); }
  std::string out() const { return *this / "out"; }

  /// `wordnet train` on the graph, small and without what takes long.
  std::vector<std::string> train(const std::vector<std::string>& more) const {
    std::vector<std::string> words{"train",
                                   "--data",
                                   *this / "graph",
                                   "--out",
                                   out(),
                                   "--dimension",
                                   "16",
                                   "--batch",
                                   "32",
                                   "--negatives",
                                   "16",
                                   "--n3",
                                   "0.01",
                                   "--initial-scale",
                                   "0.1",
                                   "--compare-seconds",
                                   "0"};
    words.insert(words.end(), more.begin(), more.end());
    return words;
  }

  nlohmann::json json(const std::string& file) const {
    return nlohmann::json::parse(std::ifstream(path() / file), nullptr, false);
  }
  nlohmann::json result() const { return json("out/result.json"); }
  nlohmann::json processes() const { return json("out/job.json").at("processes"); }
  /// The process id of one of the run's processes; 0 if there is none.
  pid_t pid(const std::string& name) const {
    for (const auto& process : processes())
      if (process["name"] == name) return process["pid"];
    return 0;
  }
};

}  // namespace troupe::wordnet
