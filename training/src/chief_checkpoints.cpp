// The chief's part in checkpoints: whose place it is, where a run goes on from, what is kept.
#include <filesystem>
#include <string>
#include <utility>

#include "chief.hpp"

namespace troupe::training {

namespace {

constexpr Duration kDiskPatience{std::chrono::minutes(10)};

std::string grouped(std::uint64_t number) {
  std::string text = std::to_string(number);
  for (auto at = static_cast<std::ptrdiff_t>(text.size()) - 3; at > 0; at -= 3)
    text.insert(static_cast<std::size_t>(at), ",");
  return text;
}

/// The error, with what can be done if there is an older checkpoint.
Error with_older(Error error, const FoundRun& newest, const Resume& resume) {
  std::error_code ignored;
  if (!resume.allow_older && std::filesystem::exists(newest.folder.string() + ".1", ignored))
    error.message += "; there is an older checkpoint: --allow-older goes on from that";
  return error;
}

}  // namespace

Result<void> Chief::take_place() {
  const auto place = shards::checkpoint_place(settings_.checkpoint());
  if (!place) return place.error();
  auto lock = shards::CheckpointLock::take(*place);
  if (!lock) return lock.error();
  lock_.emplace(std::move(*lock));
  return {};
}

Result<void> Chief::find(const Resume& resume, shards::Check check) {
  auto found =
      find_run(settings_.checkpoint(), resume.allow_older ? shards::Older::kAllowed : shards::Older::kRefused,
               task_->optimizers(), check);
  if (!found) return found.error();
  if (auto same = check_same_run(*found, flags_, *task_, resume.allow_added); !same) return same;
  for (const Error& wrong : found->passed_over) progress_.message("passed over: " + wrong.message);
  found_ = std::move(*found);
  return {};
}

Result<std::uint64_t> Chief::restore_tables() {
  std::vector<rpc::Future<std::uint64_t>> restored;
  for (const std::string& server : servers_)
    restored.push_back(node_->rpc_async_with<std::uint64_t>({.timeout = kDiskPatience}, server, "restore",
                                                            found_->folder.string()));
  std::uint64_t rows = 0;
  std::optional<Error> failed;
  for (auto& each : restored) {
    auto count = each.get();  // of all: a server that still reads takes no other checkpoint
    if (count)
      rows += *count;
    else if (!failed)
      failed = count.error();
  }
  if (failed) return *failed;
  return rows;
}

Result<void> Chief::restore(const Resume& resume) {
  const auto is_damaged = [](const Error& error) {
    return error.code == Code::kDataLoss || error.code == Code::kNotFound;
  };
  auto rows = restore_tables();
  if (!rows && is_damaged(rows.error()) && resume.allow_older) {
    // What only reading it shows.
    if (auto older = find(resume, shards::Check::kContents); !older) return older;
    rows = restore_tables();
  }
  if (!rows && is_damaged(rows.error())) return with_older(rows.error(), *found_, resume);
  RunProgress& progress = found_->progress;
  checkpoint_epoch_ = progress.epoch;
  training_ = true;  // whatever goes wrong now: there is a checkpoint to go on from
  if (!rows) return rows.error();
  report_.examples = progress.examples;
  report_.epochs = std::move(progress.epochs);
  report_.loss = std::move(progress.loss);
  report_.checkpoint = settings_.checkpoint().string();
  {
    Loop::Turn turn(node_->loop());
    train_seconds_ = progress.train_seconds;
    failures_.insert(failures_.begin(), progress.failures.begin(), progress.failures.end());
  }
  epochs_done_ = progress.epoch;
  first_epoch_ = epochs_done_ + 1;
  progress_.message("resuming after epoch " + std::to_string(epochs_done_) + " from " +
                    found_->folder.string() + ": " + grouped(*rows) + " rows");
  return {};
}

RunProgress Chief::run_progress() const {
  return {flags_, epochs_done_, train_seconds_, report_.examples, report_.epochs, report_.loss, failures_};
}

Result<shards::Manifest> Chief::save_files(const std::string& folder) {
  shards::Manifest manifest;
  std::vector<std::string> names;
  for (std::size_t t = 0; t < tables_->size(); ++t) {
    manifest.tables.push_back((*tables_)[t].spec());
    names.push_back((*tables_)[t].spec().name);
  }
  {
    Loop::Turn turn(node_->loop());
    manifest.metadata = to_json(run_progress());
  }
  manifest.fingerprints = fingerprints_of(flags_, *task_);
  std::vector<rpc::Future<std::vector<std::string>>> saved;
  for (const std::string& server : servers_)
    saved.push_back(node_->rpc_async_with<std::vector<std::string>>({.timeout = kDiskPatience}, server,
                                                                    "save", folder, names));
  std::optional<Error> failed;
  for (auto& each : saved) {
    auto entries = each.get();
    if (!entries) {
      failed = entries.error();
      continue;  // the others must not write any more when the folder is removed
    }
    for (const std::string& text : *entries) {
      auto entry = shards::file_entry_from_json(text);
      if (!entry)
        failed = entry.error();
      else
        manifest.files.push_back(*entry);
    }
  }
  if (failed) return *failed;
  return manifest;
}

Result<void> Chief::save_checkpoint(std::uint64_t epoch) {
  // Between two phases nothing is under way, so that all shards show the same moment.
  const auto place = shards::checkpoint_place(settings_.checkpoint());
  if (!place) return with_context(place.error(), "writing a checkpoint");
  const std::string temporary = place->temporary.string();
  const auto remove_temporary = [&] {
    std::error_code ignored;
    std::filesystem::remove_all(temporary, ignored);
  };
  remove_temporary();
  auto manifest = save_files(temporary);
  auto committed = manifest ? shards::commit(temporary, place->final, *manifest, settings_.keep_checkpoints)
                            : manifest.error();
  if (!committed) {
    remove_temporary();
    return with_context(committed.error(), "writing a checkpoint");
  }
  checkpoint_epoch_ = epoch;
  report_.checkpoint = settings_.checkpoint().string();
  return {};
}

}  // namespace troupe::training
