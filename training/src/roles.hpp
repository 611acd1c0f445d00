#pragma once

#include <optional>
#include <string>

#include <troupe/runtime/clock.hpp>
#include <troupe/training/program.hpp>

#include "flags.hpp"

namespace troupe::training {

/// What a process of the job needs to know to meet the others.
struct Place {
  std::string name;
  std::string registry;  ///< of the chief: where it listens; of the others: where it is
  std::string transport = "auto";
  std::string metrics_address = {};  ///< where the process serves its metrics; empty: nowhere
};

/// Whether a run goes on from a checkpoint, and from which.
struct Resume {
  bool wanted = false;
  bool allow_older = false;  ///< if the newest is damaged, the newest good one will do
  bool allow_added = false;  ///< the data may be more than that of the checkpoint
};

/// After so long a silence a process of the job is taken for dead. A process that is killed is noticed at
/// once all the same; one whose disk does not answer is not silent.
inline constexpr Duration kJobSilenceLimit{std::chrono::seconds(30)};

/// How long servers and workers that are asked to end wait for the chief to end the job in good order.
inline constexpr std::chrono::milliseconds kChiefEndsFirst{2000};

/// A process that is asked to end while it starts: UCX leaves files in /dev/shm if it is ended just when it
/// makes them.
inline constexpr std::chrono::milliseconds kStartsUp{1000};

/// How long a process whose work is done waits until others have its last answers; and the chief until it is
/// the last one.
inline constexpr Duration kLeavePatience{std::chrono::seconds(2)};
inline constexpr Duration kLastOnePatience{std::chrono::seconds(10)};

/// The actor of a shard server's process by which the chief ends it.
inline std::string process_actor(const std::string& name) {
  return name + ".process";
}

/// Each runs one process of the job to its end and returns the exit code.

/// Holds the registry and the coordinator, shows progress, evaluates, writes checkpoints and the report.
/// `command`: the program's path, for the line that says how to resume.
int run_chief(const Place& place, const Program& program, const FlagWords& flags, const Resume& resume,
              const std::string& command);
/// Which shard of each table a server holds, and where: see check_device().
struct ServerPlan {
  std::uint32_t index = 0;
  std::uint32_t count = 1;
  std::string device = "cpu";
};
/// Holds that shard.
int run_server(const Place& place, const Program& program, const ServerPlan& plan);
/// Does batches at `speed` (1: full, 0.4: 40 % of it) until the coordinator says that the job is over.
int run_worker(const Place& place, const Program& program, double speed);

}  // namespace troupe::training
