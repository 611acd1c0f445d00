#include "gpt/train.hpp"

#include <algorithm>
#include <chrono>
#include <utility>

#include <troupe/runtime/files.hpp>
#include <troupe/training/charts.hpp>

namespace troupe::gpt {
namespace {

/// Seconds since it began, without those while it was held.
class Watch {
 public:
  double seconds() const { return passed_ + since(began_); }
  double held() const { return held_; }
  template <class Work>
  auto hold(const Work& work) {
    passed_ += since(began_);
    const auto from = Clock::now();
    auto result = work();
    held_ += since(from);
    began_ = Clock::now();
    return result;
  }

 private:
  using Clock = std::chrono::steady_clock;
  static double since(Clock::time_point from) {
    return std::chrono::duration<double>(Clock::now() - from).count();
  }
  Clock::time_point began_ = Clock::now();
  double passed_ = 0;
  double held_ = 0;
};

/// Between looks at the loss, for which a GPU is waited for.
constexpr std::uint64_t kLookEvery = 20;

}  // namespace

const Evaluation* Outcome::best() const {
  const auto best =
      std::min_element(evaluations.begin(), evaluations.end(),
                       [](const Evaluation& a, const Evaluation& b) { return a.valid < b.valid; });
  return best == evaluations.end() ? nullptr : &*best;
}

Result<Outcome> train(Learner& learner, const Settings& settings, Stop& stop, bool first, const Told& told) {
  Outcome outcome;
  Watch watch;
  const std::uint64_t begun = learner.steps();
  const auto tokens_of = [&](std::uint64_t steps) {
    return steps * static_cast<std::uint64_t>(settings.batch * settings.shape.block);
  };
  const auto rate = [&] {
    return static_cast<double>(tokens_of(learner.steps() - begun)) / std::max(watch.seconds(), 1e-9);
  };
  while (learner.steps() < std::min(settings.steps, stop.last())) {
    if (first) stop.settle(learner.steps());
    if (auto stepped = learner.step(); !stepped) return stepped.error();
    const std::uint64_t steps = learner.steps();
    const bool last = steps >= std::min(settings.steps, stop.last());
    const bool evaluates = last || steps % settings.evaluate_every == 0;
    if (!evaluates && steps % kLookEvery != 0 && steps != begun + 1) continue;
    const auto loss = learner.loss();
    if (!loss) return loss.error();
    outcome.loss.push_back({watch.seconds(), *loss});
    if (first && told.progress) told.progress(steps, *loss, rate());
    if (evaluates) {
      const double trained = rate();
      const auto valid = watch.hold([&] { return learner.validate(); });
      if (!valid) return valid.error();
      outcome.evaluations.push_back({steps, watch.seconds(), *loss, *valid});
      if (first && told.evaluation) told.evaluation(outcome.evaluations.back(), trained);
      if (told.best && outcome.best() == &outcome.evaluations.back())
        if (auto saved = watch.hold(told.best); !saved) return saved.error();
    }
    if (told.save && !last && settings.save_every > 0 && steps % settings.save_every == 0)
      if (auto saved = watch.hold(told.save); !saved) return saved.error();
  }
  outcome.steps = learner.steps() - begun;
  outcome.tokens = tokens_of(outcome.steps);
  outcome.seconds = watch.seconds();
  outcome.evaluation_seconds = watch.held();
  outcome.stopped = learner.steps() < settings.steps;
  return outcome;
}

std::string human(double value) {
  return training::human_number(value);
}

Result<RunData> load_data(Settings& settings) {
  auto text =
      settings.text.empty() ? read_glosses(settings.wordnet, settings.seed) : read_file(settings.text);
  if (!text) return text.error();
  RunData data;
  if (settings.tokens == "bytes") {
    data.tokenizer = byte_tokenizer();
  } else {
    auto made =
        settings.tokens == "characters" ? character_tokenizer(*text) : read_tokenizer(settings.tokens);
    if (!made) return made.error();
    data.tokenizer = *std::move(made);
  }
  auto tokens = data.tokenizer->encode(*text);
  if (!tokens) return tokens.error();
  data.about = (settings.text.empty() ? std::string("WordNet's definitions") : settings.text) + ": " +
               human(static_cast<double>(text->size())) + " bytes, " +
               human(static_cast<double>(tokens->size())) + " tokens, " +
               std::to_string(data.tokenizer->size()) + " of them different";
  settings.shape.vocabulary = data.tokenizer->size();
  auto corpus = Corpus::make(*std::move(tokens), settings.shape.block, settings.validation);
  if (!corpus) return corpus.error();
  data.corpus = *std::move(corpus);
  return data;
}

Result<void> write_run_report(const Settings& settings, const RunData& data, const Outcome& outcome,
                              const Samples& samples) {
  training::RunReport report;
  report.words.title = "GPT";
  report.words.examples = "tokens";
  report.words.loss_axis = "loss (nats a token)";
  report.words.loss_note = "Mean over the tokens of a step.";
  report.words.score_axis = "loss (nats a token)";
  report.words.score_note = "Loss on text that it does not learn from, without dropout.";
  report.data = data.about;
  report.train_seconds = outcome.seconds;
  report.evaluation_seconds = outcome.evaluation_seconds;
  report.examples = outcome.tokens;
  report.checkpoint = settings.out.string();
  report.loss = outcome.loss;
  for (const Evaluation& each : outcome.evaluations)
    report.epochs.push_back(
        {each.steps, each.seconds, each.loss, training::Metric{"loss", "loss", each.valid}});
  const auto add = [&](const char* name, const auto& value) {
    report.settings.emplace_back(name, std::to_string(value));
  };
  add("parameters", Parameters(settings.shape).numbers());
  add("layers", settings.shape.layers);
  add("heads", settings.shape.heads);
  add("width", settings.shape.width);
  add("block", settings.shape.block);
  add("texts a step", settings.batch);
  add("steps", settings.steps);
  add("learning rate", settings.rate);
  add("dropout", settings.dropout);
  add("seed", settings.seed);
  report.settings.emplace_back("device", settings.device);
  if (settings.zero >= 0)
    report.settings.emplace_back("ZeRO", "stage " + std::to_string(settings.zero) + ", " +
                                             std::to_string(settings.members) + " members");
  const auto text = [](const std::string& sample) {
    return "<pre style=\"white-space: pre-wrap\">" + training::escape_html(sample) + "</pre>\n";
  };
  report.sections.push_back({"Text before training",
                             "What the model goes on with, before it has learned anything.", "",
                             text(samples.before), false});
  report.sections.push_back({"Text after training", "The same afterwards.", "", text(samples.after), false});
  return training::write_report(report, settings.out);
}

}  // namespace troupe::gpt
