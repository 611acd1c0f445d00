#pragma once

#include <cstdint>
#include <map>
#include <utility>

#include <troupe/actors/shard_server.hpp>
#include <troupe/runtime/timer.hpp>
#include <troupe/shards/clock_policy.hpp>

namespace troupe {

/// What the decider of a table has beside its rows; a restore changes the rows only.
struct ShardServer::Deciding {
  Deciding(const shards::TableSpec& table, TableRoute table_route)
      : spec(table), route(std::move(table_route)), clocks(table.consistency) {}

  const shards::TableSpec spec;
  TableRoute route;
  shards::ClockPolicy clocks;
  std::map<std::uint64_t, std::uint64_t> worker_nodes;  // worker -> node id
  std::uint64_t deferred_ns = 0;
  bool closed = false;    // its table has gone
  bool ordering = false;  // an order is on its way to the shards
  Timer again;            // for one that a shard could not be given

  /// Its table goes, and with it all who wait: last, because they may do anything.
  void close() {
    closed = true;
    worker_nodes.clear();
    clocks.close();
  }
};

}  // namespace troupe
