#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include <troupe/actors/node.hpp>
#include <troupe/actors/shard_server.hpp>
#include <troupe/shards/partition.hpp>
#include <troupe/shards/table_spec.hpp>

namespace troupe {

/// What a pull saw of one server's shard.
struct PulledVersion {
  std::uint64_t version = shards::kNotPulled;
  std::uint64_t generation = 0;  ///< changes with each restore
};

/// For each server that the client knows; it goes back with the push made from what was pulled.
using PulledVersions = std::vector<PulledVersion>;

/// Under which name the shards remember a push, to apply it once (shards::PushHeader's `worker` and
/// `sequence`). Work that may be done twice, by another worker after the first one died, has one name for
/// both: a shard that has applied the first takes the second for the repeat that it is.
struct PushIdentity {
  std::uint64_t worker = 0;
  std::uint64_t sequence = 0;
};

/// What a push met at the shards.
struct PushSummary {
  std::uint64_t staleness = 0;  ///< the largest of its shards; in rounds, how many it came late
  bool applied = true;          ///< false if some shard had applied it before, or if it was dropped
  bool dropped = false;         ///< in rounds: it came too late, and nothing of it was applied
};

struct PushPullSummary {
  PushSummary push;
  PulledVersions pulled;
};

/// One worker's access to a table that is spread over shard servers: splits keys by shard, calls all
/// shards at once, joins the answers. Any thread may use it, many at once, and several pulls and pushes may
/// be under way together; it is to be destroyed when no thread uses it any more. What takes long on the way,
/// such as copying gradients, is done by the thread that calls, without the loop's turn.
class TableClient {
 public:
  struct Options {
    Duration timeout{std::chrono::seconds(60)};
    /// Of this worker in all its tables, and of this life of it; 0: random.
    std::uint64_t worker = 0;
    /// How long a push is repeated that found its server unreachable, within the timeout. Zero: not at all.
    Duration repeat_for = Duration::max();
    /// Of tables that keep float16 or bfloat16 rows: rows come as they are kept, in half the bytes, and are
    /// made float32 here. They are the same numbers. A server whose rows lie on a device sends float32.
    bool half_pulls = false;
    /// Of the same: gradients, summed and clipped, are rounded to the table's type and sent so.
    /// kInvalidArgument, and nothing is sent, for one that is larger than the type has (float16: 65504).
    bool half_pushes = false;
  };

  /// Opens the table, made on the servers if it is not there yet. `servers`: the names of the ShardServer
  /// actors, in the order of their index. A table in which workers wait for each other counts this one
  /// from now on.
  static Result<std::unique_ptr<TableClient>> open(Node& node, shards::TableSpec spec,
                                                   std::vector<std::string> servers, const Options& options);
  static Result<std::unique_ptr<TableClient>> open(Node& node, shards::TableSpec spec,
                                                   std::vector<std::string> servers) {
    return open(node, std::move(spec), std::move(servers), Options{});
  }
  /// leave().
  ~TableClient();
  TableClient(const TableClient&) = delete;
  TableClient& operator=(const TableClient&) = delete;

  const shards::TableSpec& spec() const;
  std::uint64_t worker() const;
  std::uint64_t clock() const;
  /// This worker has finished its batches below `clock`; said to the others by the next pull. In rounds the
  /// client counts by itself, and this can only skip some.
  void set_clock(std::uint64_t clock);

  /// Writes the rows of `keys` into out[keys, dim], which must live until the future is ready (cancel() makes
  /// it so) or its get() has returned; nothing is written there afterwards. With bounded staleness the answer
  /// waits for slower workers, at most the timeout.
  rpc::Future<PulledVersions> pull(std::span<const std::uint64_t> keys, float* out);
  /// As pull(), but changes nothing and waits for nobody: for evaluation.
  rpc::Future<PulledVersions> peek(std::span<const std::uint64_t> keys, float* out);
  /// One optimizer step with gradients[keys, dim], copied before this returns; the gradients of a key that
  /// comes more than once are added. `versions`: of the pull they were made from; empty: of none.
  /// kInvalidArgument, and nothing is sent, for a gradient or sum that the table would refuse
  /// (shards::kLargestGradient).
  ///
  /// A push is applied once. One that finds a server unreachable is repeated there, under its identity, until
  /// it is answered or its time is over (Options::repeat_for): only then it may or may not have been applied.
  /// Its `identity` is this worker's next sequence number if none is given. kAborted, and nothing is applied,
  /// if the table was restored after that pull: the next pull shows what is there now.
  ///
  /// A table in rounds makes one step of what its workers push for their clocks, weighted by `samples`: the
  /// push ends when the step has been made, and this worker's clock then is that of its next batch.
  /// `identity` is this worker's own there.
  rpc::Future<PushSummary> push(std::span<const std::uint64_t> keys, const float* gradients,
                                const PulledVersions& versions = {},
                                std::optional<PushIdentity> identity = {}, std::uint64_t samples = 1);
  /// push(), then pull() of `pull_keys`, which see the push, in one call to each shard; with bounded
  /// staleness, and for more than 4 MiB of rows from one shard, in two.
  rpc::Future<PushPullSummary> push_pull(std::span<const std::uint64_t> keys, const float* gradients,
                                         const PulledVersions& versions,
                                         std::span<const std::uint64_t> pull_keys, float* out,
                                         std::optional<PushIdentity> identity = {},
                                         std::uint64_t samples = 1);

  // Of a dense table: ranges of rows, and the tensor that all rows are (TableSpec::tensor_shape()), whole or
  // some slices of it, indices of its first axis. Neither keys nor hashes are sent, or needed, for them. The
  // keyed calls send a list of rows that follow each other as a range, too. kInvalidArgument: the table is
  // not dense, or has no such rows.

  /// As pull(), peek() and push(), of `rows` in their order: out[rows, dim], gradients[rows, dim].
  rpc::Future<PulledVersions> pull_rows(const shards::RowRange& rows, float* out);
  rpc::Future<PulledVersions> peek_rows(const shards::RowRange& rows, float* out);
  rpc::Future<PushSummary> push_rows(const shards::RowRange& rows, const float* gradients,
                                     const PulledVersions& versions = {},
                                     std::optional<PushIdentity> identity = {}, std::uint64_t samples = 1);
  /// Writes slices `first` and up of the tensor into `out`, as many as that has: float32, contiguous, in host
  /// memory, of the tensor's shape but for the first extent. Long ones are received there, without a copy:
  /// the memory belongs to the pull until it is answered, and after an error until nothing refers to it
  /// (rpc::into()).
  rpc::Future<PulledVersions> pull_tensor(const Tensor& out, std::uint64_t first = 0);
  rpc::Future<PulledVersions> peek_tensor(const Tensor& out, std::uint64_t first = 0);
  /// As push(), of gradients for slices `first` and up.
  rpc::Future<PushSummary> push_tensor(const Tensor& gradients, std::uint64_t first = 0,
                                       const PulledVersions& versions = {},
                                       std::optional<PushIdentity> identity = {}, std::uint64_t samples = 1);

  /// This worker has nothing to do with the table for a while, or any more: it holds nobody back.
  /// Idempotent.
  void leave();
  /// Takes part again after leave(), from the clock of the slowest worker on if that is ahead. Idempotent.
  Result<void> join();
  /// Joins all of them, or none that had not joined before, and gives them one clock: the largest of theirs,
  /// or that of the slowest worker if it is ahead. A worker that uses several tables of bounded staleness for
  /// each batch joins them together: with clocks of their own two workers can wait for each other, each at
  /// the table in which it is ahead, until the timeout.
  static Result<void> join_together(const std::vector<TableClient*>& tables);

 private:
  friend class PullAhead;
  struct Core;
  explicit TableClient(std::shared_ptr<Core> core);

  std::shared_ptr<Core> core_;
};

}  // namespace troupe
