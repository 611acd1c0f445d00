// What a node does while it lives: calls, sessions, membership.
#include <algorithm>
#include <cassert>

#include <troupe/actors/node.hpp>

#include "advertised_address.hpp"
#include "node_impl.hpp"

namespace troupe {

namespace {
constexpr Duration kListTimeout{std::chrono::seconds(2)};
constexpr Duration kRefusalPause{std::chrono::seconds(1)};
constexpr Duration kAnswerTime{std::chrono::seconds(1)};  // for the registry's answer to come
}  // namespace

// ---- Calls --------------------------------------------------------------------------------------

void NodeImpl::on_call(rpc::InboundCallPtr call) {
  const std::uint64_t target = call->header().target;
  if (target == last_called.number && last_called.worker) return last_called.worker->take(std::move(call));
  const auto found = actors.find(target);
  if (found == actors.end()) {
    if (target == kRegistryActor)
      return call->reply_error({Code::kFailedPrecondition, "node '" + options.name + "' at " + address +
                                                               " is not the first of its cluster; join at " +
                                                               options.registry});
    if ((target & kObjectBit) && !leaving) return objects->hosted->take(std::move(call));
    return call->refuse({Code::kUnavailable, "the actor has ended"});
  }
  if (leaving) [[unlikely]] {
    if (refuses_now(*call))
      return call->refuse({Code::kUnavailable, "the node is leaving: node '" + options.name + "'"});
  } else {
    last_called = {target, found->second.worker};
  }
  // The actor runs before this returns, on this thread, unless it is in the middle of another message.
  found->second.worker->take(std::move(call));
}

/// A node that is leaving goes on with what it has begun, and calls itself for that; the cluster's own work
/// goes on, too, but for newcomers to the first node.
bool NodeImpl::refuses_now(const rpc::InboundCall& call) const {
  const rpc::MessageHeader& header = call.header();
  if (header.target == kRegistryActor) return header.method == rpc::fnv1a("join");
  return call.session() != rpc::kLocal && header.target != kNodeActor;
}

Node& Node::of(const rpc::CallContext& context) {
  assert(context.owner() && "a context of no call");
  return *static_cast<NodeImpl&>(*context.owner()).facade;
}

Caller Node::caller_of(const rpc::CallContext& context) const {
  const NodeImpl& node = *impl_;
  const Loop::Turn turn(*node.loop);
  const rpc::EndpointOptions& own = node.endpoint->options();
  if (context.session == rpc::kLocal)
    return {node.options.node_id,
            node.options.name,
            node.options.role,
            {},
            true,
            own.secret.empty() ? "" : own.secret_identity};
  const rpc::Peer* peer = node.endpoint->peer(context.session);
  if (!peer) return {};
  const Member* member = node.directory.find_member(peer->node_id);
  const bool same = member && member->name == peer->node_name;
  return {peer->node_id, peer->node_name,     same ? member->role : "",
          peer->address, peer->authenticated, node.endpoint->identity_of(context.session)};
}

/// Of what a method answers on purpose only those see it who look closely; what it has not meant is told to
/// all, here and nowhere on the error's way back.
void NodeImpl::on_failure(const rpc::InboundCall& call, const Error& error) {
  if (closing) return;  // it is not the handlers that fail now
  const bool meant = error.exception.empty() && error.code != Code::kInternal &&
                     error.code != Code::kUnknown && error.code != Code::kDataLoss;
  const LogLevel level = meant ? LogLevel::kDebug : LogLevel::kWarn;
  if (!options.log.enabled(level) || (!meant && !failures.may_write(loop->now()))) return;
  const rpc::CallNames names = names_of({rpc::kLocal, call.header().target}, call.header().method);
  const rpc::Peer* caller = endpoint->peer(call.session());
  options.log.with_trace(error.trace_id)
      .log(level, "a call failed",
           {{"actor", names.actor},
            {"method", names.method},
            {"caller", caller ? caller->node_name : options.name},
            {"code", to_string(error.code)},
            {"error", error.message},
            {"exception", error.exception},
            {"others_since_the_last", meant ? 0 : failures.take_untold()}});
}

bool NodeImpl::takes_directly(std::uint64_t actor, std::uint64_t method, const void* type) {
  const auto found = actors.find(actor);
  if (found == actors.end()) return false;
  const auto* entry = found->second.worker->methods().find(method);
  return entry && entry->direct_type == type;
}

Result<rpc::CallTarget> NodeImpl::resolve(std::string_view actor) {
  if (actor.empty()) return look_up(actor);
  // Names that differ in their last number ("ps9", "ps10") have places of their own.
  const auto from_end = [&](std::size_t i) {
    return i < actor.size() ? static_cast<unsigned char>(actor[actor.size() - 1 - i]) : std::size_t{0};
  };
  Found& last = found_last[(from_end(0) + 10 * from_end(1)) % found_last.size()];
  if (last.name == actor) return last.target;
  auto target = look_up(actor);
  if (target) {
    last.name.assign(actor);  // into the memory of the name before
    last.target = *target;
  }
  return target;
}

Result<rpc::CallTarget> NodeImpl::look_up(std::string_view actor) {
  if (const auto local = local_names.find(actor); local != local_names.end())
    return rpc::CallTarget{rpc::kLocal, local->second};
  auto found = directory.find_actor(actor);
  if (!found) return std::move(found).error();
  const std::uint64_t number = (*found)->number;
  auto session = session_to((*found)->node_id);
  if (!session) return std::move(session).error();
  return rpc::CallTarget{*session, number};
}

Result<rpc::SessionId> NodeImpl::session_to(std::uint64_t node_id) {
  if (const auto known = sessions.find(node_id); known != sessions.end()) return known->second;
  if (node_id == options.node_id) return rpc::kLocal;  // the registry knows it before spawn() has returned
  return meet(node_id);
}

Result<rpc::SessionId> NodeImpl::meet(std::uint64_t node_id) {
  const Member* member = directory.find_member(node_id);
  if (!member) return Error{Code::kUnavailable, "its node is gone"};
  auto session = endpoint->connect(member->address);
  if (!session) return session.error();
  sessions.emplace(node_id, *session);
  return *session;
}

std::uint64_t Node::call(std::string_view actor, rpc::MethodId method, const rpc::CallOptions& options,
                         const rpc::BodyWriter& body, rpc::ReplySink& sink) {
  if (impl_->loop->is_forked()) [[unlikely]] {
    sink.on_reply(HomeProcess::error());
    return 0;
  }
  if (options.retry.max_attempts > 1) {
    rpc::CallOptions named = options;
    if (named.token == 0) named.token = make_token();
    return impl_->endpoint->call_with_retries(
        [node = impl_.get(), name = std::string(actor)] { return node->resolve(name); }, method, named, body,
        sink);
  }
  auto target = impl_->resolve(actor);
  if (!target) {
    sink.on_reply(target.error());
    return 0;
  }
  return impl_->endpoint->call(*target, method, options, body, sink);
}

Result<void> Node::tell(std::string_view actor, std::string_view method, const rpc::CallOptions& options,
                        const rpc::BodyWriter& body) {
  NodeImpl& node = *impl_;
  if (options.retry.max_attempts > 1)
    return Error{Code::kInvalidArgument,
                 "'" + std::string(actor) + "." + std::string(method) +
                     "': a message that is not answered cannot be repeated; leave out "
                     "`retry`, or call it"};
  if (node.loop->is_forked()) return HomeProcess::error();
  Loop::Turn turn(*node.loop);
  if (rpc::CallMetrics* counted = node.endpoint->metrics()) counted->learn_once(method);
  auto target = node.resolve(actor);
  // No fingerprint, as the result's type is not known: the arguments are checked one by one.
  const Result<void> sent =
      target ? node.endpoint->send(*target, {rpc::fnv1a(method), 0, method}, options, body) : target.error();
  return sent ? sent : with_context(sent.error(), std::string(actor) + "." + std::string(method));
}

std::vector<std::string> Node::actors_of(std::string_view role) const {
  if (impl_->loop->is_forked()) return {};
  Loop::Turn turn(*impl_->loop);
  const Membership all = impl_->directory.list();
  std::vector<std::string> names;
  for (const NamedActor& actor : all.actors)
    if (const Member* member = impl_->directory.find_member(actor.node_id); member && member->role == role)
      names.push_back(actor.name);
  return names;
}

// ---- Sessions -----------------------------------------------------------------------------------

/// A node id is one life of a node: what the cluster has taken for dead, and given its names to others, has
/// no way back but to start anew.
Result<void> NodeImpl::may_meet(const rpc::Peer& peer) {
  if (!directory.is_over(peer.node_id)) return {};
  return Error{Code::kUnavailable, "node '" + peer.node_name +
                                       "' has left this cluster or was taken for dead by it; start it anew"};
}

void NodeImpl::on_session(rpc::SessionId session, const rpc::Peer& peer) {
  // Whoever took a dead node's address is not that node.
  std::erase_if(sessions,
                [&](const auto& entry) { return entry.second == session && entry.first != peer.node_id; });
  forget_found();
  sessions.emplace(peer.node_id, session);
  ring.on_session(session, peer.node_id);
  if (peer.way.find('(') != std::string::npos)
    options.log.info("met, but not by the best way for data", {{"peer", peer.node_name}, {"way", peer.way}});
  else
    options.log.debug("met", {{"peer", peer.node_name}, {"way", peer.way}});
}

void NodeImpl::on_device_way(rpc::SessionId, const rpc::Peer& peer, const std::string& way) {
  options.log.info("device tensors", {{"peer", peer.node_name}, {"way", way}});
}

void NodeImpl::on_session_closed(rpc::SessionId session, const rpc::Peer& peer, const Error& error) {
  std::erase_if(sessions, [&](const auto& entry) { return entry.second == session; });
  forget_found();
  ring.on_session_closed(session);
  const bool is_refusal = error.code == Code::kUnauthenticated || error.code == Code::kResourceExhausted;
  if (peer.incoming && is_refusal) log_refusal(peer, error);
  if (registry) return registry->session_closed(session, error.message);
  if (!joined) {
    if (session == registry_session) meeting_error = error;
    return;
  }
  if (session != registry_session && !alone) return;
  alone = true;
  // Nobody else tells of this death.
  if (const Member* member = directory.find_member(peer.node_id))
    apply_change({directory.version() + 1, MembershipEvent::kDied, Member(*member), {}, error.message});
  if (session != registry_session) return;
  // Without the registry nobody learns of anybody any more: the cluster is over.
  options.log.error("the first node is gone", error);
  stop_driving(Error{Code::kUnavailable, "the first node of the cluster, at " + options.registry +
                                             ", is gone: " + error.message});
}

void NodeImpl::on_quiet(rpc::SessionId session, const rpc::Peer&, Duration silence) {
  ring.on_quiet(session, silence);
}

void NodeImpl::on_news(rpc::SessionId, std::uint64_t version) {
  ring.on_news(version);
}

/// Once a second at most: whoever knocks must not fill the log.
void NodeImpl::log_refusal(const rpc::Peer& peer, const Error& error) {
  if (loop->now() - last_refusal < kRefusalPause) {
    ++refusals_untold;
    return;
  }
  last_refusal = loop->now();
  options.log.warn("a peer was refused", {{"address", peer.address},
                                          {"reason", error.message},
                                          {"others_since_the_last", std::exchange(refusals_untold, 0)}});
}

// ---- Membership ---------------------------------------------------------------------------------

void NodeImpl::on_change(const MembershipChange& change) {
  if (closing) return;
  if (!joined) return early_changes.push_back(change);
  if (change.version <= directory.version()) return;
  const bool gap = change.version > directory.version() + 1;
  apply_change(change);
  if (gap) relist();
}

void NodeImpl::log_change(const MembershipChange& change) const {
  const Logger& log = options.log;
  if (registry && change.event == MembershipEvent::kJoined &&
      reach_of(change.member.address) == AddressReach::kThisMachine &&
      reach_of(address) != AddressReach::kThisMachine)
    log.warn(
        "a node advertises an address that other machines cannot use; set its node.advertise, or node.listen",
        {{"member", change.member.name}, {"address", change.member.address}});
  switch (change.event) {
    case MembershipEvent::kJoined:
      return log.info(
          "a node joined",
          {{"member", change.member.name}, {"role", change.member.role}, {"address", change.member.address}});
    case MembershipEvent::kLeft:
      return log.info("a node left", {{"member", change.member.name}});
    case MembershipEvent::kDied:
      return log.warn("a node died", {{"member", change.member.name}, {"reason", change.reason}});
    case MembershipEvent::kPublished:
      return log.debug("an actor can be called",
                       {{"actor", change.actor.name}, {"member", change.member.name}});
    case MembershipEvent::kUnpublished:
      return log.debug("an actor ended", {{"actor", change.actor.name}});
  }
}

void NodeImpl::apply_change(const MembershipChange& change) {
  std::vector<std::string> ended;
  const bool gone = change.event == MembershipEvent::kDied || change.event == MembershipEvent::kLeft;
  if (change.event == MembershipEvent::kUnpublished) ended.push_back(change.actor.name);
  if (gone)
    for (const auto& [name, proxy] : proxies)
      if (const auto actor = directory.find_actor(name); actor && (*actor)->node_id == change.member.node_id)
        ended.push_back(name);
  directory.apply(change);
  if (gone) sessions.erase(change.member.node_id);
  if (gone || change.event == MembershipEvent::kJoined) ring.members_changed();
  forget_found();
  log_change(change);
  if (gone) {
    objects->hosted->owner_gone(change.member.node_id);
    endpoint->forget_caller(change.member.node_id);
    // Who leaves says goodbye itself, after the answers that are still under way to it.
    if (change.event == MembershipEvent::kDied)
      endpoint->close_all_with(
          change.member.node_id,
          {Code::kUnavailable, "node '" + change.member.name + "' is gone: " + change.reason});
  }
  for (const std::string& name : ended)
    end_proxy(name,
              {Code::kUnavailable, "the actor '" + name + "' is gone" + (gone ? ": " + change.reason : "")});
  tell_watchers(change);
  if (options.close_with_last && registry && change.event == MembershipEvent::kLeft &&
      directory.list().members.size() == 1)
    stop_driving({});
}

/// Not from here: a watcher may make calls and wait for them, also to the registry, in the middle of whose
/// work this may be.
void NodeImpl::tell_watchers(const MembershipChange& change) {
  for (auto& [number, watcher] : watchers) watcher.untold.push_back(change);
  if (watchers.empty() || std::exchange(watchers_scheduled, true)) return;
  loop->defer([this] {
    watchers_scheduled = false;
    run_watchers();
  });
}

/// A watcher may add watchers and remove any, itself too. While one waits for a call this may be entered
/// again; each sees all changes in order.
void NodeImpl::run_watchers() {
  for (auto next = watchers.begin(); next != watchers.end();) {
    const std::uint64_t number = next->first;
    if (next->second.untold.empty()) {
      ++next;
      continue;
    }
    const MembershipChange change = std::move(next->second.untold.front());
    next->second.untold.pop_front();
    const auto function = next->second.function;  // it may be removed by itself
    try {
      function(change);
    } catch (...) {
      loop->report_exception("a watcher of the membership");
    }
    next = watchers.lower_bound(number);
  }
}

/// A notice was overtaken or lost: ask for everything.
void NodeImpl::relist() {
  if (std::exchange(relisting, true)) return;
  rpc::call_async<Membership>(
      *endpoint, {registry_session, kRegistryActor}, "list", "listing members",
      {.timeout = kListTimeout, .trace = TraceContext::not_traced(), .detached = true})
      .then([this](Result<Membership> membership) {
        relisting = false;
        if (!joined) return;
        if (membership && membership->version >= directory.version()) {
          for (const MembershipChange& change : directory.difference(*membership)) apply_change(change);
          directory.advance_to(membership->version);
        } else if (membership || membership.error().code == Code::kDeadlineExceeded) {
          relist();  // it was older than a notice that came meanwhile, or it was lost
        }
      });
}

Membership Node::membership() {
  if (impl_->loop->is_forked()) return {};
  Loop::Turn turn(*impl_->loop);
  return impl_->directory.list();
}

Result<void> Node::barrier(std::string_view name, const std::vector<std::string>& participants,
                           Duration timeout) {
  // The registry keeps the deadline, so that its answer can say who is missing.
  return rpc::call_sync<void>(
      *impl_->endpoint, {impl_->registry_session, kRegistryActor}, "barrier",
      "barrier '" + std::string(name) + "'",
      {.timeout = timeout > Duration::max() - kAnswerTime ? rpc::kNoDeadline : timeout + kAnswerTime}, name,
      participants, timeout.count());
}

std::uint64_t Node::watch(std::function<void(const MembershipChange&)> watcher) {
  if (impl_->loop->is_forked()) return 0;
  Loop::Turn turn(*impl_->loop);
  impl_->watchers.emplace(impl_->next_watcher, NodeImpl::Watcher{std::move(watcher), {}});
  return impl_->next_watcher++;
}

void Node::unwatch(std::uint64_t watcher) {
  if (impl_->loop->is_forked()) return;
  Loop::Turn turn(*impl_->loop);
  impl_->watchers.erase(watcher);
}

Result<std::vector<Member>> Node::wait_for_role(std::string_view role, std::size_t count, Duration timeout) {
  if (impl_->loop->is_forked()) return HomeProcess::error();
  std::vector<Member> found;
  const auto list = [&] {
    found = impl_->directory.list().members;
    std::erase_if(found, [&](const Member& member) { return member.role != role; });
  };
  std::uint64_t seen = UINT64_MAX;
  const auto enough = [&] {
    const std::uint64_t version = impl_->directory.version();
    // Counted first: while hundreds join, listing them all with each one would cost the cube of their number.
    if (std::exchange(seen, version) != version && impl_->directory.count_members(role) >= count) list();
    return found.size() >= count || !impl_->running;
  };
  impl_->loop->wait_until(enough, impl_->clock->now() + timeout);
  if (found.size() >= count) return found;
  if (auto over = impl_->why_stopped())
    return with_context(*over, "waiting for role '" + std::string(role) + "'");
  {
    Loop::Turn turn(*impl_->loop);
    list();
  }
  std::string there;
  for (const Member& member : found) (there += there.empty() ? "" : ", ") += member.name;
  return Error{Code::kDeadlineExceeded, "waited for " + std::to_string(count) + " nodes of role '" +
                                            std::string(role) + "', there are " +
                                            std::to_string(found.size()) +
                                            (there.empty() ? "" : " (" + there + ")")};
}

Result<void> Node::wait_for_actor(std::string_view name, Duration timeout) {
  NodeImpl& node = *impl_;
  if (node.loop->is_forked()) return HomeProcess::error();
  bool seen = false;
  const auto there = [&] {
    seen = node.local_names.contains(name) || node.directory.has_actor(name);
    return seen || !node.running;
  };
  node.loop->wait_until(there, node.clock->now() + timeout);
  if (seen) return {};  // it may have gone already
  Loop::Turn turn(*node.loop);
  const auto found = node.directory.find_actor(name);
  if (found) return {};
  if (auto over = node.why_stopped()) return with_context(*over, "waiting for '" + std::string(name) + "'");
  return Error{Code::kDeadlineExceeded,
               "waited for the actor '" + std::string(name) + "': " + found.error().message};
}

}  // namespace troupe
