// What a TableClient sends to the shards, and what comes of the answers.
#include <algorithm>
#include <cstring>
#include <functional>
#include <utility>

#include "table_core.hpp"

namespace troupe {

namespace {

constexpr std::size_t kPullAtOnce_bytes = std::size_t{4} << 20;

/// Whether a shard may not have seen the push, or its answer was lost. A server that goes cancels what it has
/// not answered; that says the node where it happened, unlike what is cancelled here.
bool worth_another(const Error& error) {
  return error.code == Code::kUnavailable || (error.code == Code::kCancelled && !error.node.empty());
}

/// Puts rows where the caller wants them; what is wrong with them otherwise.
std::optional<Error> put_rows(const Tensor& rows, const std::vector<std::uint32_t>& positions,
                              std::uint64_t dim, float* out) {
  if (rows.dtype() != DType::kFloat32 ||
      rows.shape() != Shape{static_cast<std::int64_t>(positions.size()), static_cast<std::int64_t>(dim)})
    return Error{Code::kDataLoss, "a shard answered with " + rows.to_string() + " for " +
                                      std::to_string(positions.size()) + " rows of " + std::to_string(dim)};
  const float* from = rows.as<const float>().data();
  if (positions.empty()) return {};
  if (positions.back() - positions.front() + std::size_t{1} == positions.size()) {  // they ascend
    std::memcpy(out + positions.front() * dim, from, positions.size() * dim * sizeof(float));
    return {};
  }
  for (std::size_t i = 0; i < positions.size(); ++i)
    std::memcpy(out + positions[i] * dim, from + i * dim, dim * sizeof(float));
  return {};
}

const Error kLate{Code::kDeadlineExceeded, "rows came after the pull had ended"};

}  // namespace

TableClient::Core::Splitting::Splitting(Core& core) : core_(core) {
  {
    const std::lock_guard lock(core.mutex_);
    if (!core.idle_.empty()) {
      splitter_ = std::move(core.idle_.back());
      core.idle_.pop_back();
    }
  }
  if (!splitter_) splitter_ = std::make_unique<Splitter>(core.spec, core.map_);
}

TableClient::Core::Splitting::~Splitting() {
  const std::lock_guard lock(core_.mutex_);
  core_.idle_.push_back(std::move(splitter_));
}

Tensor TableClient::Core::key_tensor(std::span<const std::uint64_t> keys) const {
  Tensor tensor =
      Tensor::empty(DType::kUInt64, {static_cast<std::int64_t>(keys.size())}, &node.endpoint().pool());
  if (!keys.empty()) std::memcpy(tensor.data(), keys.data(), keys.size_bytes());
  return tensor;
}

// ---- Reading ------------------------------------------------------------------------------------

/// Many rows are asked for in several calls, between which a shard answers others.
Result<std::vector<TableClient::Core::Rows>> TableClient::Core::split_rows(
    std::span<const std::uint64_t> keys, bool pull) {
  const Splitting splitting(*this);
  shards::Partitioner& partitioner = splitting->partitioner;
  if (auto split = partitioner.split(keys); !split) return split.error();
  const std::size_t most = std::max<std::size_t>(1, kPullAtOnce_bytes / (spec.dim * sizeof(float)));
  std::vector<Rows> parts;
  for (std::uint32_t shard = 0; shard < servers.size(); ++shard) {
    const auto wanted = partitioner.keys(shard);
    const auto at = partitioner.positions(shard);
    // A gate must hear of this worker's clock even if it wants nothing of this shard.
    if (wanted.empty() && !(pull && joined)) continue;
    std::size_t begin = 0;
    do {
      const std::size_t some = std::min(most, wanted.size() - begin);
      const auto here = at.subspan(begin, some);
      parts.push_back({shard, key_tensor(wanted.subspan(begin, some)), {here.begin(), here.end()}});
      begin += some;
    } while (begin < wanted.size());
  }
  return parts;
}

struct TableClient::Core::Read : TableGather<PulledVersions> {
  using TableGather::TableGather;

  void rows_came(Loop& loop, const Rows& wanted, Result<PullReply> reply, std::uint64_t dim) {
    if (!reply) return one_done(&reply.error());
    if (over(loop)) return one_done(&kLate);
    value[wanted.shard] = std::min(value[wanted.shard], reply->version);  // of several calls: the oldest
    const auto wrong = put_rows(reply->rows, wanted.positions, dim, out);
    one_done(wrong ? &*wrong : nullptr);
  }

  float* out = nullptr;
  std::shared_ptr<const void> keep;
};

rpc::Future<PulledVersions> TableClient::Core::read(std::span<const std::uint64_t> keys, float* out,
                                                    bool pull, TimePoint deadline,
                                                    std::shared_ptr<const void> keep) {
  auto parts = split_rows(keys, pull);
  Loop& loop = node.loop();
  Loop::Turn turn(loop);
  auto read = std::make_shared<Read>(loop, deadline);
  auto future = read->promise.future();
  if (!parts) {
    read->one_done(&parts.error());
    return future;
  }
  read->value.assign(servers.size(), shards::kNotPulled);
  read->out = out;
  read->keep = std::move(keep);
  const rpc::CallOptions call{.timeout = deadline - loop.clock().now()};
  for (Rows& part : *parts) {
    const std::string& server = servers[part.shard];
    auto reply =
        pull ? node.rpc_async_with<PullReply>(call, server, "pull", spec.name, part.keys, worker_clock())
             : node.rpc_async_with<PullReply>(call, server, "peek", spec.name, part.keys);
    read->asked(reply);
    reply.then([read, &loop, dim = spec.dim, part = std::move(part)](Result<PullReply> result) {
      read->rows_came(loop, part, std::move(result), dim);
    });
  }
  all_asked<PulledVersions>(read);
  return future;
}

// ---- Writing ------------------------------------------------------------------------------------

Result<std::vector<TableClient::Core::Gradients>> TableClient::Core::split_gradients(
    std::span<const std::uint64_t> keys, const float* gradients, const PulledVersions& versions) {
  const Splitting splitting(*this);
  shards::Partitioner& partitioner = splitting->partitioner;
  shards::GradientMerge& merge = splitting->merge;
  if (auto split = partitioner.split(merge.distinct(keys)); !split) return split.error();
  std::vector<Gradients> parts;
  for (std::uint32_t shard = 0; shard < servers.size(); ++shard) {
    const auto pushed = partitioner.keys(shard);
    if (pushed.empty()) continue;
    Tensor values = Tensor::empty(
        DType::kFloat32, {static_cast<std::int64_t>(pushed.size()), static_cast<std::int64_t>(spec.dim)},
        &node.endpoint().pool());
    float* to = values.as<float>().data();
    for (const std::uint32_t position : partitioner.positions(shard)) {
      merge.place(position, to);
      to += spec.dim;
    }
    parts.push_back({shard, key_tensor(pushed), std::move(values),
                     shard < versions.size() ? versions[shard] : shards::kNotPulled});
  }
  if (auto merged = merge.run(gradients); !merged) return merged.error();
  return parts;
}

/// A call to one shard that may be made twice: `make` makes it, `done` has the answer and whether it is that
/// of a repeat. The repeat is one to the endpoint, too, which tries until its time is over.
template <class Whole, class Reply>
struct TableClient::Core::Repeated {
  std::shared_ptr<Core> core;
  std::shared_ptr<TableGather<Whole>> gather;
  std::function<rpc::Future<Reply>(const rpc::CallOptions&)> make;
  std::function<void(Result<Reply>, bool again)> done;

  static void begin(Repeated call) {
    const auto self = std::make_shared<Repeated>(std::move(call));
    auto reply = self->make({.timeout = self->left()});
    self->gather->asked(reply);
    reply.then([self](Result<Reply> result) {
      const Duration most = std::min(self->left(), self->core->repeat_for);
      if (result || !worth_another(result.error()) || most <= Duration::zero() || self->gather->whole.ready())
        return self->done(std::move(result), false);
      constexpr auto kAlways = ~std::uint32_t{0};
      auto again = self->make({.timeout = most,
                               .token = self->core->node.make_token(),
                               .retry = {.max_attempts = kAlways, .attempt_timeout = most}});
      self->gather->asked_again(again);
      again.then([self](Result<Reply> last) { self->done(std::move(last), true); });
    });
  }
  Duration left() const { return gather->deadline - core->node.loop().clock().now(); }
};

/// One push, of which each shard has its part. `named`: by the caller, who may have made it before.
struct TableClient::Core::Pushing {
  PushIdentity identity;
  bool named = false;
  std::uint64_t clock = 0;

  static PushSummary& summary_of(PushSummary& whole) { return whole; }
  static PushSummary& summary_of(PushPullSummary& whole) { return whole.push; }
  /// A repeat of ours that says "applied before" was applied by what it repeats.
  template <class Whole>
  void add(TableGather<Whole>& gather, const PushReply& reply, bool again) const {
    PushSummary& summary = summary_of(gather.value);
    summary.staleness = std::max(summary.staleness, reply.staleness);
    summary.applied = summary.applied && (reply.applied || (again && !named));
  }
};

TableClient::Core::Pushing TableClient::Core::next_push(const std::optional<PushIdentity>& identity) {
  if (identity) return {*identity, true, clock};
  return {{worker, sequence++}, false, clock};
}

template <class Whole>
void TableClient::Core::send(const std::shared_ptr<TableGather<Whole>>& gather, const Pushing& push,
                             Gradients part) {
  auto make = [core = shared_from_this(), push, part = std::move(part)](const rpc::CallOptions& call) {
    return core->node.rpc_async_with<PushReply>(call, core->servers[part.shard], "push", core->spec.name,
                                                part.keys, part.values, push.identity.worker, push.clock,
                                                push.identity.sequence, part.pulled_version);
  };
  auto done = [gather, push](const Result<PushReply>& reply, bool again) {
    if (!reply) return gather->one_done(&reply.error());
    push.add(*gather, *reply, again);
    gather->one_done(nullptr);
  };
  Repeated<Whole, PushReply>::begin({shared_from_this(), gather, std::move(make), std::move(done)});
}

rpc::Future<PushSummary> TableClient::Core::push(std::span<const std::uint64_t> keys, const float* gradients,
                                                 const PulledVersions& versions,
                                                 std::optional<PushIdentity> identity) {
  auto parts = split_gradients(keys, gradients, versions);
  Loop& loop = node.loop();
  Loop::Turn turn(loop);
  auto gather = std::make_shared<TableGather<PushSummary>>(loop, deadline());
  auto future = gather->promise.future();
  if (!parts) {
    gather->one_done(&parts.error());
    return future;
  }
  const Pushing push = next_push(identity);
  for (Gradients& part : *parts) send(gather, push, std::move(part));
  all_asked(gather);
  return future;
}

rpc::Future<PushPullSummary> TableClient::Core::push_then_pull(
    std::span<const std::uint64_t> keys, const float* gradients, const PulledVersions& versions,
    std::span<const std::uint64_t> pull_keys, float* out, std::optional<PushIdentity> identity) {
  const TimePoint until = deadline();
  return push(keys, gradients, versions, identity)
      .then([core = shared_from_this(), wanted = std::vector(pull_keys.begin(), pull_keys.end()), out,
             until](const Result<PushSummary>& pushed) {
        if (!pushed) {
          rpc::Promise<PushPullSummary> failed(core->node.loop(), until);
          auto future = failed.future();
          failed.set(pushed.error());
          return future;
        }
        return core->read(wanted, out, true, until, nullptr)
            .then([summary = *pushed](Result<PulledVersions> pulled) -> Result<PushPullSummary> {
              if (!pulled) return pulled.error();
              return PushPullSummary{summary, std::move(*pulled)};
            });
      });
}

/// Gradients and what is pulled after them, in one call.
void TableClient::Core::send(const std::shared_ptr<TableGather<PushPullSummary>>& gather, const Pushing& push,
                             Gradients part, Rows rows, float* out) {
  auto make = [core = shared_from_this(), push, part = std::move(part),
               keys = rows.keys](const rpc::CallOptions& call) {
    return core->node.rpc_async_with<PushPullReply>(
        call, core->servers[part.shard], "push_pull", core->spec.name, part.keys, part.values,
        push.identity.worker, push.clock, push.identity.sequence, part.pulled_version, keys);
  };
  auto done = [core = shared_from_this(), gather, push, rows = std::move(rows), out](
                  Result<PushPullReply> reply, bool again) {
    if (!reply) return gather->one_done(&reply.error());
    push.add(*gather, reply->push, again);
    if (gather->over(core->node.loop())) return gather->one_done(&kLate);
    gather->value.pulled[rows.shard] = reply->pull.version;
    const auto wrong = put_rows(reply->pull.rows, rows.positions, core->spec.dim, out);
    gather->one_done(wrong ? &*wrong : nullptr);
  };
  Repeated<PushPullSummary, PushPullReply>::begin(
      {shared_from_this(), gather, std::move(make), std::move(done)});
}

/// Rows alone, of a shard that is given no gradients.
void TableClient::Core::send(const std::shared_ptr<TableGather<PushPullSummary>>& gather, Rows rows,
                             float* out) {
  auto reply =
      node.rpc_async_with<PullReply>({.timeout = gather->deadline - node.loop().clock().now()},
                                     servers[rows.shard], "pull", spec.name, rows.keys, worker_clock());
  gather->asked(reply);
  reply.then([core = shared_from_this(), gather, rows = std::move(rows), out](Result<PullReply> result) {
    if (!result) return gather->one_done(&result.error());
    if (gather->over(core->node.loop())) return gather->one_done(&kLate);
    gather->value.pulled[rows.shard] = result->version;
    const auto wrong = put_rows(result->rows, rows.positions, core->spec.dim, out);
    gather->one_done(wrong ? &*wrong : nullptr);
  });
}

rpc::Future<PushPullSummary> TableClient::Core::push_pull(std::span<const std::uint64_t> keys,
                                                          const float* gradients,
                                                          const PulledVersions& versions,
                                                          std::span<const std::uint64_t> pull_keys,
                                                          float* out, std::optional<PushIdentity> identity) {
  auto rows = split_rows(pull_keys, true);
  const auto twice = [](const Rows& a, const Rows& b) { return a.shard == b.shard; };
  if (bounded() || (rows && std::adjacent_find(rows->begin(), rows->end(), twice) != rows->end()))
    return push_then_pull(keys, gradients, versions, pull_keys, out, identity);
  auto parts = rows ? split_gradients(keys, gradients, versions) : rows.error();
  Loop& loop = node.loop();
  Loop::Turn turn(loop);
  auto gather = std::make_shared<TableGather<PushPullSummary>>(loop, deadline());
  auto future = gather->promise.future();
  if (!parts) {
    gather->one_done(&parts.error());
    return future;
  }
  gather->value.pulled.assign(servers.size(), shards::kNotPulled);
  std::vector<Rows*> wanted(servers.size());
  for (Rows& part : *rows) wanted[part.shard] = &part;
  const Pushing push = next_push(identity);
  for (Gradients& part : *parts) {
    Rows* const pulled = std::exchange(wanted[part.shard], nullptr);
    if (pulled) {
      send(gather, push, std::move(part), std::move(*pulled), out);
    } else {
      send(gather, push, std::move(part));
    }
  }
  for (Rows* pulled : wanted)
    if (pulled) send(gather, std::move(*pulled), out);
  all_asked(gather);
  return future;
}

}  // namespace troupe
