#pragma once

#include <cstdint>
#include <string>

#include <troupe/runtime/result.hpp>
#include <troupe/shards/partition.hpp>
#include <troupe/shards/row_layout.hpp>

namespace troupe::shards {

/// A key of a slot that the shard does not own.
inline Error slot_error(const TableSpec& spec, std::uint64_t key) {
  return {Code::kFailedPrecondition,
          "table '" + spec.name + "': key " + std::to_string(key) + " lies in slot " +
              std::to_string(slot_of(spec, key)) +
              ", which this shard does not own: get the present slot map and ask its owner"};
}

/// A row that a dense table does not have.
inline Error row_error(const TableSpec& spec, std::uint64_t row) {
  return {Code::kInvalidArgument, "table '" + spec.name + "': row " + std::to_string(row) +
                                      " is out of range, it has " + std::to_string(spec.rows) + " rows"};
}

/// Records of another size than the table's.
inline Error batch_error(const TableSpec& spec, const RowLayout& layout, const RowBatch& rows) {
  return {Code::kInvalidArgument, "table '" + spec.name + "': " + std::to_string(rows.keys.size()) +
                                      " rows of " + std::to_string(layout.bytes()) + " bytes came in " +
                                      std::to_string(rows.records.size())};
}

inline Error cut_error(const TableSpec& spec) {
  return {Code::kFailedPrecondition, "table '" + spec.name + "': a checkpoint is being made already"};
}

}  // namespace troupe::shards
