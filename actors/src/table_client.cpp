#include <troupe/actors/table_client.hpp>

#include <algorithm>
#include <cstring>
#include <random>
#include <utility>

namespace troupe {

namespace {

constexpr std::size_t kPullAtOnce_bytes = std::size_t{4} << 20;

std::uint64_t random_worker() {
  std::random_device device;
  std::uint64_t id = 0;
  while (id == 0) id = (std::uint64_t{device()} << 32) | device();
  return id;
}

/// Joins the answers of several shards: the last one to come finishes the whole.
template <class T>
struct Gather {
  Gather(Loop& loop, TimePoint until) : promise(loop, until), whole(promise.future()), deadline(until) {}
  /// Whether whoever asked has been answered, or has stopped waiting (Future::get() gives up a while after
  /// the deadline when the loop is busy): memory of theirs is not touched any more.
  bool over(Loop& loop) const { return whole.ready() || loop.clock().now() >= deadline; }
  /// One more shard is asked; cancelling the whole cancels this.
  template <class U>
  void asked(const rpc::Future<U>& part) {
    ++missing;
    parts.push_back(part.cancellable());
  }
  /// All that are to be asked have been.
  void all_asked() {
    promise.on_cancel([asked = std::move(parts)] {
      for (const auto& each : asked)
        if (const auto part = each.lock()) part->cancel();
    });
    one_done(nullptr);
  }
  void one_done(const Error* why) {
    if (why && !error) error = *why;
    if (--missing > 0) return;
    if (error)
      promise.set(*error);
    else
      promise.set(std::move(value));
  }

  rpc::Promise<T> promise;
  const rpc::Future<T> whole;
  const TimePoint deadline;
  std::vector<std::weak_ptr<rpc::detail::Cancellable>> parts;
  T value{};
  std::optional<Error> error;
  std::size_t missing =
      1;  // one for whoever starts the calls, so that it cannot finish before they all began
};

Tensor key_tensor(std::span<const std::uint64_t> keys, MemoryPool& pool) {
  Tensor tensor = Tensor::empty(DType::kUInt64, {static_cast<std::int64_t>(keys.size())}, &pool);
  if (!keys.empty()) std::memcpy(tensor.data(), keys.data(), keys.size_bytes());
  return tensor;
}

}  // namespace

TableClient::TableClient(Node& node, shards::TableSpec spec, std::vector<std::string> servers,
                         const Options& options)
    : node_(node),
      spec_(std::move(spec)),
      servers_(std::move(servers)),
      timeout_(options.timeout),
      worker_(options.worker ? options.worker : random_worker()),
      partitioner_(spec_,
                   shards::SlotMap::balanced(spec_.slots, static_cast<std::uint32_t>(servers_.size()))) {}

Result<std::unique_ptr<TableClient>> TableClient::open(Node& node, shards::TableSpec spec,
                                                       std::vector<std::string> servers,
                                                       const Options& options) {
  if (auto valid = spec.validate(); !valid) return valid.error();
  if (servers.empty())
    return Error{Code::kInvalidArgument, "table '" + spec.name + "' needs at least one server"};
  const std::string text = spec.to_json();
  std::unique_ptr<TableClient> client(new TableClient(node, std::move(spec), std::move(servers), options));
  const rpc::CallOptions call{.timeout = options.timeout};
  std::vector<rpc::Future<void>> made;
  for (const std::string& server : client->servers_)
    made.push_back(node.rpc_async_with<void>(call, server, "create_table", text));
  for (auto& each : made)
    if (auto created = each.get(); !created) return created.error();
  if (auto joined = client->join(); !joined) return joined.error();
  return client;
}

Result<void> TableClient::join() {
  return join_together({this});
}

Result<void> TableClient::join_together(const std::vector<TableClient*>& tables) {
  std::vector<TableClient*> joining;
  std::vector<rpc::Future<std::uint64_t>> joined;
  for (TableClient* table : tables) {
    if (!table->bounded() || std::exchange(table->joined_, true)) continue;  // of some servers at least
    joining.push_back(table);
    for (const std::string& server : table->servers_)
      joined.push_back(table->node_.rpc_async_with<std::uint64_t>({.timeout = table->timeout_}, server,
                                                                  "join_worker", table->spec_.name,
                                                                  table->worker_, table->node_.id()));
  }
  std::uint64_t clock = 0;
  for (const TableClient* table : tables) clock = std::max(clock, table->clock_);
  std::optional<Error> failed;
  for (auto& each : joined) {
    auto least = each.get();
    if (least)
      clock = std::max(clock, *least);
    else
      failed = least.error();
  }
  // Every gate hears of the clock now: one that thought this worker further behind than it is would hold
  // others back until its next pull there, which may wait for them.
  std::vector<rpc::Future<void>> told;
  for (TableClient* table : tables) {
    table->clock_ = clock;
    if (!table->joined_ || failed) continue;
    for (const std::string& server : table->servers_)
      told.push_back(table->node_.rpc_async_with<void>({.timeout = table->timeout_}, server, "advance",
                                                       table->spec_.name,
                                                       WorkerClock{table->worker_, clock}));
  }
  for (auto& each : told)
    if (auto heard = each.get(); !heard) failed = heard.error();
  if (!failed) return {};
  for (TableClient* table : joining) table->leave();
  return *failed;
}

void TableClient::leave() {
  if (!std::exchange(joined_, false)) return;
  constexpr Duration kPatience{std::chrono::seconds(2)};
  std::vector<rpc::Future<void>> left;
  for (const std::string& server : servers_)
    left.push_back(
        node_.rpc_async_with<void>({.timeout = kPatience}, server, "leave_worker", spec_.name, worker_));
  for (auto& each : left) (void)each.get();  // a dead server needs no telling
}

TableClient::~TableClient() {
  leave();
}

// ---- Reading ------------------------------------------------------------------------------------

struct TableClient::Read : Gather<PulledVersions> {
  using Gather::Gather;

  /// Puts a shard's rows where the caller wants them.
  void rows_came(Loop& loop, std::size_t shard, const std::vector<std::uint32_t>& positions,
                 Result<PullReply> reply, std::uint64_t dim) {
    if (!reply) return one_done(&reply.error());
    if (over(loop)) {
      const Error late{Code::kDeadlineExceeded, "rows came after the pull had ended"};
      return one_done(&late);
    }
    const Tensor& rows = reply->rows;
    if (rows.dtype() != DType::kFloat32 ||
        rows.shape() != Shape{static_cast<std::int64_t>(positions.size()), static_cast<std::int64_t>(dim)}) {
      const Error wrong{Code::kDataLoss, "a shard answered with " + rows.to_string() + " for " +
                                             std::to_string(positions.size()) + " rows of " +
                                             std::to_string(dim)};
      return one_done(&wrong);
    }
    value[shard] = std::min(value[shard], reply->version);  // of several calls: the oldest
    const float* from = rows.as<const float>().data();
    for (std::size_t i = 0; i < positions.size(); ++i)
      std::memcpy(out + positions[i] * dim, from + i * dim, dim * sizeof(float));
    one_done(nullptr);
  }

  float* out = nullptr;
};

void TableClient::read_part(const std::shared_ptr<Read>& read, std::uint32_t shard,
                            std::span<const std::uint64_t> keys, std::span<const std::uint32_t> positions,
                            bool pull) {
  const Tensor key_list = key_tensor(keys, node_.endpoint().pool());
  const rpc::CallOptions call{.timeout = timeout_};
  auto reply = pull ? node_.rpc_async_with<PullReply>(call, servers_[shard], "pull", spec_.name, key_list,
                                                      WorkerClock{joined_ ? worker_ : 0, clock_})
                    : node_.rpc_async_with<PullReply>(call, servers_[shard], "peek", spec_.name, key_list);
  read->asked(reply);
  reply.then([read, &loop = node_.loop(), shard, dim = spec_.dim,
              at = std::vector<std::uint32_t>(positions.begin(), positions.end())](Result<PullReply> result) {
    read->rows_came(loop, shard, at, std::move(result), dim);
  });
}

rpc::Future<PulledVersions> TableClient::read(std::span<const std::uint64_t> keys, float* out, bool pull) {
  Loop& loop = node_.loop();
  Loop::Turn turn(loop);
  auto read = std::make_shared<Read>(loop, loop.clock().now() + timeout_);
  auto future = read->promise.future();
  read->value.assign(servers_.size(), shards::kNotPulled);
  read->out = out;
  if (auto split = partitioner_.split(keys); !split) {
    read->one_done(&split.error());
    return future;
  }
  // Many rows are asked for in several calls, between which a shard answers others.
  const std::size_t most = std::max<std::size_t>(1, kPullAtOnce_bytes / (spec_.dim * sizeof(float)));
  for (std::uint32_t shard = 0; shard < servers_.size(); ++shard) {
    const auto wanted = partitioner_.keys(shard);
    const auto at = partitioner_.positions(shard);
    // A gate must hear of this worker's clock even if it wants nothing of this shard.
    if (wanted.empty() && !(pull && joined_)) continue;
    std::size_t begin = 0;
    do {
      const std::size_t some = std::min(most, wanted.size() - begin);
      read_part(read, shard, wanted.subspan(begin, some), at.subspan(begin, some), pull);
      begin += some;
    } while (begin < wanted.size());
  }
  read->all_asked();
  return future;
}

rpc::Future<PulledVersions> TableClient::pull(std::span<const std::uint64_t> keys, float* out) {
  return read(keys, out, true);
}
rpc::Future<PulledVersions> TableClient::peek(std::span<const std::uint64_t> keys, float* out) {
  return read(keys, out, false);
}

// ---- Writing ------------------------------------------------------------------------------------

rpc::Future<PushSummary> TableClient::push(std::span<const std::uint64_t> keys, const float* gradients,
                                           const PulledVersions& versions,
                                           std::optional<PushIdentity> identity) {
  Loop& loop = node_.loop();
  Loop::Turn turn(loop);
  auto gather = std::make_shared<Gather<PushSummary>>(loop, loop.clock().now() + timeout_);
  auto future = gather->promise.future();
  if (auto split = partitioner_.split(keys); !split) {
    gather->one_done(&split.error());
    return future;
  }
  if (!identity) identity = PushIdentity{worker_, sequence_++};
  for (std::uint32_t shard = 0; shard < servers_.size(); ++shard) {
    const auto pushed = partitioner_.keys(shard);
    if (pushed.empty()) continue;
    MemoryPool& pool = node_.endpoint().pool();
    const Tensor part = Tensor::empty(
        DType::kFloat32, {static_cast<std::int64_t>(pushed.size()), static_cast<std::int64_t>(spec_.dim)},
        &pool);
    partitioner_.gather(shard, gradients, spec_.dim, part.as<float>().data());
    auto answer = node_.rpc_async_with<PushReply>(
        {.timeout = timeout_}, servers_[shard], "push", spec_.name, key_tensor(pushed, pool), part,
        identity->worker, clock_, identity->sequence,
        shard < versions.size() ? versions[shard] : shards::kNotPulled);
    gather->asked(answer);
    answer.then([gather](Result<PushReply> reply) {
      if (!reply) return gather->one_done(&reply.error());
      gather->value.staleness = std::max(gather->value.staleness, reply->staleness);
      gather->value.applied = gather->value.applied && reply->applied;
      gather->one_done(nullptr);
    });
  }
  gather->all_asked();
  return future;
}

}  // namespace troupe
