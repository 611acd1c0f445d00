#include "flags.hpp"

#include <doctest/doctest.h>

#include "run_progress.hpp"
#include "worker.hpp"

namespace troupe::training {
namespace {

/// A task with a flag of each kind.
struct Flagged : Task {
  double rate = 0.25;
  std::vector<std::string> words{"a", "b"};
  bool fast = false;
  void add_flags(CLI::App& app) override {
    app.add_option("--rate", rate)->capture_default_str();
    app.add_option("--words", words)->capture_default_str();
    app.add_flag("--fast", fast);
  }
  std::vector<shards::TableSpec> tables() const override { return {}; }
  std::uint64_t batches_per_epoch() const override { return 0; }
  void plan(const BatchId&, Step&) override {}
  Result<void> compute(const BatchId&, Step&) override { return {}; }
};

/// The words of a command line.
FlagWords parsed(const std::vector<std::string>& line) {
  JobSettings settings;
  Flagged task;
  CLI::App app;
  task.add_flags(app);
  add_job_flags(app, settings);
  app.parse(std::vector<std::string>(line.rbegin(), line.rend()));
  return words_of(app, {"--help"});
}

struct Applied {
  JobSettings settings;
  Flagged task;
  Result<void> outcome;
  explicit Applied(const FlagWords& words) : outcome(apply(words, settings, task)) {}
};

}  // namespace

TEST_CASE("flags come through JSON to another process as they were given, any bytes among them") {
  const auto words = parsed({"--rate", "-0.5", "--words", "dog", "caf\xe9", "--fast", "--out",
                             "out/\"quoted\" \xff", "--servers", "5", "--staleness", "4", "--throttle",
                             "worker-1=0.5", "worker-0=0.25", "--compare-seconds", "1.5"});
  const auto back = flag_words_from_json(to_json(words));
  REQUIRE(back);
  CHECK(*back == words);
  const Applied applied(*back);
  REQUIRE(applied.outcome);
  CHECK(applied.task.rate == -0.5);
  CHECK(applied.task.words == std::vector<std::string>{"dog", "caf\xe9"});
  CHECK(applied.task.fast);
  CHECK(applied.settings.out == "out/\"quoted\" \xff");
  CHECK(applied.settings.servers == 5);
  CHECK(applied.settings.staleness == 4);
  CHECK(applied.settings.speeds == std::map<std::string, double>{{"worker-0", 0.25}, {"worker-1", 0.5}});
  CHECK(applied.settings.compare_seconds == 1.5);
}

TEST_CASE("what was not given is kept as it was by default, and later words take the place of earlier ones") {
  auto words = parsed({"--epochs", "3"});
  const auto has = [&](const std::string& flag, const std::string& word) {
    return std::find(words.begin(), words.end(), std::pair(flag, std::vector{word})) != words.end();
  };
  CHECK(has("--rate", "0.25"));
  CHECK(has("--epochs", "3"));
  words = merge(words, {{"--epochs", {"6"}}, {"--out", {"elsewhere"}}, {"--new", {"x"}}});
  CHECK(has("--epochs", "6"));
  CHECK_FALSE(has("--epochs", "3"));
  CHECK(has("--out", "elsewhere"));
  CHECK(has("--new", "x"));
  const Applied applied(words);  // which no job of this version has
  REQUIRE_FALSE(applied.outcome);
  CHECK(applied.outcome.error().message.find("--new") != std::string::npos);
  CHECK_FALSE(Applied(parsed({})).settings.staleness.has_value());
}

TEST_CASE("what are not flags is an error that says so") {
  for (const char* text : {"", "{}", "[3]", "[[\"--epochs\"]]", "[[\"--epochs\", [3]]]", "[[\"--epochs\""}) {
    INFO(text);
    const auto read = flag_words_from_json(text);
    REQUIRE_FALSE(read);
    CHECK(read.error().code == Code::kInvalidArgument);
  }
  for (const char* words : {"-1", "x", "nan"}) {
    const Applied applied(FlagWords{{"--staleness", {words}}});
    REQUIRE_FALSE(applied.outcome);
    CHECK(applied.outcome.error().code == Code::kInvalidArgument);
  }
}

TEST_CASE("a default may hold a worker that the job does not have; a person who names it is told") {
  JobSettings settings;
  settings.workers = 2;
  settings.throttles = {"worker-2=0.4", "worker-1=0.5"};
  REQUIRE(read_throttles(settings, false));
  CHECK(settings.speeds == std::map<std::string, double>{{"worker-1", 0.5}});
  const auto told = read_throttles(settings, true);
  REQUIRE_FALSE(told);
  CHECK(told.error().message.find("there is no worker-2; workers are worker-0 to worker-1") !=
        std::string::npos);
  for (const char* bad :
       {"worker-1", "worker-1=", "worker-1=0", "worker-1=1.5", "worker-1=nan", "worker-1=0.5x"}) {
    CAPTURE(bad);
    settings.throttles = {bad};
    CHECK_FALSE(read_throttles(settings, true));
  }
  settings.throttles = {"none"};
  REQUIRE(read_throttles(settings, true));
  CHECK(settings.speeds.empty());
}

TEST_CASE("one mode of consistency is the run's, the other is compared with it") {
  JobSettings s;
  CHECK(describe(own_consistency(s)) == "asynchronous");
  CHECK(describe(other_consistency(s)) == "bounded, 1");
  s.staleness = 0;
  CHECK(describe(own_consistency(s)) == "bounded, 0");
  CHECK(describe(other_consistency(s)) == "asynchronous");
  s.staleness.reset();
  s.consistency = shards::Synchronous{};
  CHECK(describe(own_consistency(s)) == "synchronous");
  CHECK(describe(other_consistency(s)) == "asynchronous");
  CHECK(describe(shards::KOfN{2, shards::LatePushes::kDrop}) == "2 of n");
  CHECK(describe(shards::KOfN{3, shards::LatePushes::kScale}) == "3 of n, late ones scaled");
}

// ---- When and how tables make their steps -------------------------------------------------------

namespace {

/// One table, with steps of its own.
struct OneTable : Flagged {
  std::vector<shards::TableSpec> tables() const override {
    shards::TableSpec spec;
    spec.name = "rows";
    spec.dim = 3;
    spec.schedule.warm_up = 7;
    spec.clipping.value = 9;
    return {spec};
  }
};

shards::TableSpec spec_with(const FlagWords& words) {
  const Applied applied(words);
  REQUIRE_MESSAGE(applied.outcome, applied.outcome.error().message);
  return tables_of(OneTable(), applied.settings, TableSet::kOwn).front();
}

}  // namespace

TEST_CASE("a flag for each mode of consistency, which tables then have") {
  const std::vector<std::pair<std::string, shards::Consistency>> modes{
      {"async", shards::Asynchronous{}},
      {"bounded:0", shards::BoundedStaleness{0}},
      {"bounded:12", shards::BoundedStaleness{12}},
      {"sync", shards::Synchronous{}},
      {"k-of-n:2", shards::KOfN{2, shards::LatePushes::kDrop}},
      {"k-of-n:2,drop", shards::KOfN{2, shards::LatePushes::kDrop}},
      {"k-of-n:3,scale", shards::KOfN{3, shards::LatePushes::kScale}}};
  for (const auto& each : modes) {
    const std::string& text = each.first;
    CAPTURE(text);
    const auto words = flag_words_from_json(to_json(parsed({"--consistency", text})));
    REQUIRE(words);
    CHECK(spec_with(*words).consistency == each.second);
  }
  CHECK(spec_with({}).consistency == shards::Consistency(shards::Asynchronous{}));
  CHECK(spec_with({{"--staleness", {"3"}}}).consistency == shards::Consistency(shards::BoundedStaleness{3}));
}

TEST_CASE(
    "schedules, clipping and corrections of flags are in the specs of tables, and what is not given stays") {
  CHECK(spec_with({}).schedule == shards::Schedule{7, 0, shards::ConstantRate{}});
  CHECK(spec_with({}).clipping.value == 9);
  const std::vector<std::pair<std::string, shards::Decay>> decays{
      {"constant", shards::ConstantRate{}},
      {"step:100,0.5", shards::StepDecay{100, 0.5F}},
      {"exponential:0.99", shards::ExponentialDecay{0.99F}},
      {"cosine:1000", shards::CosineDecay{1000, 0}},
      {"cosine:1000,0.125", shards::CosineDecay{1000, 0.125F}},
      {"inverse-sqrt:40", shards::InverseSquareRoot{40}},
      {"polynomial:50,2", shards::PolynomialDecay{50, 2, 0}},
      {"polynomial:50,2,0.25", shards::PolynomialDecay{50, 2, 0.25F}}};
  for (const auto& each : decays) {
    const std::string& text = each.first;
    const shards::Decay& decay = each.second;
    CAPTURE(text);
    CHECK(spec_with({{"--schedule", {text}}}).schedule == shards::Schedule{0, 0, decay});
    CHECK(spec_with({{"--schedule", {text}}, {"--warm-up", {"20"}}}).schedule ==
          shards::Schedule{20, 0, decay});
    CHECK(spec_with({{"--warm-up", {"20,0.5"}}, {"--schedule", {text}}}).schedule ==
          shards::Schedule{20, 0.5F, decay});
  }
  const auto spec = spec_with({{"--clip-value", {"0.5"}},
                               {"--clip-row-norm", {"2"}},
                               {"--clip-norm", {"1e3"}},
                               {"--step-scaling", {"inverse-staleness"}},
                               {"--delay-compensation", {"0.04,5"}},
                               {"--consistency", {"bounded:4"}}});
  CHECK(spec.clipping == shards::Clipping{0.5F, 2, 1000});
  CHECK(spec.step_scaling == shards::StepScaling::kInverseStaleness);
  CHECK(spec.delay_compensation == shards::DelayCompensation{0.04F, 5});
  CHECK(spec.validate().ok());
  CHECK(spec_with({{"--delay-compensation", {"2"}}}).delay_compensation == shards::DelayCompensation{2, 16});
}

TEST_CASE("flags of steps that cannot be are refused by their names, in one line") {
  const std::vector<std::pair<std::string, std::vector<std::string>>> bad{
      {"--consistency",
       {"", "fast", "async:1", "async:", "bounded", "bounded:", "bounded:x", "bounded:-1", "bounded:1,2",
        "bounded:99999999999999999999", "sync:2", "k-of-n", "k-of-n:0", "k-of-n:-1", "k-of-n:2,late",
        "k-of-n:2,scale,3"}},
      {"--schedule",
       {"",
        "cyclic:3",
        "constant:1",
        "step:10",
        "step:0,0.5",
        "step:10,2",
        "step:10,nan",
        "step:1.5,0.5",
        "exponential:-0.5",
        "exponential:1.01",
        "exponential:",
        "cosine:0",
        "cosine:10,",
        "cosine:10,1.5",
        "inverse-sqrt:",
        "inverse-sqrt:-3",
        "polynomial:10",
        "polynomial:10,-1",
        "polynomial:10,inf",
        "polynomial:10,1,2",
        "polynomial:10,1,0,0"}},
      {"--warm-up", {"", "x", "-1", "10,2", "10,-0.5", "10,0,0"}},
      {"--clip-value", {"", "x", "-1", "nan", "inf", "1e300", "1,2"}},
      {"--clip-row-norm", {"-0.5"}},
      {"--clip-norm", {"-0.5"}},
      {"--step-scaling", {"", "some"}},
      {"--delay-compensation", {"", "x", "-1", "1e9", "1,0", "1,100000", "1,2,3"}}};
  for (const auto& each : bad) {
    const std::string& flag = each.first;
    for (const std::string& word : each.second) {
      CAPTURE(flag);
      CAPTURE(word);
      const Applied applied(FlagWords{{flag, {word}}});
      REQUIRE_FALSE(applied.outcome);
      CHECK(applied.outcome.error().code == Code::kInvalidArgument);
      CHECK(applied.outcome.error().message.find(flag) == 0);
      CHECK(applied.outcome.error().message.find('\n') == std::string::npos);
    }
  }
  const auto refused = [](const FlagWords& words, const std::string& part) {
    const Applied applied(words);
    REQUIRE_FALSE(applied.outcome);
    CHECK_MESSAGE(applied.outcome.error().message.find(part) != std::string::npos,
                  applied.outcome.error().message);
  };
  refused({{"--consistency", {"sync"}}, {"--staleness", {"1"}}}, "--staleness");
  refused({{"--consistency", {"sync"}}, {"--delay-compensation", {"1"}}}, "--delay-compensation");
  refused({{"--consistency", {"k-of-n:2"}}, {"--step-scaling", {"inverse-staleness"}}}, "--step-scaling");
  refused({{"--consistency", {"k-of-n:4"}}}, "3 workers");
}

TEST_CASE("the hint of how to resume is a command that a shell reads right") {
  JobSettings s;
  s.out = "out/it's here";
  CHECK(resume_hint(s, 0, "wordnet", "auto") == "There is no checkpoint yet; begin again.");
  const std::string hint = resume_hint(s, 3, "/bin/wordnet", "tcp");
  CHECK(hint.find("out/it's here/checkpoint, after epoch 3") != std::string::npos);
  CHECK(hint.ends_with("\n  /bin/wordnet train --resume 'out/it'\\''s here' --transport tcp"));
}

}  // namespace troupe::training
