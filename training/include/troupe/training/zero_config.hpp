#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include <troupe/runtime/result.hpp>
#include <troupe/training/zero.hpp>

namespace troupe::training {

/// What a configuration of DeepSpeed's says. docs/zero.md has a table of its keys.
struct ZeroConfig {
  ZeroOptions options;
  bool has_optimizer = false;    ///< else options.optimizer is not the file's: the program chooses
  std::int64_t train_batch = 0;  ///< samples of a step, of all members
  std::int64_t micro_batch = 0;  ///< samples of a member's pass
  /// Keys that are there and change nothing here: "zero_optimization.contiguous_gradients".
  std::vector<std::string> ignored;
};

/// Reads one for a group of so many members; what is not said has DeepSpeed's value. `what` names the text in
/// errors. kInvalidArgument: no JSON, values that cannot be, batch sizes that do not fit each other, and keys
/// that are not known, all of which are named; kUnimplemented, naming the key: it asks for what changes
/// results or memory and is not there.
Result<ZeroConfig> parse_zero_config(std::string_view json, std::string_view what, int members);
/// The same of a file.
Result<ZeroConfig> read_zero_config(const std::string& path, int members);

}  // namespace troupe::training
