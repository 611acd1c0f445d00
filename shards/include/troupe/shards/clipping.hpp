#pragma once

#include <cstdint>
#include <span>

#include <troupe/runtime/result.hpp>

namespace troupe::shards {

/// Limits of gradients; 0: none. Of those that are set, the norm of the push is held first, then those of
/// rows, then single numbers.
struct Clipping {
  float value = 0;     ///< each number of a step's gradients, to -value .. value
  float row_norm = 0;  ///< the L2 norm of a key's gradient in a step
  /// The L2 norm of a push: of all its keys, on all shards, those of one key added. Who sends the push sees
  /// to it (TableClient); in rounds each worker's is held, and so is that of their mean.
  float push_norm = 0;

  /// Whether a shard has anything to do.
  bool at_shard() const { return value > 0 || row_norm > 0; }
  /// kInvalidArgument naming the field, its value and what would do.
  Result<void> validate() const;
  friend bool operator==(const Clipping&, const Clipping&) = default;
};

/// Holds gradients[rows, dim] to `row_norm` and `value`.
void clip_rows(const Clipping& clipping, std::uint64_t dim, std::span<float> gradients);
/// Holds a push to `push_norm`: its parts, each [rows, dim], one for each shard. No key may come twice.
void clip_push(const Clipping& clipping, std::uint64_t dim, std::span<const std::span<float>> parts);

}  // namespace troupe::shards
