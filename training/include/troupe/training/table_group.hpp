#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include <troupe/actors/table_client.hpp>

namespace troupe::training {

/// The keys of several tables, in the tables' order.
using KeysByTable = std::vector<std::vector<std::uint64_t>>;
/// Rows [keys, dim] of several tables, or gradients of them.
using RowsByTable = std::vector<std::vector<float>>;

/// The tables of a worker as one: pulled together, pushed together under one identity, with one clock. One
/// thread uses it at a time, with or without the loop's turn.
class TableGroup {
 public:
  /// Opens the tables, made on the servers if they are not there yet, and joins their gates together. Errors
  /// as of TableClient::open(); kInvalidArgument: no tables.
  static Result<std::unique_ptr<TableGroup>> open(Node& node, std::vector<shards::TableSpec> specs,
                                                  const std::vector<std::string>& servers);

  std::size_t size() const { return tables_.size(); }
  TableClient& operator[](std::size_t table) { return *tables_[table]; }

  /// Brings the rows of keys[t] of each table t into rows[t], which is made to fit. All tables at once. With
  /// bounded staleness it waits for slower workers.
  Result<void> pull(const KeysByTable& keys, RowsByTable& rows);
  /// One optimizer step in each table, with gradients made from what the last pull() brought. All tables at
  /// once; each applies it once under `identity`. Tables in rounds make one step of what all workers push,
  /// weighted by `samples`, for which it waits; there a push has this worker's own name. What it met in all
  /// of them together: `applied` if it was in each, `dropped` if it was in some.
  Result<PushSummary> push(const KeysByTable& keys, const RowsByTable& gradients,
                           std::optional<PushIdentity> identity = {}, std::uint64_t samples = 1);
  /// One more batch is done: what the staleness bound counts. Rounds count by themselves.
  void advance();

  /// This worker holds nobody back until it joins again. Both are idempotent.
  void leave();
  Result<void> join();

  /// Rows [keys.size(), dim] as they are, in pieces, waiting for nobody and changing nothing: for evaluation.
  Result<std::vector<float>> read(std::size_t table, std::span<const std::uint64_t> keys);
  /// The same of keys 0 .. count-1.
  Result<std::vector<float>> read_first(std::size_t table, std::uint64_t count);

 private:
  TableGroup() = default;
  bool in_rounds(std::size_t table) const { return shards::in_rounds(tables_[table]->spec().consistency); }
  std::vector<std::unique_ptr<TableClient>> tables_;
  std::vector<PulledVersions> versions_;  // of the last pull
  bool away_ = false;
};

}  // namespace troupe::training
