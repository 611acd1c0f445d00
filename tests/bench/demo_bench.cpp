// The main job against the same training in one process (two threads, no calls, no shards), in the same run:
// triples/s with the default throttled worker and with none, and test MRR after the same number of epochs.
//
// The programs are those beside this one. The default is short; --epochs 10 compares quality too.
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

namespace {

using Json = nlohmann::ordered_json;

struct Options {
  int epochs = 2;
  int repeat = 1;
  std::string data;
};

struct Measured {
  double triples_per_second = 0;
  double test_mrr = 0;
};

std::filesystem::path folder_of_programs() {
  return std::filesystem::read_symlink("/proc/self/exe").parent_path();
}

/// Runs a command to its end and returns its standard output; nothing if it failed, which it has then said.
std::optional<std::string> output_of(const std::string& command) {
  FILE* pipe = popen(command.c_str(), "r");
  if (!pipe) return std::nullopt;
  std::string text;
  std::array<char, 4096> buffer;
  while (const std::size_t got = std::fread(buffer.data(), 1, buffer.size(), pipe))
    text.append(buffer.data(), got);
  if (pclose(pipe) == 0) return text;
  std::fprintf(stderr, "demo_bench: failed: %s\n", command.c_str());
  return std::nullopt;
}

std::string flags(const Options& options) {
  return " --epochs " + std::to_string(options.epochs) +
         (options.data.empty() ? "" : " --data '" + options.data + "'");
}

std::optional<Measured> reference(const Options& options) {
  const std::string program = (folder_of_programs() / "wordnet_reference").string();
  auto text = output_of("'" + program + "' --threads 2 --valid-every 0" + flags(options));
  if (!text) return std::nullopt;
  while (!text->empty() && text->back() == '\n') text->pop_back();
  const Json json = Json::parse(text->substr(text->rfind('\n') + 1));
  return Measured{json.at("triples_per_second"), json.at("test_mrr")};
}

std::optional<Measured> job(const Options& options, const std::string& throttle) {
  std::string out = (std::filesystem::temp_directory_path() / "troupe-bench-XXXXXX").string();
  if (!mkdtemp(out.data())) return std::nullopt;
  const std::string program = (folder_of_programs() / "wordnet").string();
  const auto text =
      output_of("'" + program + "' train --throttle " + throttle + " --out '" + out +
                "' --compare-seconds 0 --valid-triples 0 --checkpoint-every 0" + flags(options));
  std::optional<Measured> measured;
  if (text) {
    const Json json = Json::parse(std::ifstream(std::filesystem::path(out) / "result.json"));
    measured = Measured{json.at("triples_per_second"), json.at("test_mrr")};
  }
  std::filesystem::remove_all(out);
  return measured;
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

void print(const std::string& name, const char* unit, double value, const char* reference,
           double reference_value) {
  const Json line{{"name", name},
                  {"value", value},
                  {"unit", unit},
                  {"reference", reference},
                  {"reference_value", reference_value},
                  {"ratio", value / reference_value}};
  std::printf("%s\n", line.dump().c_str());
  std::fflush(stdout);
}

int measure(const Options& options) {
  std::vector<double> reference_rate, all_rate, throttled_rate, reference_mrr, mrr;
  for (int i = 0; i < options.repeat; ++i) {
    const auto alone = reference(options);
    const auto all = job(options, "none");
    const auto throttled = job(options, "worker-2=0.4");
    if (!alone || !all || !throttled) return 1;
    reference_rate.push_back(alone->triples_per_second);
    all_rate.push_back(all->triples_per_second);
    throttled_rate.push_back(throttled->triples_per_second);
    reference_mrr.push_back(alone->test_mrr);
    mrr.push_back(throttled->test_mrr);
  }
  const char* name = "wordnet_reference_2_threads";
  print("demo_triples_per_second", "triples/s", median(all_rate), name, median(reference_rate));
  print("demo_triples_per_second_throttled", "triples/s", median(throttled_rate), name,
        median(reference_rate));
  print("demo_test_mrr_" + std::to_string(options.epochs) + "_epochs", "MRR", median(mrr), name,
        median(reference_mrr));
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  CLI::App app{"The main job against the same training in one process"};
  app.add_option("--epochs", options.epochs, "10 for the comparison of quality")
      ->capture_default_str()
      ->check(CLI::PositiveNumber);
  app.add_option("--repeat", options.repeat, "Medians of so many runs")
      ->capture_default_str()
      ->check(CLI::PositiveNumber);
  app.add_option("--data", options.data, "Another knowledge graph");
  CLI11_PARSE(app, argc, argv);
  return measure(options);
}
