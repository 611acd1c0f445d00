#include "flags.hpp"

#include <algorithm>
#include <cstdlib>

#include <troupe/runtime/json.hpp>

#include "step_flags.hpp"

namespace troupe::training {

namespace {

constexpr const char* kThrottle = "--throttle";

/// CLI11's own tells the largest number there is, in all its digits.
CLI::Validator zero_or_more() {
  return {[](const std::string& text) {
            double value = 0;
            const bool good = CLI::detail::lexical_cast(text, value) && value >= 0;
            return good ? std::string() : "'" + text + "' is no number of 0 or more";
          },
          "NONNEGATIVE"};
}

}  // namespace

void add_job_flags(CLI::App& app, JobSettings& s) {
  app.add_option("--epochs", s.epochs, "Passes over the training data")
      ->capture_default_str()
      ->check(zero_or_more());
  app.add_option("--out", s.out, "Folder for the checkpoint, result.json and report.html")
      ->capture_default_str();
  app.add_option("--servers", s.servers, "Shard servers")->capture_default_str()->check(CLI::Range(1, 64));
  app.add_option("--workers", s.workers, "Workers")->capture_default_str()->check(CLI::Range(1, 256));
  app.add_option(kThrottle, s.throttles,
                 "Hold a worker at a part of its speed: worker-2=0.4; 'none' for nobody")
      ->capture_default_str();
  add_step_flags(app, s);
  app.add_option("--compare-staleness", s.compare_staleness,
                 "The bound that asynchronous training is compared with")
      ->capture_default_str()
      ->check(zero_or_more());
  app.add_option("--compare-seconds", s.compare_seconds,
                 "How long to time each mode of consistency; 0: do not")
      ->capture_default_str()
      ->check(zero_or_more());
  app.add_option("--checkpoint-every", s.checkpoint_every, "Epochs between checkpoints; 0: only at the end")
      ->capture_default_str()
      ->check(zero_or_more());
  app.add_option("--keep-checkpoints", s.keep_checkpoints,
                 "How many checkpoints are kept: the newest, and those before it as checkpoint.1 and so on")
      ->capture_default_str()
      ->check(CLI::Range(1, 1000));
}

FlagWords words_of(const CLI::App& app, const std::vector<std::string>& without) {
  FlagWords words;
  for (const CLI::Option* option : app.get_options()) {
    const std::string name = option->get_name();
    if (std::find(without.begin(), without.end(), name) != without.end()) continue;
    if (option->count() > 0)
      words.emplace_back(name, option->results());
    else if (option->get_items_expected_max() == 1 && !option->get_default_str().empty())
      words.emplace_back(name, std::vector<std::string>{option->get_default_str()});
  }
  return words;
}

FlagWords merge(FlagWords words, const FlagWords& newer) {
  for (const auto& flag : newer) {
    const auto same = std::find_if(words.begin(), words.end(),
                                   [&](const auto& older) { return older.first == flag.first; });
    if (same == words.end())
      words.push_back(flag);
    else
      same->second = flag.second;
  }
  return words;
}

std::string to_json(const FlagWords& words) {
  Json flags = Json::array();
  for (const auto& [name, values] : words) {
    Json list = Json::array();
    for (const std::string& value : values) list.push_back(json_of_bytes(value));
    flags.push_back({name, list});
  }
  return flags.dump();
}

Result<FlagWords> flag_words_from_json(std::string_view text) {
  try {
    FlagWords words;
    const Json flags = Json::parse(text);
    if (!flags.is_array()) return Error{Code::kInvalidArgument, "settings of a job are a list of flags"};
    for (const Json& flag : flags) {
      std::vector<std::string> values;
      for (const Json& value : flag.at(1)) values.push_back(bytes_of_json(value));
      words.emplace_back(flag.at(0).get<std::string>(), std::move(values));
    }
    return words;
  } catch (const Json::exception& exception) {
    return Error{Code::kInvalidArgument,
                 std::string("settings of the job are not valid: ") + exception.what()};
  }
}

Result<void> apply(const FlagWords& words, JobSettings& settings, Task& task) {
  CLI::App app;
  add_job_flags(app, settings);
  task.add_flags(app);
  std::vector<std::string> line;
  for (const auto& [name, values] : words) {
    if (values.empty()) continue;
    line.push_back(name + "=" + values.front());  // so that a first word may begin with a dash
    line.insert(line.end(), values.begin() + 1, values.end());
  }
  std::reverse(line.begin(), line.end());  // as CLI11 wants it
  try {
    app.parse(line);
  } catch (const CLI::Error& error) {
    return Error{Code::kInvalidArgument, error.what()};
  }
  return check_settings(settings, app.count(kThrottle) > 0);
}

Result<void> check_settings(JobSettings& settings, bool throttled) {
  if (auto good = check_step_flags(settings); !good) return good;
  return read_throttles(settings, throttled);
}

Result<void> read_throttles(JobSettings& settings, bool given) {
  settings.speeds.clear();
  for (const std::string& text : settings.throttles) {
    if (text == "none") continue;
    const auto equals = text.find('=');
    char* end = nullptr;
    const double speed = equals == std::string::npos ? 0 : std::strtod(text.c_str() + equals + 1, &end);
    if (!(speed > 0 && speed <= 1) || (end && *end != 0))
      return Error{Code::kInvalidArgument,
                   "--throttle " + text + ": is to be NAME=SPEED, with a speed above 0 and up to 1"};
    const std::string name = text.substr(0, equals);
    bool known = false;
    for (std::uint32_t i = 0; i < settings.workers; ++i) known |= name == "worker-" + std::to_string(i);
    if (!known && !given) continue;
    if (!known)
      return Error{Code::kInvalidArgument, "--throttle " + text + ": there is no " + name +
                                               "; workers are worker-0 to worker-" +
                                               std::to_string(settings.workers - 1)};
    settings.speeds[name] = speed;
  }
  return {};
}

// ---- Consistency --------------------------------------------------------------------------------

shards::Consistency own_consistency(const JobSettings& settings) {
  if (settings.staleness) return shards::BoundedStaleness{*settings.staleness};
  return settings.consistency.value_or(shards::Asynchronous{});
}

shards::Consistency other_consistency(const JobSettings& settings) {
  if (!std::holds_alternative<shards::Asynchronous>(own_consistency(settings))) return shards::Asynchronous{};
  return shards::BoundedStaleness{settings.compare_staleness};
}

std::string describe(const shards::Consistency& consistency) {
  if (const auto* bounded = std::get_if<shards::BoundedStaleness>(&consistency))
    return "bounded, " + std::to_string(bounded->bound);
  if (const auto* some = std::get_if<shards::KOfN>(&consistency))
    return std::to_string(some->k) + " of n" +
           (some->late == shards::LatePushes::kScale ? ", late ones scaled" : "");
  return std::holds_alternative<shards::Synchronous>(consistency) ? "synchronous" : "asynchronous";
}

}  // namespace troupe::training
