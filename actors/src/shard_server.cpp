#include <troupe/actors/shard_server.hpp>

#include <algorithm>
#include <utility>

#include <troupe/actors/node.hpp>
#include <troupe/actors/node_metrics.hpp>

#include "disk_thread.hpp"
#include "shard_saving.hpp"

namespace troupe {

namespace {

/// A copy of a list of keys in `scratch`. What came as an argument may lie in memory that its sender can
/// still write: keys decide which memory is touched, and are looked at more than once.
Result<std::span<const std::uint64_t>> copy_keys(const Tensor& keys, std::vector<std::uint64_t>& scratch) {
  if (keys.dtype() != DType::kUInt64 || keys.rank() != 1 || keys.device().kind == MemoryKind::kDevice)
    return Error{Code::kInvalidArgument,
                 "keys are to be a uint64 tensor of one dimension in host memory, not " + keys.to_string()};
  const Tensor contiguous = keys.contiguous();
  const std::span from = contiguous.as<const std::uint64_t>();
  if (scratch.size() < from.size()) scratch.resize(from.size());
  std::copy(from.begin(), from.end(), scratch.begin());
  return std::span<const std::uint64_t>(scratch.data(), from.size());
}

/// The gradients as they lie; they are numbers only.
Result<Tensor> gradients_of(const Tensor& gradients) {
  if (gradients.dtype() != DType::kFloat32 || gradients.device().kind == MemoryKind::kDevice)
    return Error{Code::kInvalidArgument,
                 "gradients are to be a float32 tensor in host memory, not " + gradients.to_string()};
  return gradients.contiguous();
}

/// Names of callers of which a table keeps times.
constexpr std::size_t kMaxCallers = 4096;

std::uint64_t nanoseconds(Duration duration) {
  return static_cast<std::uint64_t>(duration.count());
}

PushReply to_reply(const shards::PushReceipt& receipt) {
  return {receipt.version, receipt.staleness, receipt.applied};
}

}  // namespace

/// Counts the time of its own life as work done for a caller.
class ShardServer::Work {
 public:
  Work(const ShardServer& server, CallerTimes* times)
      : clock_(server.node_.loop().clock()), times_(times), begun_(clock_.now()) {}
  ~Work() {
    if (times_) times_->work_ns += nanoseconds(clock_.now() - begun_);
  }
  Work(const Work&) = delete;
  Work& operator=(const Work&) = delete;

 private:
  Clock& clock_;
  CallerTimes* times_;
  TimePoint begun_;
};

ShardServer::ShardServer(std::uint32_t index, std::uint32_t count, Node& node, shards::OptimizerList known)
    : index_(index),
      count_(count),
      node_(node),
      known_(std::move(known)),
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
  for (const auto& gate : take_gates(tables_)) gate->close();
}

void ShardServer::methods(rpc::Methods<ShardServer>& methods) {
  methods.add("create_table", &ShardServer::create_table)
      .add("join_worker", &ShardServer::join_worker)
      .add("leave_worker", &ShardServer::leave_worker)
      .add("advance", &ShardServer::advance)
      .add("pull", &ShardServer::pull)
      .add("peek", &ShardServer::peek)
      .add("push", &ShardServer::push)
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

// ---- Workers ------------------------------------------------------------------------------------

Result<std::uint64_t> ShardServer::join_worker(const std::string& table_name, std::uint64_t worker,
                                               std::uint64_t node_id) {
  auto table = find(table_name);
  if (!table) return table.error();
  shards::StalenessGate* gate = (*table)->gate.get();
  if (!gate) return std::uint64_t{0};
  const std::uint64_t clock = gate->join_clock();
  (*table)->worker_nodes[worker] = node_id;
  if (auto joined = gate->join(worker, clock); !joined && joined.error().code != Code::kAlreadyExists)
    return joined.error();
  return clock;
}

Result<void> ShardServer::leave_worker(const std::string& table_name, std::uint64_t worker) {
  auto table = find(table_name);
  if (!table) return table.error();
  (*table)->worker_nodes.erase(worker);
  if (const auto gate = (*table)->gate) gate->leave(worker);
  return {};
}

/// Whoever is let go on may put other tables in place of these, or end this server.
void ShardServer::node_gone(std::uint64_t node_id) {
  std::vector<std::pair<std::string, std::uint64_t>> gone;
  for (const auto& [name, table] : tables_)
    for (const auto& [worker, node] : table->worker_nodes)
      if (node == node_id) gone.emplace_back(name, worker);
  const std::weak_ptr<int> alive = alive_;
  for (const auto& [name, worker] : gone)
    if (!alive.expired()) (void)leave_worker(name, worker);
}

Result<void> ShardServer::advance(const std::string& table_name, const WorkerClock& clock) {
  auto table = find(table_name);
  if (!table) return table.error();
  const auto gate = (*table)->gate;
  return gate ? gate->advance(clock.worker, clock.clock) : Result<void>();
}

// ---- Rows ---------------------------------------------------------------------------------------

CallerTimes* ShardServer::times_of(Table& table, const rpc::CallContext& context) const {
  const rpc::Peer* peer = node_.endpoint().peer(context.session);
  const std::string& caller = peer ? peer->node_name : node_.name();
  auto found = table.callers.find(caller);
  if (found != table.callers.end()) return &found->second;
  if (table.callers.size() >= kMaxCallers) return nullptr;
  return &table.callers.emplace(caller, CallerTimes{.node = caller}).first->second;
}

Result<PullReply> ShardServer::read_rows(Table& table, const Tensor& keys) {
  auto wanted = copy_keys(keys, pulled_keys_);
  if (!wanted) return wanted.error();
  const auto dim = static_cast<std::int64_t>(table.shard.spec().dim);
  PullReply reply{Tensor::empty(DType::kFloat32, {static_cast<std::int64_t>(wanted->size()), dim}, &pool_),
                  0};
  auto receipt = table.shard.pull(*wanted, reply.rows.as<float>().data());
  if (!receipt) return receipt.error();
  reply.version = receipt->version;
  return reply;
}

Result<PullReply> ShardServer::read_for(Table& table, CallerTimes* times, const Tensor& keys) {
  const Work work(*this, times);
  return read_rows(table, keys);
}

rpc::Future<PullReply> ShardServer::pull(const rpc::CallContext& context, const std::string& table_name,
                                         const Tensor& keys, const WorkerClock& clock) {
  rpc::Promise<PullReply> promise(node_.loop(), context.deadline);
  auto future = promise.future();
  auto table = find(table_name);
  if (!table) {
    promise.set(table.error());
  } else if (const auto gate = (*table)->gate; gate && clock.worker != 0) {
    // The gate drops this if the worker leaves or dies, or the table goes; the promise then says kCancelled.
    auto waiting = gate->wait(clock.worker, clock.clock,
                              [this, at = *table, keys, times = times_of(**table, context),
                               since = node_.loop().clock().now(), promise = std::move(promise)]() mutable {
                                const std::uint64_t waited = nanoseconds(node_.loop().clock().now() - since);
                                at->deferred_ns += waited;
                                if (times) times->bound_ns += waited;
                                // Last, with the work done: the answer may have the table replaced.
                                promise.set(read_for(*at, times, keys));
                              });
    if (!waiting) {
      rpc::Promise<PullReply> refused(node_.loop(), context.deadline);
      future = refused.future();
      refused.set(waiting.error());
    }
  } else {
    promise.set(read_for(**table, times_of(**table, context), keys));
  }
  return future;
}

Result<PullReply> ShardServer::peek(const std::string& table_name, const Tensor& keys) {
  auto table = find(table_name);
  if (!table) return table.error();
  auto wanted = copy_keys(keys, pulled_keys_);
  if (!wanted) return wanted.error();
  const auto& shard = (*table)->shard;
  const auto dim = static_cast<std::int64_t>(shard.spec().dim);
  PullReply reply{Tensor::empty(DType::kFloat32, {static_cast<std::int64_t>(wanted->size()), dim}, &pool_),
                  0};
  auto receipt = shard.peek(*wanted, reply.rows.as<float>().data());
  if (!receipt) return receipt.error();
  reply.version = receipt->version;
  return reply;
}

Result<PushReply> ShardServer::push(const rpc::CallContext& context, const std::string& table_name,
                                    const Tensor& keys, const Tensor& gradients, std::uint64_t worker,
                                    std::uint64_t clock, std::uint64_t sequence,
                                    std::uint64_t pulled_version) {
  auto table = find(table_name);
  if (!table) return table.error();
  auto pushed = copy_keys(keys, pushed_keys_);
  if (!pushed) return pushed.error();
  auto values = gradients_of(gradients);
  if (!values) return values.error();
  const Work work(*this, times_of(**table, context));
  auto receipt =
      (*table)->shard.push({worker, clock, sequence, pulled_version}, *pushed, values->as<const float>());
  if (!receipt) return receipt.error();
  return to_reply(*receipt);
}

Result<PushPullReply> ShardServer::push_pull(const rpc::CallContext& context, const std::string& table_name,
                                             const Tensor& keys, const Tensor& gradients,
                                             std::uint64_t worker, std::uint64_t clock,
                                             std::uint64_t sequence, std::uint64_t pulled_version,
                                             const Tensor& pull_keys) {
  auto table = find(table_name);
  if (!table) return table.error();
  auto pushed = copy_keys(keys, pushed_keys_);
  if (!pushed) return pushed.error();
  auto pulled = copy_keys(pull_keys, pulled_keys_);
  if (!pulled) return pulled.error();
  auto values = gradients_of(gradients);
  if (!values) return values.error();
  const auto dim = static_cast<std::int64_t>((*table)->shard.spec().dim);
  PushPullReply reply;
  reply.pull.rows = Tensor::empty(DType::kFloat32, {static_cast<std::int64_t>(pulled->size()), dim}, &pool_);
  const Work work(*this, times_of(**table, context));
  auto receipt =
      (*table)->shard.push_pull({worker, clock, sequence, pulled_version}, *pushed, values->as<const float>(),
                                *pulled, reply.pull.rows.as<float>().data());
  if (!receipt) return receipt.error();
  reply.push = to_reply(receipt->push);
  reply.pull.version = receipt->pull.version;
  return reply;
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
    out.deferred_pulls = table->gate ? table->gate->deferred() : 0;
    out.deferred_ns = table->deferred_ns;
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
