// Training: losses fall, threads and members come to the same, and a run that is stopped goes on as if it had
// not been.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>

#include <troupe/runtime/files.hpp>

#include "gpt/commands.hpp"
#include "gpt/model_files.hpp"
#include "support/temporary_folder.hpp"

using namespace troupe;
using namespace troupe::gpt;

namespace {

std::string toy_text() {
  std::string text;
  for (int i = 0; i < 300; ++i) text += "the cat sat on mat " + std::to_string(i % 10) + ".\n";
  return text;
}

Settings toy(const std::filesystem::path& folder) {
  Settings settings;
  settings.shape = {.vocabulary = 0, .block = 16, .layers = 2, .heads = 2, .width = 16};
  settings.text = (folder / "text.txt").string();
  settings.out = folder / "out";
  settings.steps = 60;
  settings.warmup = 10;
  settings.batch = 4;
  settings.rate = 1e-2;
  settings.weight_decay = 0;  // which a group has on everything
  settings.threads = 2;
  settings.evaluate_every = 30;
  settings.evaluation_texts = 8;
  settings.sample_tokens = 30;
  REQUIRE(write_file_atomically(settings.text, toy_text()).ok());
  return settings;
}

std::vector<float> first_values(const Settings& settings) {
  const Parameters parameters(settings.shape);
  std::vector<float> values(static_cast<std::size_t>(parameters.elements()));
  parameters.first_values(settings.shape.layers, settings.seed, values.data());
  return values;
}

/// The mean loss of all members after each of some steps, and what validation then finds.
std::vector<double> losses_of(Learner& learner, int steps) {
  std::vector<double> losses;
  for (int i = 0; i < steps; ++i) {
    learner.step().value();
    losses.push_back(learner.loss().value());
  }
  losses.push_back(learner.validate().value());
  return losses;
}

double most_apart(const std::vector<double>& a, const std::vector<double>& b) {
  REQUIRE(a.size() == b.size());
  double most = 0;
  for (std::size_t i = 0; i < a.size(); ++i) most = std::max(most, std::abs(a[i] - b[i]) / std::abs(b[i]));
  return most;
}

}  // namespace

TEST_CASE("the loss falls on a toy text, which the model then writes") {
  const test::TemporaryFolder folder;
  Settings settings = toy(folder.path());
  settings.steps = 300;
  settings.keep_best = true;
  Stop stop;
  REQUIRE(run_train(settings, stop).ok());
  const auto model = read_model(settings.out).value();
  CHECK(read_model(settings.out / "best").value().shape == model.shape);
  CHECK(read_tokenizer(settings.out / "best").ok());
  const auto tokenizer = read_tokenizer(settings.out).value();
  const auto machine = Machine::open("cpu").value();
  const auto text =
      sample(*machine, model.shape, model.weights, *tokenizer, "the cat", {.tokens = 11, .temperature = 0})
          .value();
  CHECK(text == " sat on mat");
  const std::string report = read_file((settings.out / "report.html").string()).value();
  CHECK(report.find("Text after training") != std::string::npos);
  CHECK(read_file((settings.out / "result.json").string()).value().find("tokens_per_second") !=
        std::string::npos);
}

TEST_CASE("one thread, two threads and members of each stage have the same losses") {
  const test::TemporaryFolder folder;
  Settings settings = toy(folder.path());
  const RunData data = load_data(settings).value();
  const auto values = first_values(settings);
  constexpr int kSteps = 12;
  settings.threads = 1;
  const auto alone = losses_of(*make_local_learner(settings, *data.corpus, values).value(), kSteps);
  settings.threads = 3;
  CHECK(most_apart(losses_of(*make_local_learner(settings, *data.corpus, values).value(), kSteps), alone) <
        1e-5);
  settings.members = 2;
  for (settings.zero = 0; settings.zero <= 3; ++settings.zero) {
    CAPTURE(settings.zero);
    std::vector<double> found;
    const auto ended = with_group(2, [&](shards::Communicator& group) -> Result<void> {
      auto learner = make_zero_learner(settings, *data.corpus, values, group);
      if (!learner) return learner.error();
      auto losses = losses_of(**learner, kSteps);
      if (group.rank() == 0) found = losses;
      return {};
    });
    REQUIRE_MESSAGE(ended.ok(), (ended.ok() ? "" : ended.error().message));
    CHECK(most_apart(found, alone) < 1e-5);
  }
}

TEST_CASE("a run that was stopped goes on as if it had not been, alone and in a group") {
  for (const int zero : {-1, 1, 3}) {
    CAPTURE(zero);
    const test::TemporaryFolder folder;
    Settings settings = toy(folder.path());
    settings.dropout = 0.1;
    settings.zero = zero;
    settings.members = zero < 0 ? 1 : 2;
    Stop whole;
    REQUIRE(run_train(settings, whole).ok());
    const auto expected = read_model(settings.out).value();

    settings.out = folder.path() / "stopped";
    Stop stop;
    stop.ask();
    REQUIRE(run_train(settings, stop).ok());
    CHECK(stop.last() == 1);
    settings.resume = true;
    Stop again;
    REQUIRE(run_train(settings, again).ok());
    CHECK(read_model(settings.out).value().weights == expected.weights);
  }
}

TEST_CASE("settings and texts that cannot be are refused") {
  const test::TemporaryFolder folder;
  const Settings good = toy(folder.path());
  REQUIRE(good.validate().ok());
  const auto refused = [&](auto change) {
    Settings settings = good;
    change(settings);
    const auto valid = settings.validate();
    REQUIRE(!valid.ok());
    return valid.error().code == Code::kInvalidArgument;
  };
  CHECK(refused([](Settings& s) { s.shape.width = 17; }));
  CHECK(refused([](Settings& s) { s.members = 2; }));
  CHECK(refused([](Settings& s) { s.zero = 4; }));
  CHECK(refused([](Settings& s) { s.zero = 1, s.members = 3; }));
  CHECK(refused([](Settings& s) { s.zero = 1, s.device = "cuda"; }));
  CHECK(refused([](Settings& s) { s.zero = 1, s.element = kernels::Element::kBFloat16; }));
  CHECK(refused([](Settings& s) { s.dropout = 1; }));
  CHECK(refused([](Settings& s) { s.dropout = std::nan(""); }));
  CHECK(refused([](Settings& s) { s.rate = 0; }));
  CHECK(refused([](Settings& s) { s.least_rate = 1; }));
  CHECK(refused([](Settings& s) { s.validation = 0; }));
  CHECK(refused([](Settings& s) { s.steps = 0; }));
  Settings settings = good;
  settings.shape.block = 5000;
  CHECK(load_data(settings).error().message.find("one more than --block") != std::string::npos);
  settings = good;
  settings.text = (folder.path() / "none").string();
  CHECK(load_data(settings).error().code == Code::kNotFound);
  settings.text.clear();
  settings.wordnet = folder.path().string();
  CHECK(load_data(settings).error().message.find("wordnet-base") != std::string::npos);
  for (const char* file : {"data.noun", "data.verb", "data.adj", "data.adv"})
    REQUIRE(write_file_atomically(
                (folder.path() / file).string(),
                "  1 licence | no\n00001930 03 n 01 physical_entity 0 007 @ 00001740 n 0000 | an "
                "entity  \nbroken\n")
                .ok());
  CHECK(read_glosses(folder.path(), 1).value().substr(0, 27) == "physical entity: an entity\n");
}

TEST_CASE("the rate rises, then falls to the least") {
  Settings settings;
  settings.steps = 100;
  settings.warmup = 10;
  settings.rate = 1;
  settings.least_rate = 0.1;
  CHECK(settings.rate_at(0) < settings.rate_at(9));
  CHECK(settings.rate_at(10) == 1);
  CHECK(settings.rate_at(55) == doctest::Approx(0.55));
  CHECK(settings.rate_at(99) < 0.11F);
  CHECK(settings.rate_at(100) == 0.1F);
}
