// What a TableClient sends to the shards, and what comes of the answers.
#include <algorithm>
#include <cstring>
#include <utility>

#include <troupe/shards/half.hpp>

#include "table_core.hpp"

namespace troupe {
namespace {

/// Whether a shard may not have seen the push, or its answer was lost. A server that goes cancels what it has
/// not answered; that says the node where it happened, unlike what is cancelled here.
bool worth_another(const Error& error) {
  return error.code == Code::kUnavailable || (error.code == Code::kCancelled && !error.node.empty());
}

/// The caller's memory from a row on gets some rows of an answer.
void put(const Tensor& rows, std::size_t first, std::size_t count, std::uint64_t dim, float* to) {
  const std::byte* const from = rows.data() + first * dim * size_of(rows.dtype());
  if (rows.dtype() != DType::kFloat32) return shards::widen(rows.dtype(), from, count * dim, to);
  if (static_cast<const void*>(to) != from) std::memcpy(to, from, count * dim * sizeof(float));
}

/// Puts rows where the caller wants them, if they are not there; what is wrong with them otherwise.
template <class Rows>
std::optional<Error> put_rows(const Tensor& rows, const Rows& asked, const shards::TableSpec& spec,
                              float* out) {
  const std::vector<std::uint32_t>& positions = asked.positions;
  const std::size_t count = asked.range ? asked.range->size() : positions.size();
  const std::uint64_t dim = spec.dim;
  const bool good =
      rows.dtype() == DType::kFloat32 || (rows.dtype() == spec.weights && shards::is_half(spec.weights));
  if (!good || rows.device().kind == MemoryKind::kDevice || !rows.is_contiguous() ||
      rows.shape() != Shape{static_cast<std::int64_t>(count), static_cast<std::int64_t>(dim)})
    return Error{Code::kDataLoss, "a shard answered with " + rows.to_string() + " for " +
                                      std::to_string(count) + " rows of " + std::to_string(dim)};
  if (count == 0) return {};
  // Positions ascend.
  if (asked.range || positions.back() - positions.front() + std::size_t{1} == count) {
    put(rows, 0, count, dim, out + (asked.range ? asked.at : positions.front()) * dim);
    return {};
  }
  for (std::size_t i = 0; i < count; ++i) put(rows, i, 1, dim, out + positions[i] * dim);
  return {};
}

const Error kLate{Code::kDeadlineExceeded, "rows came after the pull had ended"};

PulledVersions& pulled_of(PulledVersions& whole) {
  return whole;
}
PulledVersions& pulled_of(PushPullSummary& whole) {
  return whole.pulled;
}

Error restored_error(const shards::TableSpec& spec) {
  return {Code::kAborted, "table '" + spec.name +
                              "' was restored after the weights had been pulled that this push is for: it is "
                              "not applied; go on with a pull"};
}

}  // namespace

// ---- Reading ------------------------------------------------------------------------------------

/// `after`: once these rows have come.
template <class Whole>
void TableClient::Core::send(const std::shared_ptr<TableGather<Whole>>& gather, Rows rows, float* out,
                             bool pull, std::function<void()> after) {
  const PullHead head{rows.to.route, pull && rows.to.decides ? worker_clock() : WorkerClock{}, half_pulls};
  const rpc::CallOptions call{.timeout = gather->deadline - node.loop().clock().now(), .into = rows.into};
  auto reply = node.rpc_async_with<PullReply>(call, rows.to.server, pull ? "pull" : "peek", spec.name,
                                              rows.keys, head);
  gather->asked(reply);
  reply.then([core = shared_from_this(), gather, rows = std::move(rows), out, pull,
              after = std::move(after)](Result<PullReply> result) mutable {
    if (!result && result.error().code == Code::kInvalidArgument && rows.into && !gather->whole.ready()) {
      // A newer route may have come in place of rows, which does not fit where those were to lie.
      rows.into = nullptr;
      core->send(gather, std::move(rows), out, pull, std::move(after));
      return gather->one_done(nullptr);
    }
    if (!result) return gather->one_done(&result.error());
    if (gather->over(core->node.loop())) return gather->one_done(&kLate);
    if (result->route) {
      const Result<void> taken = core->take_route(*result->route);
      auto parts = taken ? core->split_again(rows) : taken.error();
      if (!parts) return gather->one_done(&parts.error());
      for (Rows& part : *parts) core->send(gather, std::move(part), out, pull);
    } else {
      core->take_generation(rows.to.number, result->generation);
      core->open_clock = std::max(core->open_clock.load(), result->open_clock);
      PulledVersions& versions = pulled_of(gather->value);
      if (versions.size() <= rows.to.number) versions.resize(rows.to.number + 1);
      // Of several calls: the oldest.
      PulledVersion& version = versions[rows.to.number];
      version = {std::min(version.version, result->version), result->generation};
      const auto wrong = put_rows(result->rows, rows, core->spec, out);
      if (wrong) return gather->one_done(&*wrong);
    }
    if (after) after();
    gather->one_done(nullptr);
  });
}

struct TableClient::Core::Read : TableGather<PulledVersions> {
  using TableGather::TableGather;
  std::shared_ptr<const void> keep;
};

rpc::Future<PulledVersions> TableClient::Core::read(const shards::RowKeys& keys, float* out, bool pull,
                                                    TimePoint deadline, std::shared_ptr<const void> keep,
                                                    const Tensor* into) {
  auto parts = split_rows(keys, pull);
  Loop& loop = node.loop();
  Loop::Turn turn(loop);
  auto read = std::make_shared<Read>(loop, deadline);
  const std::shared_ptr<TableGather<PulledVersions>> gather = read;
  auto future = read->promise.future();
  if (!parts) {
    read->one_done(&parts.error());
    return future;
  }
  read->value.resize(routed()->route.servers.size());
  read->keep = std::move(keep);
  for (Rows& part : *parts) {
    if (!into || !part.range || half_pulls) continue;
    const auto at = static_cast<std::int64_t>(part.at);
    part.into = rpc::into(into->rows(at, at + static_cast<std::int64_t>(part.range->size())));
  }
  // A worker that may have to wait for others asks the decider first: rows that other shards gave meanwhile
  // would be older than it may see.
  const bool first = pull && joined && clock > open_clock;
  auto later = std::make_shared<std::vector<Rows>>();
  std::vector<Rows> now;
  for (Rows& part : *parts) (first && !part.to.decides ? *later : now).push_back(std::move(part));
  std::function<void()> go_on;
  if (!later->empty()) {
    go_on = [core = shared_from_this(), gather, later, missing = std::make_shared<std::size_t>(now.size()),
             out] {
      if (--*missing > 0) return;
      for (Rows& part : std::exchange(*later, {})) core->send(gather, std::move(part), out, true);
    };
  }
  for (Rows& part : now) send(gather, std::move(part), out, pull, go_on);
  all_asked(gather);
  return future;
}

// ---- Writing ------------------------------------------------------------------------------------

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
  std::uint64_t step = shards::kNotPulled;
  bool half_pulls = false;

  static PushSummary& summary_of(PushSummary& whole) { return whole; }
  static PushSummary& summary_of(PushPullSummary& whole) { return whole.push; }
  PushHead head(const Gradients& part) const {
    return {part.to.route,     part.pulled.generation, {identity.worker, clock},
            identity.sequence, part.pulled.version,    step,
            half_pulls};
  }
  /// A repeat of ours that says "applied before" was applied by what it repeats.
  template <class Whole>
  void add(TableGather<Whole>& gather, const PushReply& reply, bool again) const {
    PushSummary& summary = summary_of(gather.value);
    summary.staleness = std::max(summary.staleness, reply.staleness);
    const bool applied = reply.outcome != PushOutcome::kRepeated || (again && !named);
    summary.applied = summary.applied && applied;
  }
};

TableClient::Core::Pushing TableClient::Core::next_push(const std::optional<PushIdentity>& identity,
                                                        const PulledVersions& versions) {
  if (identity) return {*identity, true, clock, step_of(versions), half_pulls};
  return {{worker, sequence++}, false, clock, step_of(versions), half_pulls};
}

/// `after`: once this part has been taken.
template <class Whole>
void TableClient::Core::send(const std::shared_ptr<TableGather<Whole>>& gather, const Pushing& push,
                             Gradients part, std::function<void()> after) {
  auto make = [core = shared_from_this(), push, part](const rpc::CallOptions& call) {
    return core->node.rpc_async_with<PushReply>(call, part.to.server, "push", core->spec.name, part.keys,
                                                part.values, push.head(part));
  };
  auto done = [core = shared_from_this(), gather, push, part, after = std::move(after)](
                  const Result<PushReply>& reply, bool again) {
    if (!reply) return gather->one_done(&reply.error());
    core->pushed(gather, push, part, *reply, again, after);
  };
  Repeated<Whole, PushReply>::begin({shared_from_this(), gather, std::move(make), std::move(done)});
}

/// What a shard has said of a part; one that has gone elsewhere is sent after it, under the same name.
template <class Whole>
void TableClient::Core::pushed(const std::shared_ptr<TableGather<Whole>>& gather, const Pushing& push,
                               const Gradients& part, const PushReply& reply, bool again,
                               const std::function<void()>& after) {
  if (reply.outcome == PushOutcome::kOtherGeneration) {
    take_generation(part.to.number, reply.generation);
    const Error restored = restored_error(spec);
    return gather->one_done(&restored);
  }
  if (reply.outcome != PushOutcome::kOtherRoute) {
    take_generation(part.to.number, reply.generation);
    push.add(*gather, reply, again);
    if (after) after();
    return gather->one_done(nullptr);
  }
  const Result<void> taken = reply.route ? take_route(*reply.route) : Result<void>();
  auto parts = taken ? split_again(part) : taken.error();
  if (!parts) return gather->one_done(&parts.error());
  auto missing = std::make_shared<std::size_t>(parts->size());
  for (Gradients& each : *parts) {
    send(gather, push, std::move(each), [missing, after] {
      if (--*missing == 0 && after) after();
    });
  }
  gather->one_done(nullptr);
}

rpc::Future<PushSummary> TableClient::Core::push(const shards::RowKeys& keys, const float* gradients,
                                                 const PulledVersions& versions,
                                                 std::optional<PushIdentity> identity,
                                                 std::uint64_t samples) {
  auto parts = split_gradients(keys, gradients, versions);
  Loop& loop = node.loop();
  Loop::Turn turn(loop);
  const TimePoint until = deadline();
  auto gather = std::make_shared<TableGather<PushSummary>>(loop, until);
  auto future = gather->promise.future();
  if (parts && in_rounds() && identity && identity->worker != worker)
    parts = Error{Code::kInvalidArgument, "table '" + spec.name +
                                              "' makes its steps in rounds: a worker pushes "
                                              "under its own name there"};
  if (!parts) {
    gather->one_done(&parts.error());
    return future;
  }
  const Pushing push = next_push(identity, versions);
  for (Gradients& part : *parts) send(gather, push, std::move(part));
  all_asked(gather);
  if (!in_rounds()) return future;
  const std::uint32_t decides = routed()->numbers.front();
  const std::uint64_t seen = decides < versions.size() ? versions[decides].generation : 0;
  return future.then([core = shared_from_this(), push, samples, until,
                      seen = seen != 0 ? seen : generation(decides)](const Result<PushSummary>& kept) {
    return kept ? core->offer(push, samples, seen, until, *kept)
                : core->refused<PushSummary>(kept.error(), until);
  });
}

/// All shards keep it: the decider says what becomes of it.
rpc::Future<PushSummary> TableClient::Core::offer(const Pushing& push, std::uint64_t samples,
                                                  std::uint64_t seen, TimePoint until,
                                                  const PushSummary& kept) {
  auto gather = std::make_shared<TableGather<PushSummary>>(node.loop(), until);
  auto future = gather->promise.future();
  gather->value = kept;
  const OfferHead head{{push.identity.worker, push.clock}, push.identity.sequence, samples, seen};
  auto make = [core = shared_from_this(), head](const rpc::CallOptions& call) {
    return core->node.rpc_async_with<shards::Verdict>(call, core->decider(), "offer", core->spec.name, head);
  };
  auto done = [core = shared_from_this(), gather](const Result<shards::Verdict>& verdict, bool) {
    if (!verdict) return gather->one_done(&verdict.error());
    core->raise_clock(verdict->next_clock);
    if (verdict->lost) {
      const Error restored = restored_error(core->spec);
      return gather->one_done(&restored);
    }
    gather->value.staleness = verdict->staleness;
    gather->value.dropped = !verdict->applied;
    gather->value.applied = gather->value.applied && verdict->applied;
    gather->one_done(nullptr);
  };
  Repeated<PushSummary, shards::Verdict>::begin(
      {shared_from_this(), gather, std::move(make), std::move(done)});
  all_asked(gather);
  return future;
}

rpc::Future<PushPullSummary> TableClient::Core::push_then_pull(
    std::span<const std::uint64_t> keys, const float* gradients, const PulledVersions& versions,
    std::span<const std::uint64_t> pull_keys, float* out, std::optional<PushIdentity> identity,
    std::uint64_t samples) {
  const TimePoint until = deadline();
  return push(keys, gradients, versions, identity, samples)
      .then([core = shared_from_this(), wanted = std::vector(pull_keys.begin(), pull_keys.end()), out,
             until](const Result<PushSummary>& pushed) {
        if (!pushed) return core->refused<PushPullSummary>(pushed.error(), until);
        return core->read(wanted, out, true, until, nullptr)
            .then([summary = *pushed](Result<PulledVersions> pulled) -> Result<PushPullSummary> {
              if (!pulled) return pulled.error();
              return PushPullSummary{summary, std::move(*pulled)};
            });
      });
}

/// Gradients and what is pulled after them, in one call.
void TableClient::Core::send(const std::shared_ptr<TableGather<PushPullSummary>>& gather, const Pushing& push,
                             const Gradients& part, Rows rows, float* out) {
  auto make = [core = shared_from_this(), push, part, keys = rows.keys](const rpc::CallOptions& call) {
    return core->node.rpc_async_with<PushPullReply>(call, part.to.server, "push_pull", core->spec.name,
                                                    part.keys, part.values, push.head(part), keys);
  };
  auto done = [core = shared_from_this(), gather, push, part, rows = std::move(rows), out](
                  Result<PushPullReply> reply, bool again) {
    if (!reply) return gather->one_done(&reply.error());
    if (reply->push.outcome == PushOutcome::kOtherRoute ||
        reply->push.outcome == PushOutcome::kOtherGeneration)
      return core->pushed(gather, push, part, reply->push, again,
                          [core, gather, rows, out] { core->send(gather, rows, out, true); });
    push.add(*gather, reply->push, again);
    if (gather->over(core->node.loop())) return gather->one_done(&kLate);
    core->take_generation(rows.to.number, reply->pull.generation);
    gather->value.pulled[rows.to.number] = {reply->pull.version, reply->pull.generation};
    const auto wrong = put_rows(reply->pull.rows, rows, core->spec, out);
    gather->one_done(wrong ? &*wrong : nullptr);
  };
  Repeated<PushPullSummary, PushPullReply>::begin(
      {shared_from_this(), gather, std::move(make), std::move(done)});
}

rpc::Future<PushPullSummary> TableClient::Core::push_pull(std::span<const std::uint64_t> keys,
                                                          const float* gradients,
                                                          const PulledVersions& versions,
                                                          std::span<const std::uint64_t> pull_keys,
                                                          float* out, std::optional<PushIdentity> identity,
                                                          std::uint64_t samples) {
  auto rows = split_rows(pull_keys, true);
  const auto twice = [](const Rows& a, const Rows& b) { return a.to.number == b.to.number; };
  if (waits() || (rows && std::adjacent_find(rows->begin(), rows->end(), twice) != rows->end()))
    return push_then_pull(keys, gradients, versions, pull_keys, out, identity, samples);
  auto parts = rows ? split_gradients(keys, gradients, versions) : rows.error();
  Loop& loop = node.loop();
  Loop::Turn turn(loop);
  auto gather = std::make_shared<TableGather<PushPullSummary>>(loop, deadline());
  auto future = gather->promise.future();
  if (!parts) {
    gather->one_done(&parts.error());
    return future;
  }
  std::vector<Rows*> wanted;
  const auto at = [&wanted, gather](std::uint32_t number) -> Rows*& {
    if (wanted.size() <= number) wanted.resize(number + 1);
    if (gather->value.pulled.size() <= number) gather->value.pulled.resize(number + 1);
    return wanted[number];
  };
  gather->value.pulled.resize(routed()->route.servers.size());
  for (Rows& part : *rows) at(part.to.number) = &part;
  const Pushing push = next_push(identity, versions);
  for (Gradients& part : *parts) {
    Rows* const pulled = std::exchange(at(part.to.number), nullptr);
    if (pulled)
      send(gather, push, part, std::move(*pulled), out);
    else
      send(gather, push, std::move(part));
  }
  for (Rows* pulled : wanted)
    if (pulled) send(gather, std::move(*pulled), out, true);
  all_asked(gather);
  return future;
}

}  // namespace troupe
