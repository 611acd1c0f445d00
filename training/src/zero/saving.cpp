// How a group makes a checkpoint together, and goes on from one.
#include <filesystem>
#include <new>
#include <string>
#include <utility>

#include <troupe/shards/snapshot.hpp>

#include "zero/checkpoint.hpp"
#include "zero/member.hpp"

namespace troupe::training::zero {
namespace {

namespace fs = std::filesystem;

/// A fresh folder for the files, beside where they go.
Result<shards::CheckpointPlace> make_place(const fs::path& folder) {
  Result<shards::CheckpointPlace> place = shards::checkpoint_place(folder);
  if (!place) return place;
  std::error_code code;
  fs::remove_all(place->temporary, code);
  if (code)
    return Error{Code::kFailedPrecondition,
                 place->temporary.string() + " is in the way, and cannot be removed: " + code.message()};
  fs::create_directories(place->temporary, code);
  if (code)
    return Error{Code::kFailedPrecondition, place->temporary.string() + " cannot be made: " + code.message()};
  return place;
}

/// What must be the same to go on from it.
Result<void> check(const Saved& saved, const std::vector<ZeroParameter>& parameters,
                   const ZeroOptions& options) {
  const auto refused = [](const std::string& why) {
    return Error{Code::kFailedPrecondition, "the checkpoint " + why};
  };
  if (saved.optimizer != options.optimizer.name())
    return refused("is of optimizer '" + saved.optimizer + "', not '" +
                   std::string(options.optimizer.name()) + "'");
  if (saved.parameters.size() != parameters.size())
    return refused("has " + std::to_string(saved.parameters.size()) + " parameters, not " +
                   std::to_string(parameters.size()));
  for (std::size_t i = 0; i < parameters.size(); ++i) {
    const ZeroParameter& there = saved.parameters[i];
    if (there.name != parameters[i].name || !(there.shape == parameters[i].shape))
      return refused("has '" + there.name + "' " + there.shape.to_string() + " in the place of '" +
                     parameters[i].name + "' " + parameters[i].shape.to_string());
  }
  return {};
}

}  // namespace

Result<void> Member::between_steps() const {
  if (Result<void> can = usable(); !can) return can;
  if (parts_->gradients.pass() != 0 || !parts_->gradients.between_passes())
    return Error{Code::kFailedPrecondition, "gradients have been taken: step() comes before"};
  if (const int layer = parts_->layers.in_use(); layer >= 0)
    return Error{Code::kFailedPrecondition,
                 "layer " + std::to_string(layer) + " is in use: end_layer() comes before"};
  return {};
}

Result<void> Member::save(const fs::path& folder) {
  try {
    return save_all(folder);
  } catch (const std::bad_alloc&) {
    return no_memory();
  }
}

Result<void> Member::save_all(const fs::path& folder) {
  if (Result<void> ready = between_steps(); !ready) return ready;
  if (!whole_) return Error{Code::kFailedPrecondition, "parameters are not all of one step"};
  const bool first = parts_->group.rank() == 0;
  shards::CheckpointPlace place;
  Result<void> made = together_while([&]() -> Result<void> {
    if (!first) return {};
    Result<shards::CheckpointPlace> mine = make_place(folder);
    if (!mine) return mine.error();
    place = *std::move(mine);
    return {};
  });
  if (!made) return made;
  Result<void> saved = save_into(place);
  std::error_code code;
  if (!saved && first) fs::remove_all(place.temporary, code);
  return saved;
}

Result<void> Member::save_into(const shards::CheckpointPlace& place) {
  const bool first = parts_->group.rank() == 0;
  const auto temporary = exchange_texts(place.temporary.string());
  if (!temporary) return ended(temporary.error());
  shards::FileEntry entry;
  Result<void> written = together_while([&]() -> Result<void> {
    Result<shards::FileEntry> mine =
        write_share(temporary->front(), parts_->group.rank(), parts_->plan, parts_->weights, parts_->stepper);
    if (!mine) return mine.error();
    entry = *std::move(mine);
    return {};
  });
  if (!written) return written;
  const auto entries = exchange_texts(shards::to_json(entry));
  if (!entries) return ended(entries.error());
  return together_while([&]() -> Result<void> {
    if (!first) return {};
    Saved saved;
    saved.optimizer = std::string(options_.optimizer.name());
    saved.parameters = parameters_;
    saved.steps = steps_;
    saved.skipped = skipped_;
    saved.scaled = options_.dtype == DType::kFloat16;
    saved.scaler = scaler_.state();
    for (const std::string& text : *entries) {
      Result<shards::FileEntry> each = shards::file_entry_from_json(text);
      if (!each) return each.error();
      saved.files.push_back(std::move(*each));
    }
    if (Result<void> there = check_files(place.temporary, saved.files); !there) return there;
    return shards::commit_folder(place.temporary, place.final, to_text(saved));
  });
}

Result<void> Member::restore(const fs::path& folder) {
  try {
    return restore_all(folder);
  } catch (const std::bad_alloc&) {
    return no_memory();
  }
}

Result<void> Member::restore_all(const fs::path& folder) {
  if (Result<void> ready = between_steps(); !ready) return ready;
  if (Result<void> done = parts_->layers.drop_all(); !done) return ended(done.error());
  Saved saved;
  Result<void> fits = together_while([&]() -> Result<void> {
    Result<Saved> read = read_saved(folder);
    if (!read) return read.error();
    saved = *std::move(read);
    return check(saved, parameters_, options_);
  });
  if (!fits) return fits;
  whole_ = false;
  Result<void> read = together_while(
      [&] { return read_stepped(folder, saved, parts_->plan, parts_->weights, parts_->stepper); });
  if (!read) return read;
  if (Result<void> sent = publish_all(); !sent) return ended(sent.error());
  steps_ = saved.steps;
  skipped_ = saved.skipped;
  if (saved.scaled) scaler_.set_state(saved.scaler);
  whole_ = true;
  return {};
}

}  // namespace troupe::training::zero
