#include "run_progress.hpp"

#include <troupe/runtime/json.hpp>
#include <troupe/shards/snapshot.hpp>

namespace troupe::training {

std::string to_json(const RunProgress& progress) {
  Json epochs = Json::array(), loss = Json::array(), failures = Json::array();
  for (const EpochReport& epoch : progress.epochs) {
    Json valid;
    if (epoch.valid) valid = {epoch.valid->key, epoch.valid->title, epoch.valid->value};
    epochs.push_back({epoch.epoch, epoch.end_seconds, epoch.loss, valid});
  }
  for (const TimedValue& point : progress.loss) loss.push_back({point.seconds, point.value});
  for (const FailureReport& failure : progress.failures)
    failures.push_back({failure.seconds, failure.who, failure.what});
  return Json{
      {"epoch", progress.epoch},
      {"train_seconds", progress.train_seconds},
      {"examples", progress.examples},
      {"epochs", epochs},
      {"loss", loss},
      {"failures", failures},
      {"flags", Json::parse(to_json(progress.flags))},
      {"data", progress.data},
  }
      .dump(-1, ' ', false, Json::error_handler_t::replace);
}

Result<RunProgress> read_run_progress(const std::filesystem::path& folder) {
  auto manifest = shards::read_manifest(folder);
  if (!manifest) return manifest.error();
  try {
    const Json json = Json::parse(manifest->metadata);
    RunProgress progress;
    json.at("epoch").get_to(progress.epoch);
    json.at("train_seconds").get_to(progress.train_seconds);
    json.at("examples").get_to(progress.examples);
    json.at("data").get_to(progress.data);
    for (const Json& entry : json.at("epochs")) {
      EpochReport epoch{entry.at(0), entry.at(1), entry.at(2), {}};
      if (const Json& valid = entry.at(3); !valid.is_null())
        epoch.valid = Metric{valid.at(0), valid.at(1), valid.at(2)};
      progress.epochs.push_back(epoch);
    }
    for (const Json& entry : json.at("loss")) progress.loss.push_back({entry.at(0), entry.at(1)});
    for (const Json& entry : json.at("failures"))
      progress.failures.push_back({entry.at(0), entry.at(1), entry.at(2)});
    auto flags = flag_words_from_json(json.at("flags").dump());
    if (!flags) return with_context(flags.error(), folder.string());
    progress.flags = std::move(*flags);
    return progress;
  } catch (const Json::exception& exception) {
    return Error{Code::kDataLoss,
                 folder.string() + " is not a checkpoint of this program: " + exception.what()};
  }
}

namespace {
/// As a shell reads it.
std::string quoted(const std::string& word) {
  const char* plain = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-./+:=,@%";
  if (!word.empty() && word.find_first_not_of(plain) == std::string::npos) return word;
  std::string text = "'";
  for (const char c : word) text += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return text + "'";
}
}  // namespace

std::string resume_hint(const JobSettings& settings, std::uint64_t epoch, const std::string& program,
                        const std::string& transport) {
  if (epoch == 0) return "There is no checkpoint yet; begin again.";
  return "Last checkpoint: " + settings.checkpoint().string() + ", after epoch " + std::to_string(epoch) +
         ". To go on from it:\n  " + quoted(program) + " train --resume " + quoted(settings.out.string()) +
         (transport == "auto" ? "" : " --transport " + transport);
}

}  // namespace troupe::training
