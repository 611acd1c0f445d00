#pragma once

#include <sys/types.h>

#include <string>

namespace caf_embed {

/// The process that holds the parameters: a node named "ps" with one shard server, "shard". With a checkpoint
/// it begins from that. Returns when the application's node is gone; throws what keeps it from starting.
void keep_shard(const std::string& address, const std::string& checkpoint);

/// This program again, as such a process; ended with this one.
class ShardProcess {
 public:
  ShardProcess(const std::string& address, const std::string& checkpoint);
  ~ShardProcess();
  ShardProcess(const ShardProcess&) = delete;
  ShardProcess& operator=(const ShardProcess&) = delete;
  /// kill -9, as a machine would fail.
  void kill();

 private:
  pid_t pid_ = -1;
};

}  // namespace caf_embed
