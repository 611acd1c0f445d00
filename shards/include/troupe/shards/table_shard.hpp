#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <span>

#include <troupe/runtime/result.hpp>
#include <troupe/shards/partition.hpp>
#include <troupe/shards/sequence_window.hpp>
#include <troupe/shards/staleness_histogram.hpp>
#include <troupe/shards/table_spec.hpp>

namespace troupe::shards {

/// pulled_version of a push whose worker pulled nothing before: it has no staleness.
inline constexpr std::uint64_t kNotPulled = UINT64_MAX;

/// Who pushes, and where in its work.
struct PushHeader {
  /// Unique to one life of a worker: one that starts again counts its sequence anew and needs a new id.
  std::uint64_t worker = 0;
  std::uint64_t clock = 0;  ///< the worker's clock; kept for the caller's StalenessGate
  /// Numbers this worker's pushes to this table, each its own; a repeated one is not applied again. Gaps
  /// are allowed, and any order within SequenceWindow::kSize.
  std::uint64_t sequence = 0;
  std::uint64_t pulled_version = kNotPulled;  ///< the version that came with the weights it worked on
};

struct PullReceipt {
  std::uint64_t version = 0;  ///< pushes applied to this shard so far
};

struct PushReceipt {
  std::uint64_t version = 0;    ///< pushes applied to this shard, this one included
  std::uint64_t staleness = 0;  ///< of those, how many came between the worker's pull and this push
  bool applied = false;         ///< false: this sequence had been applied before, nothing was done
};

struct PushPullReceipt {
  PushReceipt push;
  PullReceipt pull;
};

struct ShardStats {
  std::uint64_t rows = 0;
  std::uint64_t bytes = 0;  ///< of memory for rows and their index
  std::uint64_t version = 0;
  std::uint64_t pulls = 0;
  std::uint64_t pushes = 0;  ///< applied
  std::uint64_t pulled_keys = 0;
  std::uint64_t pushed_keys = 0;  ///< applied, duplicates counted
  std::uint64_t repeated_pushes = 0;
  std::uint64_t rejected_pushes = 0;
  std::uint64_t workers = 0;  ///< whose sequences are kept
  StalenessHistogram staleness;
};

/// One row as it lies in memory. The pointers hold as long as the shard lives; the values change.
struct RowView {
  std::uint64_t key = 0;
  const float* weights = nullptr;  ///< [dim]
  const float* state = nullptr;    ///< [state_tensors(optimizer), dim]
  std::uint32_t steps = 0;         ///< pushes that touched the row; counted for Adam, else 0
};

/// What dump() wrote.
struct DumpPage {
  std::size_t rows = 0;
  std::uint64_t next_cursor = 0;
  bool done = false;  ///< there is nothing past this page
};

/// Applied sequences by worker.
using WorkerWindows = std::map<std::uint64_t, SequenceWindow>;

/// One table's part on one shard server: the rows of the slots it owns, with their optimizer state beside
/// them, dense or embedding behind one interface. A row never moves in memory.
///
/// State without threads or locks: one loop owns it and makes every call. Errors leave it unchanged, but
/// for rows made on the way. Nothing here throws; memory that cannot be had is kResourceExhausted.
class TableShard {
 public:
  /// Workers whose sequences are kept at once; past it pushes of new ones are kResourceExhausted.
  static constexpr std::size_t kMaxWorkers = 65536;

  /// A shard of the table that owns `slots`. Dense rows are made here, embedding rows on first use.
  /// kInvalidArgument for an invalid spec or a SlotSet of another size than spec.slots.
  static Result<TableShard> create(TableSpec spec, SlotSet slots);
  /// One that owns the whole table.
  static Result<TableShard> create(TableSpec spec);
  TableShard(TableShard&&) noexcept;
  TableShard& operator=(TableShard&&) noexcept;
  ~TableShard();

  const TableSpec& spec() const;
  const SlotSet& slots() const;
  /// Pushes applied so far.
  std::uint64_t version() const;

  /// out[i] = the weights of keys[i], out[keys, dim]. Makes missing embedding rows.
  /// kInvalidArgument for a row number out of range; kFailedPrecondition for a key of a slot that this
  /// shard does not own: the caller's SlotMap is out of date.
  Result<PullReceipt> pull(std::span<const std::uint64_t> keys, float* out);

  /// As pull(), but makes no rows and counts nothing: a missing row reads as it would be made.
  Result<PullReceipt> peek(std::span<const std::uint64_t> keys, float* out) const;

  /// One optimizer step with gradients[keys, dim]; a key's duplicates are summed first. All or nothing.
  /// Staleness is version() - header.pulled_version before the push (0 if that is from before a restore and
  /// larger). Errors as pull(); kInvalidArgument if gradients.size() != keys * dim or for a NaN or infinite
  /// gradient, naming its key; kFailedPrecondition for a sequence too old to know whether it was applied.
  Result<PushReceipt> push(const PushHeader& header, std::span<const std::uint64_t> keys,
                           std::span<const float> gradients);

  /// push(), then pull() of pull_keys, as one. A repeated push still pulls. Both lists of keys are checked
  /// before anything is applied.
  Result<PushPullReceipt> push_pull(const PushHeader& header, std::span<const std::uint64_t> keys,
                                    std::span<const float> gradients,
                                    std::span<const std::uint64_t> pull_keys, float* out);

  /// Multiplies the optimizer's learning rate from now on: the hook of schedules. Starts as 1; not saved.
  /// Precondition: finite and not negative.
  void set_learning_rate_scale(float scale);
  float learning_rate_scale() const;

  ShardStats stats() const;
  /// Forgets a worker's sequences, when it has left for good and no push of it can still arrive.
  void forget_worker(std::uint64_t worker);

  std::uint64_t row_count() const;
  /// Rows are numbered 0 .. row_count()-1 as they were made. Precondition: index < row_count().
  RowView row(std::uint64_t index) const;
  /// Calls visit(const RowView&) for each row of these slots.
  template <class Visit>
  void for_each_row(const SlotSet& slots, Visit&& visit) const {
    for (std::uint64_t i = 0; i < row_count(); ++i) {
      const RowView view = row(i);
      if (slots.contains(slot_of(spec(), view.key))) visit(view);
    }
  }
  /// Copies the next rows from `cursor` (0 to begin) on: keys[i] and weights[i, dim], as many as `keys` has
  /// room for. Rows made meanwhile come at the end; each row comes once.
  DumpPage dump(std::uint64_t cursor, std::span<std::uint64_t> keys, float* weights) const;

  // What checkpoints and moves of slots read and write.

  const WorkerWindows& worker_windows() const;
  /// Adds to what is kept of workers, and raises version() to `version` if it is below.
  void merge_progress(const WorkerWindows& windows, std::uint64_t version);
  /// Makes or overwrites the row of `key`: weights[dim], state[state_tensors, dim]. Errors as pull().
  Result<void> restore_row(std::uint64_t key, const float* weights, const float* state, std::uint32_t steps);

 private:
  struct State;
  explicit TableShard(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace troupe::shards
