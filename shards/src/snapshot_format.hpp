#pragma once

#include <cstdint>
#include <variant>

#include <troupe/shards/sequence_window.hpp>
#include <troupe/shards/table_spec.hpp>

namespace troupe::shards {

// Names in the files of a checkpoint; see snapshot.hpp.
inline constexpr const char* kKeysTensor = "keys";
inline constexpr const char* kWorkersTensor = "workers";
inline constexpr const char* kWeightsTensor = "weights";
inline constexpr const char* kStepsTensor = "steps";
inline constexpr const char* kVersionMetadata = "version";

/// A line of `workers`: the worker, its highest sequence, its window's words.
inline constexpr std::uint64_t kWorkerColumns = 2 + SequenceWindow::kWords;

inline bool counts_steps(const TableSpec& spec) {
  return std::holds_alternative<Adam>(spec.optimizer);
}

}  // namespace troupe::shards
