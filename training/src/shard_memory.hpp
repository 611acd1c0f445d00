#pragma once

#include <cstdint>
#include <string>

#include <troupe/runtime/loop.hpp>
#include <troupe/shards/table_shard.hpp>

namespace troupe::training {

/// What --device may say: where the servers' rows lie. "cpu": the host's memory; "cuda": the memory of the
/// GPU whose number is the server's, counted round; "cuda:N": that of GPU N.
inline constexpr const char* kDeviceHelp =
    "Where the shards' rows lie: cpu, cuda (a server for each GPU, in turn) or cuda:N";

/// kInvalidArgument for another word; kUnavailable, kUnimplemented or kOutOfRange where there is no such GPU,
/// saying why.
Result<void> check_device(const std::string& device);

/// Stores for server number `index`, whose tables are driven by `loop`. Errors of check_device().
Result<shards::MakeRowStore> stores_for(const std::string& device, std::uint32_t index, Loop& loop);

}  // namespace troupe::training
