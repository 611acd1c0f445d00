#include "watch_ring.hpp"

#include <algorithm>

#include "node_impl.hpp"

namespace troupe {

namespace {
/// How many watch a node: one may die together with it.
constexpr std::size_t kWatchers = 2;
const rpc::CallOptions kOneWay{.trace = TraceContext::not_traced(), .detached = true};
}  // namespace

WatchRing::WatchRing(NodeImpl& node)
    : node_(node), again_([this] { try_again(); }), catch_up_([this] {
        if (takes_part() && latest_ > node_.directory.version()) node_.relist();
      }) {}

bool WatchRing::takes_part() const {
  return node_.joined && !node_.alone && !node_.closing;
}

void WatchRing::close() {
  node_.loop->cancel(again_);
  node_.loop->cancel(catch_up_);
  for (const Watched& watched : watched_) node_.endpoint->keep_watch(watched.session, false);
  watched_.clear();
}

/// Not at once: several may have come, and who tells of them is in the middle of its work.
void WatchRing::members_changed() {
  if (std::exchange(review_scheduled_, true)) return;
  node_.loop->defer([this] {
    review_scheduled_ = false;
    review();
  });
}

void WatchRing::review() {
  if (!takes_part()) return;
  const auto wanted = node_.directory.after(node_.options.node_id, kWatchers);
  std::erase_if(watched_, [&](const Watched& watched) {
    if (std::find(wanted.begin(), wanted.end(), watched.node_id) != wanted.end()) return false;
    node_.endpoint->keep_watch(watched.session, false);
    return true;
  });
  for (const std::uint64_t id : wanted) {
    const auto known = std::find_if(watched_.begin(), watched_.end(),
                                    [&](const Watched& watched) { return watched.node_id == id; });
    if (known != watched_.end()) continue;
    watched_.push_back({id, 0, {}});
    watch(watched_.back());
  }
}

void WatchRing::watch(Watched& watched) {
  if (watched.lost == TimePoint{}) watched.lost = node_.loop->now();
  // The registry knows a member by the session on which it joined, also before that is ready at this end.
  const auto joined = node_.registry ? node_.registry->session_of(watched.node_id) : std::nullopt;
  const auto session = joined ? Result<rpc::SessionId>(*joined) : node_.session_to(watched.node_id);
  if (!session) return lose(watched);
  watched.session = *session;
  if (node_.endpoint->ready(*session)) watched.lost = {};
  node_.endpoint->keep_watch(*session, true);
}

void WatchRing::lose(Watched& watched) {
  watched.session = 0;
  if (watched.lost == TimePoint{}) watched.lost = node_.loop->now();
  if (!again_.scheduled()) node_.loop->schedule_after(again_, node_.options.heartbeat_interval);
}

void WatchRing::on_session(rpc::SessionId session, std::uint64_t node_id) {
  for (Watched& watched : watched_) {
    if (watched.session != session) continue;
    if (watched.node_id == node_id) {
      watched.lost = {};
      continue;
    }
    node_.endpoint->keep_watch(session, false);  // another node has the address by now
    lose(watched);
  }
}

void WatchRing::on_session_closed(rpc::SessionId session) {
  if (!takes_part()) return;
  for (Watched& watched : watched_)
    if (watched.session == session) lose(watched);
}

/// The link to a member has gone, and the registry has not told of its death meanwhile.
void WatchRing::try_again() {
  if (!takes_part()) return;
  const TimePoint now = node_.loop->now();
  for (Watched& watched : watched_) {
    if (watched.session != 0) continue;
    report(watched.node_id, now - watched.lost);
    watch(watched);
  }
}

void WatchRing::on_quiet(rpc::SessionId session, Duration silence) {
  const auto quiet = std::find_if(watched_.begin(), watched_.end(),
                                  [&](const Watched& watched) { return watched.session == session; });
  if (!takes_part() || quiet == watched_.end()) return;
  const rpc::Peer* registry = node_.endpoint->peer(node_.registry_session);
  if (registry && registry->node_id == quiet->node_id) return doubt_registry();
  report(quiet->node_id, silence);
}

void WatchRing::report(std::uint64_t node_id, Duration silence) {
  if (node_.registry) return node_.registry->suspect_member(node_id, silence);
  // If it is this node that is cut off, the registry does not answer either, and is given up in the same
  // time.
  node_.endpoint->suspect(node_.registry_session, silence);
  rpc::call_async<void>(
      *node_.endpoint, {node_.registry_session, kRegistryActor}, "suspect", "telling of a silent node",
      {.timeout = node_.options.silence_limit, .trace = TraceContext::not_traced(), .detached = true},
      node_id, silence.count())
      .then([](const Result<void>&) {});
}

void WatchRing::doubt_registry() {
  const TimePoint now = node_.loop->now();
  const Duration limit = node_.options.silence_limit;
  if (!takes_part() || node_.registry || now - doubted_ < limit) return;
  doubted_ = now;
  node_.endpoint->suspect(node_.registry_session, limit / 2);
  auto neighbours = node_.directory.after(node_.options.node_id, kWatchers);
  const auto before = node_.directory.before(node_.options.node_id, kWatchers);
  neighbours.insert(neighbours.end(), before.begin(), before.end());
  for (const std::uint64_t id : neighbours) {
    const auto session = node_.session_to(id);
    if (!session || *session == node_.registry_session || *session == rpc::kLocal) continue;
    (void)node_.endpoint->send({*session, kNodeActor}, {rpc::fnv1a("doubt_registry"), 0}, kOneWay,
                               [](rpc::OutMessage& out) { out.values(0); });
  }
}

void WatchRing::on_news(std::uint64_t version) {
  latest_ = std::max(latest_, version);
  if (!takes_part() || latest_ <= node_.directory.version() || catch_up_.scheduled()) return;
  node_.loop->schedule_after(catch_up_, node_.options.heartbeat_interval);
}

}  // namespace troupe
