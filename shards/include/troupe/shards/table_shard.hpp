#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>

#include <troupe/runtime/result.hpp>
#include <troupe/shards/clock_policy.hpp>
#include <troupe/shards/partition.hpp>
#include <troupe/shards/row_store.hpp>
#include <troupe/shards/slot_groups.hpp>
#include <troupe/shards/staleness_histogram.hpp>
#include <troupe/shards/table_spec.hpp>

namespace troupe::shards {

/// pulled_version of a push whose worker pulled nothing before: it has no staleness.
inline constexpr std::uint64_t kNotPulled = UINT64_MAX;

/// Who pushes, and where in its work.
struct PushHeader {
  /// Unique to one life of a worker: one that starts again counts its sequence anew and needs a new id.
  std::uint64_t worker = 0;
  std::uint64_t clock = 0;  ///< the worker's clock; kept for who decides (ClockPolicy)
  /// Numbers this worker's pushes to this table, each its own; a repeated one is not applied again. Gaps
  /// are allowed, and any order within SequenceWindow::kSize.
  std::uint64_t sequence = 0;
  std::uint64_t pulled_version = kNotPulled;  ///< the version that came with the weights it worked on
  /// By which the table's schedule gives the learning rate: the largest version that came with those weights
  /// from any shard, so that all shards step by one rate; kNotPulled: this shard's own version.
  std::uint64_t step = kNotPulled;
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
  std::uint64_t bytes = 0;  ///< of memory for rows, their index and what they were before
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

/// One table's part on one shard server: the rows of the slots it owns, with their optimizer state beside
/// them in a RowStore, dense or embedding behind one interface, and what has been pushed to its slot groups.
///
/// State without threads or locks: one loop owns it and makes every call. Errors leave it unchanged, but
/// for rows made on the way. Nothing here throws; memory that cannot be had is kResourceExhausted.
class TableShard {
 public:
  /// A shard of the table that owns `slots`. Dense rows are made here, embedding rows on first use.
  /// kInvalidArgument for an invalid spec or a SlotSet of another size than spec.slots; what `make_store`
  /// answers.
  static Result<TableShard> create(TableSpec spec, SlotSet slots,
                                   const MakeRowStore& make_store = make_host_store);
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
  ///
  /// `out` may be of the table's own type, if that has two bytes: the numbers as they are kept.
  ///
  /// Rows may lie where reading them takes a while. With `later` that is when they are there; else, and in
  /// all functions that do not have it, it is waited for.
  Result<PullReceipt> pull(const RowKeys& keys, RowsOut out, Completion* later = nullptr);

  /// As pull(), but makes no rows and counts nothing: a missing row reads as it would be made.
  Result<PullReceipt> peek(const RowKeys& keys, RowsOut out, Completion* later = nullptr) const;
  /// Memory for rows to be read into that suits the shard's store best; an empty Buffer: any of the host's.
  Result<Buffer> memory_for(std::size_t bytes);

  /// One optimizer step with gradients[keys, dim]; a key's duplicates are summed first, then clipped, then
  /// compensated for the push's delay, as the spec says. All or nothing.
  /// Staleness is version() - header.pulled_version before the push (0 if that is from before a restore and
  /// larger). Errors as pull(); kInvalidArgument if gradients.size() != keys * dim or for a gradient that is
  /// NaN or larger than kLargestGradient, naming its key; kFailedPrecondition for a sequence too old to know
  /// whether it was applied. A push that some slot groups have had already (this shard got them from
  /// different ones, which one of two parts of the push had reached) is applied in the others.
  Result<PushReceipt> push(const PushHeader& header, const RowKeys& keys, std::span<const float> gradients);

  /// push(), then pull() of pull_keys, as one. A repeated push still pulls. Both lists of keys are checked
  /// before anything is applied.
  Result<PushPullReceipt> push_pull(const PushHeader& header, const RowKeys& keys,
                                    std::span<const float> gradients, const RowKeys& pull_keys, RowsOut out,
                                    Completion* later = nullptr);

  /// Those for which a route sends pushes here: see SlotGroups::set_active().
  void set_active_groups(GroupMask groups);

  // Tables in rounds: pushes are kept until their table's decider orders a step.

  /// Checks a push as push() does and keeps it. false: it has been applied before, and is not kept.
  /// kResourceExhausted, besides, if more is kept than a round needs.
  Result<bool> keep(const PushHeader& header, const RowKeys& keys, std::span<const float> gradients);
  /// One step with the weighted sum of the pushes that the order takes and that were kept here; they and
  /// those that it forgets are kept no more. An order that was carried out before is left alone; one that
  /// fails may be repeated.
  Result<void> carry_out(const StepOrder& order);
  /// The last order that was carried out. A shard that takes another's place begins where that was.
  std::uint64_t order_number() const;
  void begin_orders_at(std::uint64_t number);

  // Large ones in slices, between which whoever has the loop does other things. While one is under way
  // nothing else is to be asked of the shard but a cut's pages, so that nobody sees a half of it.

  /// Further rows of a pull that was begun with pull(); counted as a part of it.
  Result<PullReceipt> pull_more(const RowKeys& keys, RowsOut out, Completion* later = nullptr);
  /// Makes the rows of these keys that are missing.
  Result<void> make_rows(const RowKeys& keys);
  /// Begins a push() whose arguments live until go_on_with_push() has answered. Precondition: none is begun.
  void begin_push(const PushHeader& header, const RowKeys& keys, std::span<const float> gradients);
  /// Works on it, for about as long as so many keys take; nothing if there is more to be done. All that can
  /// be refused is, before the first row changes; an error ends the push.
  Result<std::optional<PushReceipt>> go_on_with_push(std::size_t keys);
  /// keep() likewise, to be gone on with as a push is; the receipt's `applied` says whether it is kept.
  void begin_keep(const PushHeader& header, const RowKeys& keys, std::span<const float> gradients);
  /// Keys of all the pushes together that the order takes and that are kept here.
  std::uint64_t keys_of(const StepOrder& order) const;
  /// carry_out() likewise. Precondition: nothing is begun.
  void begin_order(const StepOrder& order);
  /// True: it has been carried out. An error ends it.
  Result<bool> go_on_with_order(std::size_t keys);

  ShardStats stats() const;
  /// Forgets a worker's sequences, when it has left for good and no push of it can still arrive.
  void forget_worker(std::uint64_t worker);

  std::uint64_t row_count() const;
  const RowLayout& layout() const;
  /// Copies of rows, a page at a time: see RowStore::extract().
  Result<ExtractPage> extract(const SlotSet& slots, std::uint64_t cursor, std::uint64_t most,
                              RowBatch& into) const;
  /// Makes or overwrites whole rows: see RowStore::insert().
  Result<void> insert(const RowBatch& rows);

  // What checkpoints and moves of slots read and write.

  const SlotGroups& groups() const;
  /// Adds to what is known of these groups' pushes.
  void merge_windows(GroupMask groups, std::uint64_t worker, const SequenceWindow& window);
  /// Raises version() to `version` if it is below.
  void raise_version(std::uint64_t version);
  /// A cut of the rows as they are now, to be read in pages while pulls and pushes go on: see RowStore.
  Result<std::uint64_t> open_cut();
  Result<ExtractPage> read_cut(std::uint64_t cursor, std::uint64_t most, RowBatch& into);
  void close_cut();

 private:
  struct State;
  explicit TableShard(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace troupe::shards
