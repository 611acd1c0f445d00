#pragma once

#include <optional>
#include <string>

#include <troupe/runtime/clock.hpp>

#include "wordnet/settings.hpp"

namespace troupe::wordnet {

/// What a process of the job needs to know to meet the others.
struct Place {
  std::string name;
  std::string registry;  ///< of the chief: where it listens; of the others: where it is
  std::string transport = "auto";
  std::string metrics_address = {};  ///< where the process serves its metrics; empty: nowhere
};

/// After so long a silence a process of the job is taken for dead; writing a checkpoint must not take as
/// long. A process that is killed is noticed at once all the same.
inline constexpr Duration kJobSilenceLimit{std::chrono::seconds(30)};

/// How long servers and workers that are asked to end wait for the chief to end the job in good order.
inline constexpr std::chrono::milliseconds kChiefEndsFirst{2000};

/// A process that is asked to end while it starts: UCX leaves files in /dev/shm if it is ended just when it
/// makes them.
inline constexpr std::chrono::milliseconds kStartsUp{1000};

/// Each runs one process of the job to its end and returns the exit code.

/// Holds the registry and the coordinator, shows progress, evaluates, writes checkpoints and the report.
int run_chief(const Place& place, const JobSettings& settings, bool resume, const std::string& command,
              const std::optional<std::string>& reference_file);
/// Holds shard number `index` of `count` of each table.
int run_server(const Place& place, std::uint32_t index, std::uint32_t count);
/// Does batches at `speed` (1: full, 0.4: 40 % of it) until the coordinator says that the job is over.
int run_worker(const Place& place, double speed);

}  // namespace troupe::wordnet
