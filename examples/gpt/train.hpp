#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <troupe/runtime/result.hpp>
#include <troupe/training/report.hpp>

#include "gpt/corpus.hpp"
#include "gpt/learner.hpp"
#include "gpt/settings.hpp"
#include "gpt/tokenizer.hpp"

namespace troupe::gpt {

/// Asks a run to end after the step under way: from any thread.
class Stop {
 public:
  void ask() { asked_ = true; }
  bool asked() const { return asked_; }
  /// By the first member before step `next`: all members see it before the step after that, because they take
  /// steps together.
  void settle(std::uint64_t next) {
    if (asked_ && last_ > next + 1) last_ = next + 1;
  }
  /// Steps after which it ends.
  std::uint64_t last() const { return last_; }

 private:
  std::atomic<bool> asked_{false};
  std::atomic<std::uint64_t> last_{UINT64_MAX};
};

struct Evaluation {
  std::uint64_t steps = 0;
  double seconds = 0;  ///< of training
  double loss = 0;     ///< of the last step
  double valid = 0;
};

/// What a run did.
struct Outcome {
  std::uint64_t steps = 0;  ///< taken in this run
  double seconds = 0;       ///< of training alone
  double evaluation_seconds = 0;
  std::uint64_t tokens = 0;  ///< trained on in this run
  std::vector<training::TimedValue> loss;
  std::vector<Evaluation> evaluations;
  bool stopped = false;  ///< before its last step
  /// Null if there was none.
  const Evaluation* best() const;
  double tokens_per_second() const { return seconds > 0 ? static_cast<double>(tokens) / seconds : 0; }
};

/// Called by the first member: after some steps, and after evaluations.
struct Told {
  std::function<void(std::uint64_t steps, double loss, double tokens_per_second)> progress;
  std::function<void(const Evaluation& evaluation, double tokens_per_second)> evaluation;
  std::function<Result<void>()> save;       ///< every `save_every` steps, by all members
  std::function<Result<void>()> best = {};  ///< after an evaluation better than all before, by all members
};

/// Steps until the last one, or until asked to stop. Each member of a group calls it; `first` is one of them.
Result<Outcome> train(Learner& learner, const Settings& settings, Stop& stop, bool first, const Told& told);

/// The text of a run and its tokens.
struct RunData {
  std::unique_ptr<Tokenizer> tokenizer;
  std::optional<Corpus> corpus;
  std::string about;  ///< "WordNet's definitions: 9.9 M characters, 97 of them different"
};
/// Sets settings.shape.vocabulary, too.
Result<RunData> load_data(Settings& settings);

struct Samples {
  std::string before;
  std::string after;
};
/// result.json and report.html in settings.out.
Result<void> write_run_report(const Settings& settings, const RunData& data, const Outcome& outcome,
                              const Samples& samples);

/// "41.2 k"
std::string human(double value);

}  // namespace troupe::gpt
