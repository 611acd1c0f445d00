#include "flags.hpp"

#include <doctest/doctest.h>

#include "run_progress.hpp"

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
