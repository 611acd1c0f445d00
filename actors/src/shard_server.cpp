#include <troupe/actors/shard_server.hpp>

#include <algorithm>
#include <utility>

#include <troupe/actors/node.hpp>
#include <troupe/actors/node_metrics.hpp>

#include "disk_thread.hpp"
#include "shard_deciding.hpp"
#include "shard_rows.hpp"
#include "shard_saving.hpp"
#include "table_work.hpp"

namespace troupe {

namespace {

/// A server's generations begin with its node's id, of which no two lives have the same.
constexpr unsigned kRestoreBits = 20;

/// Names of callers of which a table keeps times.
constexpr std::size_t kMaxCallers = 4096;

}  // namespace

ShardServer::ShardServer(std::uint32_t index, std::uint32_t count, Node& node, shards::OptimizerList known,
                         shards::MakeRowStore make_store)
    : index_(index),
      count_(count),
      node_(node),
      shore_(std::make_shared<Shore>(*this, std::move(known), std::move(make_store))),
      generation_(node.id() << kRestoreBits),
      disk_(std::make_unique<DiskThread>()) {
  watch_ = node_.watch([this](const MembershipChange& change) {
    if (change.event == MembershipEvent::kDied || change.event == MembershipEvent::kLeft)
      node_gone(change.member.node_id);
  });
  metrics_ = node_.metrics().add([this] { return stats(); });
}

ShardServer::~ShardServer() {
  node_.metrics().remove(metrics_);
  node_.unwatch(watch_);
  shore_->leave();
  alive_.reset();
  const auto waiting = take_work(tables_);
  for (const auto& [name, deciding] : std::exchange(deciding_, {})) deciding->close();
}

void ShardServer::methods(rpc::Methods<ShardServer>& methods) {
  methods.add("open_table", &ShardServer::open_table)
      .add("host_table", &ShardServer::host_table)
      .add("create_table", &ShardServer::create_table)
      .add("change_route", &ShardServer::change_route)
      .add("route", &ShardServer::route)
      .add("join_worker", &ShardServer::join_worker)
      .add("leave_worker", &ShardServer::leave_worker)
      .add("advance", &ShardServer::advance)
      .add("offer", &ShardServer::offer)
      .add("carry_out", &ShardServer::carry_out)
      .add("pull", &ShardServer::pull)
      .add("peek", &ShardServer::peek)
      .add("peek_rows", &ShardServer::peek_rows)
      .add("push", &ShardServer::push)
      .add("push_rows", &ShardServer::push_rows)
      .add("push_pull", &ShardServer::push_pull)
      .add("save", &ShardServer::save)
      .add("restore", &ShardServer::restore)
      .add("stats", &ShardServer::stats)
      .add("table_specs", &ShardServer::table_specs);
}

// ---- Tables -------------------------------------------------------------------------------------

Result<ShardServer::Table*> ShardServer::find(const std::string& table) {
  const auto found = tables_.find(table);
  if (found != tables_.end()) return found->second.get();
  std::string there;
  for (const auto& [name, unused] : tables_) (there += there.empty() ? "" : ", ") += name;
  return Error{Code::kNotFound,
               "no table is named '" + table + "'" + (there.empty() ? "" : "; there are: " + there)};
}

// ---- Rows ---------------------------------------------------------------------------------------

CallerTimes* ShardServer::times_of(Table& table, rpc::SessionId session) const {
  const rpc::Peer* peer = node_.endpoint().peer(session);
  const std::string& caller = peer ? peer->node_name : node_.name();
  auto found = table.callers.find(caller);
  if (found != table.callers.end()) return &found->second;
  if (table.callers.size() >= kMaxCallers) return nullptr;
  return &table.callers.emplace(caller, CallerTimes{.node = caller}).first->second;
}

std::optional<TableRoute> ShardServer::newer_route(const Table& table, std::uint64_t version) {
  if (version == 0 || version >= table.route.version) return {};
  return table.route;
}

std::optional<PushReply> ShardServer::refuse(const Table& table, const PushHead& head) {
  PushReply reply{.version = table.shard.version(), .generation = table.generation, .route = {}};
  if (head.generation != 0 && head.generation != table.generation) {
    reply.outcome = PushOutcome::kOtherGeneration;
    return reply;
  }
  reply.route = newer_route(table, head.route);
  if (!reply.route) return {};
  reply.outcome = PushOutcome::kOtherRoute;
  return reply;
}

Result<PullReply> ShardServer::read_rows(Table& table, const Tensor& keys, const PullHead& head,
                                         shards::Completion& later) {
  PullReply reply{.rows = {}, .generation = table.generation, .route = newer_route(table, head.route)};
  if (reply.route) {
    reply.rows = rows_for(0, table.shard, node_, pool_);
    return reply;
  }
  auto wanted = copy_wanted(table.shard.spec(), keys, pulled_keys_);
  if (!wanted) return wanted.error();
  reply.rows = rows_for(wanted->size(), table.shard, node_, pool_, head.as_kept);
  auto receipt = table.shard.pull(*wanted, rows_out(reply.rows), &later);
  if (!receipt) return receipt.error();
  reply.version = receipt->version;
  return reply;
}

Result<PullReply> ShardServer::read_for(Table& table, rpc::SessionId caller, std::uint64_t waited_ns,
                                        const Tensor& keys, const PullHead& head, shards::Completion& later) {
  CallerTimes* const times = times_of(table, caller);
  if (times) times->bound_ns += waited_ns;
  const Work work(*this, times);
  return read_rows(table, keys, head, later);
}

rpc::Future<PullReply> ShardServer::pull(const rpc::CallContext& context, const std::string& name,
                                         const Tensor& named, const PullHead& head) {
  const Tensor keys = own_ranges(named);
  rpc::Promise<PullReply> promise(node_.loop(), context.deadline);
  auto future = promise.future();
  auto table = find(name);
  const auto deciding = deciding_.find(name);
  if (!table) {
    promise.set(table.error());
  } else if (head.clock.worker == 0 || deciding == deciding_.end()) {
    read_then(
        **table, context.session, 0, keys, head,
        [promise = std::move(promise)](Result<PullReply> reply) mutable { promise.set(std::move(reply)); });
  } else {
    const std::shared_ptr<Deciding> at = deciding->second;
    const std::weak_ptr<int> alive = alive_;
    // Dropped if the worker leaves or dies, or the table goes; the promise then says kCancelled. A restore
    // may put other rows in place of these meanwhile.
    auto waiting =
        at->clocks.wait(head.clock.worker, head.clock.clock,
                        [this, of = std::weak_ptr(at), name, keys, head, session = context.session,
                         since = node_.loop().clock().now(), promise = std::move(promise)]() mutable {
                          const std::uint64_t waited = nanoseconds(node_.loop().clock().now() - since);
                          const auto own = of.lock();
                          auto present = find(name);
                          if (!own || !present) return;
                          own->deferred_ns += waited;
                          read_then(**present, session, waited, keys, head,
                                    [own, promise = std::move(promise)](Result<PullReply> reply) mutable {
                                      if (reply) reply->open_clock = own->clocks.open_clock();
                                      promise.set(std::move(reply));  // last: it may do anything
                                    });
                        });
    if (!waiting) {
      rpc::Promise<PullReply> refused(node_.loop(), context.deadline);
      future = refused.future();
      refused.set(waiting.error());
    }
    if (!alive.expired()) give_orders(name);  // of a round that had waited for the worker's clock
  }
  return future;
}

Result<PullReply> ShardServer::peek_now(const std::string& table_name, const Tensor& keys,
                                        const PullHead& head, shards::Completion& later) {
  auto table = find(table_name);
  if (!table) return table.error();
  auto& shard = (*table)->shard;
  PullReply reply{.rows = {}, .generation = (*table)->generation, .route = newer_route(**table, head.route)};
  auto wanted = copy_wanted(shard.spec(), keys, pulled_keys_);
  if (!wanted) return wanted.error();
  if (reply.route) *wanted = {};
  reply.rows = rows_for(wanted->size(), shard, node_, pool_, head.as_kept);
  auto receipt = shard.peek(*wanted, rows_out(reply.rows), &later);
  if (!receipt) return receipt.error();
  reply.version = receipt->version;
  return reply;
}

Result<PushReply> ShardServer::push_now(const rpc::CallContext& context, const std::string& table_name,
                                        const Tensor& keys, const Tensor& gradients, const PushHead& head) {
  auto table = find(table_name);
  if (!table) return table.error();
  if (auto refused = refuse(**table, head)) return *refused;
  auto pushed = copy_keys((*table)->shard.spec(), keys, pushed_keys_);
  if (!pushed) return pushed.error();
  shards::TableShard& shard = (*table)->shard;
  auto values = gradients_of(shard.spec(), gradients);
  if (!values) return values.error();
  const Work work(*this, times_of(**table, context.session));
  const Tensor floats = wide(*values, pool_);
  if (shards::in_rounds(shard.spec().consistency)) {
    auto kept = shard.keep(header_of(head), *pushed, floats.as<const float>());
    if (!kept) return kept.error();
    return PushReply{
        *kept ? PushOutcome::kKept : PushOutcome::kRepeated, shard.version(), 0, (*table)->generation, {}};
  }
  auto receipt = shard.push(header_of(head), *pushed, floats.as<const float>());
  if (!receipt) return receipt.error();
  return to_reply(*receipt, (*table)->generation);
}

Result<PushPullReply> ShardServer::push_pull_now(const rpc::CallContext& context,
                                                 const std::string& table_name, const Tensor& keys,
                                                 const Tensor& gradients, const PushHead& head,
                                                 const Tensor& pull_keys, shards::Completion& later) {
  auto table = find(table_name);
  if (!table) return table.error();
  shards::TableShard& shard = (*table)->shard;
  PushPullReply reply;
  reply.pull.generation = (*table)->generation;
  if (auto refused = refuse(**table, head)) {
    reply.push = *refused;
    reply.pull.rows = rows_for(0, shard, node_, pool_);
    return reply;
  }
  if (shards::in_rounds(shard.spec().consistency))
    return Error{Code::kFailedPrecondition,
                 "table '" + table_name + "' makes its steps in rounds: push, and pull when it has ended"};
  auto pushed = copy_keys(shard.spec(), keys, pushed_keys_);
  if (!pushed) return pushed.error();
  auto pulled = copy_wanted(shard.spec(), pull_keys, pulled_keys_);
  if (!pulled) return pulled.error();
  auto values = gradients_of(shard.spec(), gradients);
  if (!values) return values.error();
  reply.pull.rows = rows_for(pulled->size(), shard, node_, pool_, head.as_kept);
  const Work work(*this, times_of(**table, context.session));
  const Tensor floats = wide(*values, pool_);
  auto receipt = shard.push_pull(header_of(head), *pushed, floats.as<const float>(), *pulled,
                                 rows_out(reply.pull.rows), &later);
  if (!receipt) return receipt.error();
  reply.push = to_reply(receipt->push, (*table)->generation);
  reply.pull.version = receipt->pull.version;
  return reply;
}

rpc::Future<Tensor> ShardServer::peek_rows(const rpc::CallContext& context, const std::string& table,
                                           const Tensor& keys) {
  return peek(context, table, keys, {}).then([](Result<PullReply> reply) -> Result<Tensor> {
    if (!reply) return reply.error();
    return std::move(reply->rows);
  });
}

rpc::Future<bool> ShardServer::push_rows(const rpc::CallContext& context, const std::string& table,
                                         const Tensor& keys, const Tensor& gradients, std::uint64_t worker,
                                         std::uint64_t sequence) {
  PushHead head;
  head.clock.worker = worker;
  head.sequence = sequence;
  return push(context, table, keys, gradients, head).then([](const Result<PushReply>& reply) -> Result<bool> {
    if (!reply) return reply.error();
    return reply->outcome == PushOutcome::kApplied;
  });
}

// ---- What is there ------------------------------------------------------------------------------

std::vector<TableStats> ShardServer::stats() const {
  std::vector<TableStats> all;
  for (const auto& [name, table] : tables_) {
    const shards::ShardStats stats = table->shard.stats();
    TableStats out;
    out.table = name;
    out.rows = stats.rows, out.bytes = stats.bytes, out.version = stats.version;
    out.pulls = stats.pulls, out.pushes = stats.pushes;
    out.pulled_keys = stats.pulled_keys, out.pushed_keys = stats.pushed_keys;
    out.repeated_pushes = stats.repeated_pushes, out.rejected_pushes = stats.rejected_pushes;
    if (const auto deciding = deciding_.find(name); deciding != deciding_.end()) {
      out.deferred_pulls = deciding->second->clocks.deferred();
      out.deferred_ns = deciding->second->deferred_ns;
    }
    const auto counts = stats.staleness.counts();
    out.staleness_counts.assign(counts.begin(), counts.end());
    while (!out.staleness_counts.empty() && out.staleness_counts.back() == 0) out.staleness_counts.pop_back();
    out.staleness_sum = stats.staleness.sum(), out.staleness_maximum = stats.staleness.maximum();
    for (const auto& [caller, times] : table->callers) out.callers.push_back(times);
    all.push_back(std::move(out));
  }
  return all;
}

std::vector<std::string> ShardServer::table_specs() const {
  std::vector<std::string> specs;
  for (const auto& [name, table] : tables_) specs.push_back(table->shard.spec().to_json());
  return specs;
}

}  // namespace troupe
