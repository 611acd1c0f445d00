#include "step_flags.hpp"

#include <charconv>
#include <cmath>
#include <optional>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace troupe::training {

namespace {

constexpr const char* kModes =
    "async, bounded:BATCHES, sync, k-of-n:K, or k-of-n:K,scale for late pushes that count less and less";
constexpr const char* kSchedules =
    "constant, step:STEPS,FACTOR, exponential:FACTOR, cosine:STEPS[,LEAST], inverse-sqrt:STEPS or "
    "polynomial:STEPS,POWER[,LEAST]";

Error refused(const std::string& text, const std::string& expected) {
  return {Code::kInvalidArgument, "'" + text + "' cannot be, expected " + expected};
}

/// "kind:first,second" in its parts.
struct Words {
  explicit Words(const std::string& text) {
    const auto colon = text.find(':');
    kind = text.substr(0, colon);
    if (colon == std::string::npos) return;
    std::size_t begin = colon;
    while (begin != std::string::npos) {
      const auto comma = text.find(',', begin + 1);
      values.push_back(text.substr(begin + 1, comma - begin - 1));
      begin = comma;
    }
  }
  /// Whether it is this kind, with so many values.
  bool is(std::string_view name, std::size_t least, std::size_t most) const {
    return kind == name && values.size() >= least && values.size() <= most;
  }
  std::string kind;
  std::vector<std::string> values;
};

/// Reads numbers; remembers whether all of them were some.
class Numbers {
 public:
  explicit Numbers(std::vector<std::string> values) : values_(std::move(values)) {}
  std::uint64_t whole(std::size_t at) { return read(at, std::uint64_t{0}); }
  float real(std::size_t at) {
    const auto value = static_cast<float>(read(at, 0.0));
    good_ = good_ && std::isfinite(value);
    return value;
  }
  bool good() const { return good_; }

 private:
  /// 0 where there is none.
  template <class Value>
  Value read(std::size_t at, Value value) {
    if (at >= values_.size()) return value;
    const char* end = values_[at].data() + values_[at].size();
    const auto parsed = std::from_chars(values_[at].data(), end, value);
    good_ = good_ && parsed.ec == std::errc{} && parsed.ptr == end;
    return value;
  }
  std::vector<std::string> values_;
  bool good_ = true;
};

/// What a table would say of it, without the table.
Result<void> check(const shards::Schedule& schedule) {
  return schedule.validate();
}
Result<void> check(const shards::Clipping& clipping) {
  return clipping.validate();
}
Result<void> check(const shards::DelayCompensation& compensation) {
  shards::TableSpec spec;
  spec.name = "any";
  spec.dim = 1;
  spec.delay_compensation = compensation;
  auto valid = spec.validate();
  if (valid) return valid;
  const std::string& why = valid.error().message;
  return Error{valid.error().code, why.substr(why.find(": ") + 2)};
}

/// A flag whose word is read by `read`, which returns a Result<void>.
template <class Read>
CLI::Option* add(CLI::App& app, const std::string& name, const std::string& help, const std::string& type,
                 Read read) {
  return app
      .add_option_function<std::string>(
          name,
          [name, read](const std::string& text) {
            if (Result<void> taken = read(text); !taken)
              throw CLI::ValidationError(name, taken.error().message);
          },
          help)
      ->type_name(type);
}

/// A flag with a limit of clipping.
void add_limit(CLI::App& app, const std::string& name, const std::string& help, JobSettings& s,
               float shards::Clipping::*limit) {
  add(app, name, help, "LIMIT", [&s, limit](const std::string& text) -> Result<void> {
    Numbers numbers({text});
    shards::Clipping clipping = s.clipping.value_or(shards::Clipping{});
    clipping.*limit = numbers.real(0);
    if (!numbers.good()) return Error{Code::kInvalidArgument, "'" + text + "' is no number"};
    if (auto valid = check(clipping); !valid) return valid;
    s.clipping = clipping;
    return {};
  });
}

Result<void> read_warm_up(const std::string& text, JobSettings& s) {
  const Words words(":" + text);
  Numbers numbers(words.values);
  shards::Schedule schedule = s.schedule.value_or(shards::Schedule{});
  schedule.warm_up = numbers.whole(0);
  schedule.warm_up_from = numbers.real(1);
  if (!numbers.good() || words.values.size() > 2) return refused(text, "STEPS or STEPS,FROM");
  if (auto valid = check(schedule); !valid) return valid;
  s.schedule = schedule;
  return {};
}

Result<void> read_compensation(const std::string& text, JobSettings& s) {
  const Words words(":" + text);
  Numbers numbers(words.values);
  shards::DelayCompensation compensation;
  compensation.lambda = numbers.real(0);
  if (words.values.size() > 1) compensation.history = numbers.whole(1);
  if (!numbers.good() || words.values.size() > 2) return refused(text, "LAMBDA or LAMBDA,HISTORY");
  if (auto valid = check(compensation); !valid) return valid;
  s.delay_compensation = compensation;
  return {};
}

}  // namespace

Result<shards::Consistency> consistency_of(const std::string& text) {
  const Words words(text);
  Numbers numbers(words.values);
  std::optional<shards::Consistency> mode;
  if (words.kind == text && text == "async") mode = shards::Asynchronous{};
  if (words.kind == text && text == "sync") mode = shards::Synchronous{};
  if (words.is("bounded", 1, 1)) mode = shards::BoundedStaleness{numbers.whole(0)};
  if (words.is("k-of-n", 1, 2)) {
    const std::string late = words.values.size() > 1 ? words.values[1] : "drop";
    shards::KOfN some{.k = numbers.whole(0), .late = shards::LatePushes::kDrop};
    if (late == "scale") some.late = shards::LatePushes::kScale;
    if (some.k > 0 && (late == "scale" || late == "drop")) mode = some;
  }
  if (!mode || !numbers.good()) return refused(text, kModes);
  return *mode;
}

Result<shards::Decay> decay_of(const std::string& text) {
  const Words words(text);
  Numbers numbers(words.values);
  std::optional<shards::Decay> decay;
  if (words.kind == text && text == "constant") decay = shards::ConstantRate{};
  if (words.is("step", 2, 2)) decay = shards::StepDecay{.every = numbers.whole(0), .factor = numbers.real(1)};
  if (words.is("exponential", 1, 1)) decay = shards::ExponentialDecay{.factor = numbers.real(0)};
  if (words.is("cosine", 1, 2))
    decay = shards::CosineDecay{.steps = numbers.whole(0), .least = numbers.real(1)};
  if (words.is("inverse-sqrt", 1, 1)) decay = shards::InverseSquareRoot{.steps = numbers.whole(0)};
  if (words.is("polynomial", 2, 3)) {
    decay = shards::PolynomialDecay{
        .steps = numbers.whole(0), .power = numbers.real(1), .least = numbers.real(2)};
  }
  if (!decay || !numbers.good()) return refused(text, kSchedules);
  if (auto valid = check(shards::Schedule{.decay = *decay}); !valid) return valid.error();
  return *decay;
}

void add_step_flags(CLI::App& app, JobSettings& s) {
  CLI::Option* staleness =
      app.add_option("--staleness", s.staleness,
                     "Bounded staleness: no worker gets more than this many batches ahead; as "
                     "--consistency bounded:BATCHES")
          ->check(CLI::Validator(
              [](const std::string& text) {
                Numbers numbers({text});
                numbers.whole(0);
                return numbers.good() ? std::string() : "'" + text + "' is no whole number of 0 or more";
              },
              "BATCHES"));
  add(app, "--consistency", std::string("Who waits for whom: ") + kModes, "MODE",
      [&s](const std::string& text) -> Result<void> {
        auto mode = consistency_of(text);
        if (!mode) return mode.error();
        s.consistency = *mode;
        return {};
      })
      ->excludes(staleness);
  add(app, "--schedule",
      std::string(
          "How the learning rate falls with the steps of a table, of which a push is one, in rounds a "
          "round: ") +
          kSchedules,
      "SCHEDULE", [&s](const std::string& text) -> Result<void> {
        auto decay = decay_of(text);
        if (!decay) return decay.error();
        if (!s.schedule) s.schedule.emplace();
        s.schedule->decay = *decay;
        return {};
      });
  add(app, "--warm-up",
      "Steps in which the learning rate rises to its full size first, and the part from which",
      "STEPS[,FROM]", [&s](const std::string& text) { return read_warm_up(text, s); });
  add_limit(app, "--clip-value", "Hold each number of a step's gradients to this size", s,
            &shards::Clipping::value);
  add_limit(app, "--clip-row-norm", "Hold the norm of each row's gradient to this", s,
            &shards::Clipping::row_norm);
  add_limit(app, "--clip-norm", "Hold the norm of a batch's gradients to this, for each table", s,
            &shards::Clipping::push_norm);
  add(app, "--step-scaling", "'inverse-staleness': a push that comes s steps late counts 1 / (1 + s); 'none'",
      "SCALING", [&s](const std::string& text) -> Result<void> {
        if (text != "none" && text != "inverse-staleness") return refused(text, "none or inverse-staleness");
        s.step_scaling = text == "none" ? shards::StepScaling::kNone : shards::StepScaling::kInverseStaleness;
        return {};
      });
  add(app, "--delay-compensation",
      "Correct late gradients g by LAMBDA * g * g * (how the weights changed since), over HISTORY steps at "
      "most",
      "LAMBDA[,HISTORY]", [&s](const std::string& text) { return read_compensation(text, s); });
}

Result<void> check_step_flags(const JobSettings& settings) {
  const shards::Consistency mode = own_consistency(settings);
  const auto* some = std::get_if<shards::KOfN>(&mode);
  if (some != nullptr && some->k > settings.workers)
    return Error{Code::kInvalidArgument, "--consistency: k-of-n:" + std::to_string(some->k) +
                                             " waits for more than the " + std::to_string(settings.workers) +
                                             " workers: give a smaller K, or more --workers"};
  if (!shards::in_rounds(mode)) return {};
  const auto refuse = [](const char* flag) {
    return Error{Code::kInvalidArgument, std::string(flag) +
                                             " is for pushes that come late: with --consistency "
                                             "sync and k-of-n, which make steps in rounds, "
                                             "leave it out"};
  };
  if (settings.delay_compensation && settings.delay_compensation->lambda > 0)
    return refuse("--delay-compensation");
  if (settings.step_scaling && *settings.step_scaling != shards::StepScaling::kNone)
    return refuse("--step-scaling");
  return {};
}

void set_steps(const JobSettings& settings, shards::TableSpec& spec) {
  if (settings.schedule) spec.schedule = *settings.schedule;
  if (settings.clipping) spec.clipping = *settings.clipping;
  if (settings.step_scaling) spec.step_scaling = *settings.step_scaling;
  if (settings.delay_compensation) spec.delay_compensation = *settings.delay_compensation;
}

}  // namespace troupe::training
