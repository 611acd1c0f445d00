#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include <troupe/rpc/methods.hpp>
#include <troupe/runtime/memory_pool.hpp>
#include <troupe/shards/staleness_gate.hpp>
#include <troupe/shards/table_shard.hpp>

namespace troupe {

class DiskThread;
class Node;

/// Rows that were pulled, and the version of the shard they show.
struct PullReply {
  Tensor rows;  ///< float32 [keys, dim]
  std::uint64_t version = 0;
};

struct PushReply {
  std::uint64_t version = 0;
  std::uint64_t staleness = 0;  ///< pushes of others between this worker's pull and this push
  bool applied = false;         ///< false: a repeat of a push that had been applied
};

struct PushPullReply {
  PushReply push;
  PullReply pull;
};

/// What a shard server has done for one node, on one of its tables: where that node's waiting went.
struct CallerTimes {
  std::string node;            ///< its name
  std::uint64_t bound_ns = 0;  ///< its pulls waited at the staleness bound
  std::uint64_t work_ns = 0;   ///< rows were read and stepped for it
};

/// What a shard server says of one of its tables.
struct TableStats {
  std::string table;
  std::uint64_t rows = 0, bytes = 0, version = 0, pulls = 0, pushes = 0, pulled_keys = 0, pushed_keys = 0;
  std::uint64_t repeated_pushes = 0, rejected_pushes = 0;
  std::uint64_t deferred_pulls = 0;             ///< pulls that waited at the staleness bound
  std::uint64_t deferred_ns = 0;                ///< how long they waited, together
  std::vector<std::uint64_t> staleness_counts;  ///< as of shards::StalenessHistogram, without trailing zeros
  std::uint64_t staleness_sum = 0, staleness_maximum = 0;
  std::vector<CallerTimes> callers;  ///< of pulls and pushes, by name
};

/// Who asks for rows, where in its work, for tables of bounded staleness: a worker at `clock` has finished
/// all its batches below it.
struct WorkerClock {
  std::uint64_t worker = 0;
  std::uint64_t clock = 0;
};

/// One server of parameter shards: number `index` of `count`. It owns, of each table, the slots that a
/// balanced SlotMap gives to its index. The state of a named actor: one loop, no locks.
class ShardServer {
 public:
  /// `node`, on which it lives, tells of deaths of workers: their clocks then hold nobody back. Tables may
  /// have the optimizers that are `known`.
  ShardServer(std::uint32_t index, std::uint32_t count, Node& node,
              shards::OptimizerList known = shards::builtin_optimizers());
  ~ShardServer();
  ShardServer(const ShardServer&) = delete;
  ShardServer& operator=(const ShardServer&) = delete;
  static void methods(rpc::Methods<ShardServer>& methods);

  /// Makes this server's shard of a table (`spec`: TableSpec::to_json()). A table that exists already
  /// with an equal spec is left as it is. kFailedPrecondition: it exists with another spec. The rows of a
  /// large dense one are made on another thread.
  rpc::Future<void> create_table(const rpc::CallContext& context, const std::string& spec);
  /// Announces a worker to a table of bounded staleness; returns the clock at which it begins. `node_id`
  /// is where it lives. Idempotent.
  Result<std::uint64_t> join_worker(const std::string& table, std::uint64_t worker, std::uint64_t node_id);
  /// The worker has finished or left: it holds nobody back.
  Result<void> leave_worker(const std::string& table, std::uint64_t worker);
  /// The worker has reached `clock` without pulling from this shard.
  Result<void> advance(const std::string& table, const WorkerClock& clock);

  /// Rows of `keys` (uint64 [n]). With bounded staleness the answer waits until the worker may go on;
  /// a worker that joined none of it (0) never waits.
  rpc::Future<PullReply> pull(const rpc::CallContext& context, const std::string& table, const Tensor& keys,
                              const WorkerClock& clock);
  /// As they are, for evaluation: makes no rows, counts nothing, waits for nobody.
  Result<PullReply> peek(const std::string& table, const Tensor& keys);
  /// One optimizer step with gradients float32 [n, dim].
  Result<PushReply> push(const rpc::CallContext& context, const std::string& table, const Tensor& keys,
                         const Tensor& gradients, std::uint64_t worker, std::uint64_t clock,
                         std::uint64_t sequence, std::uint64_t pulled_version);
  Result<PushPullReply> push_pull(const rpc::CallContext& context, const std::string& table,
                                  const Tensor& keys, const Tensor& gradients, std::uint64_t worker,
                                  std::uint64_t clock, std::uint64_t sequence, std::uint64_t pulled_version,
                                  const Tensor& pull_keys);

  /// Writes this server's part of a checkpoint of the named tables into `folder`, as they are now; returns
  /// the FileEntry of each file as JSON, for the manifest. Rows are copied a page at a time between other
  /// calls and written by another thread. kFailedPrecondition while another save or restore is under way.
  rpc::Future<std::vector<std::string>> save(const rpc::CallContext& context, const std::string& folder,
                                             const std::vector<std::string>& tables);
  /// Makes all tables of a checkpoint anew with this server's rows in them, on another thread, and then puts
  /// them in place of those that are there; returns how many rows. kFailedPrecondition as save().
  rpc::Future<std::uint64_t> restore(const rpc::CallContext& context, const std::string& folder);
  /// The same at once, for a server that nobody calls yet.
  Result<std::uint64_t> restore_now(const std::string& folder);
  std::vector<TableStats> stats() const;
  std::vector<std::string> table_specs() const;

 private:
  struct Table {
    explicit Table(shards::TableShard table_shard) : shard(std::move(table_shard)) {}
    shards::TableShard shard;
    /// Bounded staleness only. Who calls it holds it: whom it lets go on may have the table replaced.
    std::shared_ptr<shards::StalenessGate> gate;
    std::uint64_t deferred_ns = 0;
    std::map<std::uint64_t, std::uint64_t> worker_nodes;  // worker -> node id
    std::map<std::string, CallerTimes, std::less<>> callers;
  };

  using Tables = std::map<std::string, std::unique_ptr<Table>>;
  /// Tables of a checkpoint.
  struct Restored {
    Tables tables;
    std::uint64_t rows = 0;
  };
  /// A table whose rows another thread makes, and who waits for it.
  struct Making {
    shards::TableSpec spec;
    std::vector<rpc::Promise<void>> waiting;
  };
  class Saving;
  Result<Restored> read_checkpoint(const std::string& folder) const;
  Result<void> check_idle() const;
  /// Runs `work`, which returns a Result, on the other thread, and then `then` with it on the loop, unless
  /// this server has gone. Neither may own what belongs to the loop.
  template <class Body, class Then>
  void on_disk(Body work, Then then);
  void drop(Tables tables);
  static std::vector<std::shared_ptr<shards::StalenessGate>> take_gates(Tables& tables);

  Result<Table*> find(const std::string& table);
  Result<std::unique_ptr<Table>> make_table(const shards::TableSpec& spec) const;
  Result<PullReply> read_rows(Table& table, const Tensor& keys);
  /// The same, as work done for a caller.
  Result<PullReply> read_for(Table& table, CallerTimes* times, const Tensor& keys);
  /// Null once too many names have called.
  CallerTimes* times_of(Table& table, const rpc::CallContext& context) const;
  class Work;
  void node_gone(std::uint64_t node_id);

  std::uint32_t index_;
  std::uint32_t count_;
  Node& node_;
  std::uint64_t watch_ = 0;
  std::uint64_t metrics_ = 0;  // its place in the node's metrics
  MemoryPool pool_;
  // The keys of the handler that runs, copied: see copy_keys().
  std::vector<std::uint64_t> pulled_keys_;
  std::vector<std::uint64_t> pushed_keys_;
  const shards::OptimizerList known_;
  Tables tables_;
  std::map<std::string, Making> making_;
  std::unique_ptr<Saving> saving_;
  std::optional<rpc::Promise<std::uint64_t>> restoring_;
  std::shared_ptr<int> alive_ = std::make_shared<int>();  // who comes back from the other thread looks at it
  std::unique_ptr<DiskThread> disk_;                      // goes first
};

}  // namespace troupe

template <>
struct troupe::rpc::Fields<troupe::CallerTimes> {
  static constexpr std::string_view name = "CallerTimes";
  static constexpr auto fields =
      std::tuple(&troupe::CallerTimes::node, &troupe::CallerTimes::bound_ns, &troupe::CallerTimes::work_ns);
};
template <>
struct troupe::rpc::Fields<troupe::PullReply> {
  static constexpr std::string_view name = "PullReply";
  static constexpr auto fields = std::tuple(&troupe::PullReply::rows, &troupe::PullReply::version);
};
template <>
struct troupe::rpc::Fields<troupe::PushReply> {
  static constexpr std::string_view name = "PushReply";
  static constexpr auto fields =
      std::tuple(&troupe::PushReply::version, &troupe::PushReply::staleness, &troupe::PushReply::applied);
};
template <>
struct troupe::rpc::Fields<troupe::PushPullReply> {
  static constexpr std::string_view name = "PushPullReply";
  static constexpr auto fields = std::tuple(&troupe::PushPullReply::push, &troupe::PushPullReply::pull);
};
template <>
struct troupe::rpc::Fields<troupe::WorkerClock> {
  static constexpr std::string_view name = "WorkerClock";
  static constexpr auto fields = std::tuple(&troupe::WorkerClock::worker, &troupe::WorkerClock::clock);
};
template <>
struct troupe::rpc::Fields<troupe::TableStats> {
  using T = troupe::TableStats;
  static constexpr std::string_view name = "TableStats";
  static constexpr auto fields = std::tuple(
      &T::table, &T::rows, &T::bytes, &T::version, &T::pulls, &T::pushes, &T::pulled_keys, &T::pushed_keys,
      &T::repeated_pushes, &T::rejected_pushes, &T::deferred_pulls, &T::deferred_ns, &T::staleness_counts,
      &T::staleness_sum, &T::staleness_maximum, &T::callers);
};
