#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <troupe/actors/table_wire.hpp>
#include <troupe/rpc/methods.hpp>
#include <troupe/runtime/memory_pool.hpp>
#include <troupe/shards/clock_policy.hpp>
#include <troupe/shards/table_shard.hpp>

namespace troupe {

class DiskThread;
class Node;
class TableWork;

/// One server of parameter shards: number `index` of `count`. It owns, of each table, the slots that the
/// table's route gives to it, or a balanced SlotMap to its index where there is no route yet. The state of a
/// named actor: one loop, no locks.
///
/// The first server of a table's route decides for it: it hands out the route, counts workers and their
/// clocks, and says which pushes make a step.
class ShardServer {
 public:
  /// `node`, on which it lives, tells of deaths of workers: their clocks then hold nobody back. Tables may
  /// have the optimizers that are `known`. Where the rows of each lie is `make_store`'s choice, which is
  /// called on any thread: shards::make_device_stores() has them in the memory of a GPU.
  ShardServer(std::uint32_t index, std::uint32_t count, Node& node,
              shards::OptimizerList known = shards::builtin_optimizers(),
              shards::MakeRowStore make_store = shards::make_host_store);
  ~ShardServer();
  ShardServer(const ShardServer&) = delete;
  ShardServer& operator=(const ShardServer&) = delete;
  static void methods(rpc::Methods<ShardServer>& methods);

  // ---- Tables, and where they lie

  /// Opens a table (`spec`: TableSpec::to_json()) on `servers`, of which this is to be the first: it then
  /// decides for the table. Makes what is not there yet. kFailedPrecondition: it exists with another spec, or
  /// on other servers.
  rpc::Future<TableEntry> open_table(const rpc::CallContext& context, const std::string& spec,
                                     const std::vector<std::string>& servers);
  /// Makes this server's shard of a table, number `place` of the route's servers, if it is not there, and
  /// takes the route if it is newer than the one it has; returns the shard's generation. A server that has no
  /// place in the route any more (UINT32_MAX) answers with it. kFailedPrecondition: it exists with another
  /// spec, or without slots that the route gives to it.
  rpc::Future<std::uint64_t> host_table(const rpc::CallContext& context, const std::string& spec,
                                        const TableRoute& route, std::uint32_t place);
  /// Makes this server's shard of a table without a route. A table that exists already with an equal spec is
  /// left as it is. kFailedPrecondition: it exists with another spec. The rows of a large dense one are made
  /// on another thread.
  rpc::Future<void> create_table(const rpc::CallContext& context, const std::string& spec);
  /// At the decider: gives the table this route, whose version is to be the one after the present one, and
  /// tells the servers of both. They have the rows already: nothing is moved.
  rpc::Future<void> change_route(const rpc::CallContext& context, const std::string& table,
                                 const TableRoute& route);
  /// At the decider.
  Result<TableRoute> route(const std::string& table) const;

  // ---- Workers, at the decider; kNotFound elsewhere

  /// Announces a worker to the table; returns the clock at which it begins. `node_id` is where it lives.
  /// Idempotent.
  Result<std::uint64_t> join_worker(const std::string& table, std::uint64_t worker, std::uint64_t node_id);
  /// The worker has finished or left: it holds nobody back.
  Result<void> leave_worker(const std::string& table, std::uint64_t worker);
  /// The worker has reached `clock` without pulling.
  Result<void> advance(const std::string& table, const WorkerClock& clock);
  /// In rounds: all shards have been given the worker's push for the round of its clock. Answered when what
  /// is decided of it has been carried out by all of them.
  rpc::Future<shards::Verdict> offer(const rpc::CallContext& context, const std::string& table,
                                     const OfferHead& head);
  /// What the decider has ordered; any shard of the table.
  rpc::Future<void> carry_out(const rpc::CallContext& context, const std::string& table,
                              const shards::StepOrder& order);

  // ---- Rows. What is asked of one table is done in the order in which it comes. More than 4 MiB of rows are
  // worked on in slices, between which the loop does other things, and this table nothing else.
  //
  // `keys` is uint64 [n], or, of a dense table, uint64 [ranges, 2]: the first row of each range and how many,
  // ascending, no row in two of them. Rows and gradients are those of all ranges, one after the other.
  // kInvalidArgument for ranges that cannot be; kResourceExhausted for more than 64 MiB of rows to be
  // answered.

  /// Rows of `keys`, [n, dim], float32 or, if the head allows it, in the table's type. At the decider the
  /// answer waits until the worker may go on; one that joined none of it (0) never waits.
  rpc::Future<PullReply> pull(const rpc::CallContext& context, const std::string& table, const Tensor& keys,
                              const PullHead& head);
  /// As they are, for evaluation: makes no rows, counts nothing, waits for nobody.
  rpc::Future<PullReply> peek(const rpc::CallContext& context, const std::string& table, const Tensor& keys,
                              const PullHead& head);
  /// One optimizer step with gradients [n, dim], float32 or of the table's type; a table in rounds keeps them
  /// for one.
  rpc::Future<PushReply> push(const rpc::CallContext& context, const std::string& table, const Tensor& keys,
                              const Tensor& gradients, const PushHead& head);
  /// kFailedPrecondition for a table in rounds: its push ends later.
  rpc::Future<PushPullReply> push_pull(const rpc::CallContext& context, const std::string& table,
                                       const Tensor& keys, const Tensor& gradients, const PushHead& head,
                                       const Tensor& pull_keys);

  /// peek() and push() for callers whose arguments are numbers and tensors, as those of CAF are: without
  /// route, generation and clock. Returns the rows; whether the push was applied, and not before.
  rpc::Future<Tensor> peek_rows(const rpc::CallContext& context, const std::string& table,
                                const Tensor& keys);
  rpc::Future<bool> push_rows(const rpc::CallContext& context, const std::string& table, const Tensor& keys,
                              const Tensor& gradients, std::uint64_t worker, std::uint64_t sequence);

  /// Writes this server's part of a checkpoint of the named tables into `folder`, as they are now; returns
  /// the FileEntry of each file as JSON, for the manifest. Rows are copied a page at a time between other
  /// calls and written by another thread. It ends at the call's deadline, whatever the disk does, and is then
  /// given up: its caller has to give it the time that the disk needs. kFailedPrecondition while another save
  /// or restore is under way, or while the disk has not given back what one wrote that was given up.
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
    Table(shards::TableShard table_shard, Loop& loop);
    ~Table();
    shards::TableShard shard;
    std::unique_ptr<TableWork> work;
    TableRoute route;              // version 0: none
    std::uint64_t generation = 0;  // see PullReply
    std::map<std::string, CallerTimes, std::less<>> callers;
  };
  /// Of a table whose first server this is.
  struct Deciding;

  using Tables = std::map<std::string, std::unique_ptr<Table>>;
  struct Restored;
  class Shore;
  /// A table whose rows another thread makes, and who waits for it.
  struct Making {
    shards::TableSpec spec;
    std::vector<rpc::Promise<void>> waiting;
  };
  class Saving;
  Result<void> check_idle() const;
  /// Runs `work`, which returns a Result, on the other thread, and then `then` with it on the loop, unless
  /// this server has gone. Neither may own what belongs to the loop, and `work` must need nothing of this: it
  /// may still be waiting for the disk when this has gone.
  template <class Body, class Then>
  void on_disk(Body work, Then then);
  void drop(Tables tables);
  /// What waits for them: goes on the loop, last, because who is told of it may do anything.
  static std::vector<std::unique_ptr<TableWork>> take_work(Tables& tables);
  void put_in_place(Restored restored);

  Result<Table*> find(const std::string& table);
  rpc::Future<void> make_if_missing(const rpc::CallContext& context, const shards::TableSpec& spec,
                                    shards::SlotSet slots);
  Result<std::uint64_t> take_route(const std::string& name, const TableRoute& route, std::uint32_t place);
  /// Tells all of them the route; `last` has their generations, or the first error.
  void host_all(const std::string& spec, const TableRoute& route, const std::vector<std::string>& servers,
                TimePoint deadline, const std::function<void(Result<std::vector<std::uint64_t>>)>& last);
  /// Who calls its clocks holds it: whom they let go on may do anything, also end this server.
  Result<std::shared_ptr<Deciding>> find_deciding(const std::string& table) const;
  /// Has the table's next order carried out, if there is one and none is under way.
  void give_orders(const std::string& table);

  /// The present route, if the request's is an older one.
  static std::optional<TableRoute> newer_route(const Table& table, std::uint64_t version);
  /// Why a push is not taken, if it is not.
  static std::optional<PushReply> refuse(const Table& table, const PushHead& head);
  /// Its rows are there when `later` is done; so with all that answer rows.
  Result<PullReply> read_rows(Table& table, const Tensor& keys, const PullHead& head,
                              shards::Completion& later);
  /// The same, as work done for a caller, who waited so long.
  Result<PullReply> read_for(Table& table, rpc::SessionId caller, std::uint64_t waited_ns, const Tensor& keys,
                             const PullHead& head, shards::Completion& later);
  // The same at once.
  Result<PullReply> peek_now(const std::string& table, const Tensor& keys, const PullHead& head,
                             shards::Completion& later);
  Result<PushReply> push_now(const rpc::CallContext& context, const std::string& table, const Tensor& keys,
                             const Tensor& gradients, const PushHead& head);
  Result<PushPullReply> push_pull_now(const rpc::CallContext& context, const std::string& table,
                                      const Tensor& keys, const Tensor& gradients, const PushHead& head,
                                      const Tensor& pull_keys, shards::Completion& later);
  /// read_for() when it is its turn, in slices if there are many; `then` may do anything.
  void read_then(Table& table, rpc::SessionId caller, std::uint64_t waited_ns, const Tensor& keys,
                 const PullHead& head, UniqueFunction<void(Result<PullReply>)> then);
  /// `call`, which takes when its rows are there and returns a Result<Reply>, when it is the table's turn.
  template <class Reply, class Call>
  rpc::Future<Reply> in_turn(Table& table, const rpc::CallContext& context, Call call);
  class Slices;
  /// Null once too many names have called.
  CallerTimes* times_of(Table& table, rpc::SessionId caller) const;
  class Work;
  void node_gone(std::uint64_t node_id);

  std::uint32_t index_;
  std::uint32_t count_;
  Node& node_;
  std::uint64_t watch_ = 0;
  std::uint64_t metrics_ = 0;  // its place in the node's metrics
  MemoryPool pool_;
  // The keys of the handler that runs, copied: see copy_keys().
  shards::RowKeyList pulled_keys_;
  shards::RowKeyList pushed_keys_;
  const std::shared_ptr<Shore> shore_;
  std::uint64_t generation_;  // of tables that are made or restored now
  Tables tables_;
  std::map<std::string, std::shared_ptr<Deciding>> deciding_;
  std::map<std::string, Making> making_;
  std::unique_ptr<Saving> saving_;
  std::optional<rpc::Promise<std::uint64_t>> restoring_;
  std::shared_ptr<int> alive_ = std::make_shared<int>();  // who comes back from the other thread looks at it
  std::unique_ptr<DiskThread> disk_;                      // goes first
};

}  // namespace troupe
