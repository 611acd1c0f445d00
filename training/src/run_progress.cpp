#include "run_progress.hpp"

#include <algorithm>
#include <set>
#include <utility>

#include <troupe/runtime/json.hpp>

namespace troupe::training {

namespace {
constexpr const char* kDataFingerprint = "data";
}

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
  }
      .dump(-1, ' ', false, Json::error_handler_t::replace);
}

namespace {

/// What the manifest of the checkpoint in `folder` keeps for the job.
Result<RunProgress> progress_of(const std::string& metadata, const std::filesystem::path& folder) {
  try {
    const Json json = Json::parse(metadata);
    RunProgress progress;
    json.at("epoch").get_to(progress.epoch);
    json.at("train_seconds").get_to(progress.train_seconds);
    json.at("examples").get_to(progress.examples);
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

}  // namespace

Result<FoundRun> find_run(const std::filesystem::path& checkpoint, shards::Older older,
                          const shards::OptimizerList& known, shards::Check check) {
  std::error_code code;
  const auto followed = std::filesystem::weakly_canonical(std::filesystem::absolute(checkpoint), code);
  const auto& place = code ? checkpoint : followed;  // older ones lie beside what a link leads to
  auto found = shards::find_checkpoint(place, older, check, known);
  if (!found) {
    Error error = found.error();
    if (older == shards::Older::kRefused &&
        shards::find_checkpoint(place, shards::Older::kAllowed, check, known))
      error.message += "; there is an older checkpoint: --allow-older goes on from that";
    return error;
  }
  auto progress = progress_of(found->manifest.metadata, found->folder);
  if (!progress) return progress.error();
  return FoundRun{found->folder, std::move(found->manifest.fingerprints), std::move(*progress),
                  std::move(found->passed_over)};
}

std::vector<std::string> flags_free_to_change(const Task& task) {
  std::vector<std::string> free = task.flags_free_to_change();
  free.insert(free.end(), {"--epochs", "--out", "--servers", "--workers", "--throttle", "--compare-seconds",
                           "--compare-staleness", "--checkpoint-every", "--keep-checkpoints"});
  return free;
}

std::map<std::string, std::string> fingerprints_of(const FlagWords& flags, const Task& task) {
  std::map<std::string, std::string> found{{kDataFingerprint, task.data_identity()}};
  const auto free = flags_free_to_change(task);
  for (const auto& [flag, words] : flags) {
    if (std::find(free.begin(), free.end(), flag) != free.end()) continue;
    std::string text;
    for (const std::string& word : words) text += (text.empty() ? "" : " ") + word;
    found[flag] = text;
  }
  return found;
}

Result<void> check_same_run(const FoundRun& run, const FlagWords& flags, const Task& task, bool allow_added) {
  const auto saved = run.fingerprints.find(kDataFingerprint);
  const bool adds =
      saved != run.fingerprints.end() && saved->second != task.data_identity() && task.adds_to(saved->second);
  shards::Manifest manifest;
  manifest.fingerprints = run.fingerprints;
  std::set<std::string> may_differ;
  if (adds && allow_added) may_differ.insert(kDataFingerprint);
  auto same = shards::check_fingerprints(manifest, fingerprints_of(flags, task), may_differ);
  if (same) return same;
  Error error = with_context(std::move(same).error(), run.folder.string());
  error.message += adds && !allow_added
                       ? ". All that was there has its place still: --allow-added goes on with what was added"
                       : ". Rows belong to what they were made from: resume with that, or begin again in "
                         "another folder";
  return error;
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
