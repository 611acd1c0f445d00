#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include <troupe/runtime/result.hpp>
#include <troupe/shards/snapshot.hpp>
#include <troupe/training/zero.hpp>

#include "zero/loss_scaler.hpp"
#include "zero/plan.hpp"
#include "zero/stepper.hpp"
#include "zero/weights.hpp"

/// Checkpoints of any stage and any number of members: a folder with a file for each member and a manifest.
///
/// zero.<rank>.safetensors holds float32 numbers of parts of parameters, one part after the other: `parts`
/// I64 [parts, 3] says which: the parameter's number, its first element and how many; `weights` F32 [n] and
/// each field of the optimizer's state F32 [n] are their numbers. Each element of each parameter is in one
/// file.
namespace troupe::training::zero {

/// The contents of manifest.json.
struct Saved {
  static constexpr std::uint32_t kFormatVersion = 1;

  std::string optimizer;
  std::vector<ZeroParameter> parameters;  ///< their names and shapes
  std::vector<shards::FileEntry> files;
  std::uint64_t steps = 0;
  std::uint64_t skipped = 0;
  bool scaled = false;  ///< there is a loss scale
  LossScaler::State scaler;
};

std::string to_text(const Saved& saved);
/// kNotFound without a manifest, kDataLoss for one that is malformed or of another kind.
Result<Saved> read_saved(const std::filesystem::path& folder);

/// Writes this member's share of weights and state.
Result<shards::FileEntry> write_share(const std::filesystem::path& folder, int rank, const Plan& plan,
                                      const Weights& weights, const Stepper& stepper);
/// kFailedPrecondition, naming the member, unless these are in the folder with their sizes.
Result<void> check_files(const std::filesystem::path& folder, const std::vector<shards::FileEntry>& files);
/// Reads what this member steps from the files that have it, and checks its share of the files: the members
/// know only together that all are good. kNotFound or kDataLoss naming the file.
Result<void> read_stepped(const std::filesystem::path& folder, const Saved& saved, const Plan& plan,
                          const Weights& weights, const Stepper& stepper);

}  // namespace troupe::training::zero
