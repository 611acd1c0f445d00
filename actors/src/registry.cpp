#include "registry.hpp"

#include <algorithm>
#include <utility>
#include <vector>

#include <troupe/runtime/raised.hpp>

#include "identity.hpp"

namespace troupe {

namespace {
constexpr std::size_t kMaxGone = 4096;
constexpr std::size_t kMostActorName = 4096;  // all members keep it
}  // namespace

void Registry::methods(rpc::Methods<Registry>& methods) {
  methods.add("join", &Registry::join)
      .add("leaving", &Registry::leaving)
      .add("leave", &Registry::leave)
      .add("publish", &Registry::publish)
      .add("unpublish", &Registry::unpublish)
      .add("list", &Registry::list)
      .add("barrier", &Registry::barrier)
      .add("suspect", &Registry::suspect);
}

Result<Membership> Registry::join(const rpc::CallContext& context, const Member& member) {
  if (auto fit = check_member(member); !fit) return fit.error();
  // Who may be called by a member's id, and whose calls are forgotten with it, is that member's business.
  if (ways_.node_of(context.session) != member.node_id)
    return Error{Code::kPermissionDenied, "a node joins for itself: '" + member.name +
                                              "' is said to have an id that is not its caller's"};
  for (const auto& [session, entry] : entries_) {
    if (entry.member.name == member.name)
      return Error{Code::kAlreadyExists, "a node named '" + member.name + "' has joined already, from " +
                                             entry.member.address + "; give this one another name"};
    if (entry.member.node_id == member.node_id)
      return Error{Code::kAlreadyExists,
                   "a node with this id has joined already: '" + entry.member.name + "'"};
    if (session == context.session) return Error{Code::kAlreadyExists, "this node has joined already"};
  }
  gone_.erase(member.name);
  announce({0, MembershipEvent::kJoined, member, {}, ""});
  entries_[context.session] = {member, {}, version_, false};
  return list();
}

Result<void> Registry::leaving(const rpc::CallContext& context) {
  const auto own = entries_.find(context.session);
  if (own == entries_.end()) return {};
  own->second.leaving = true;
  const Member member = own->second.member;
  for (const auto& [name, number] : std::exchange(own->second.actors, {}))
    announce({0,
              MembershipEvent::kUnpublished,
              member,
              {name, member.node_id, number},
              "its node '" + member.name + "' is leaving"});
  send_notices();
  return {};
}

Result<void> Registry::leave(const rpc::CallContext& context) {
  remove(context.session, MembershipEvent::kLeft, "it left");
  return {};
}

Result<void> Registry::publish(const rpc::CallContext& context, const std::string& name,
                               std::uint64_t number) {
  const auto own = entries_.find(context.session);
  if (own == entries_.end()) return Error{Code::kFailedPrecondition, "join before publishing '" + name + "'"};
  if (name.empty() || name.size() > kMostActorName)
    return Error{Code::kInvalidArgument,
                 "an actor's name has 1 to " + std::to_string(kMostActorName) + " bytes"};
  if (own->second.leaving)
    return Error{Code::kFailedPrecondition, "a node that is leaving publishes no actor '" + name + "'"};
  // A node has one actor of a name at a time: that the former one had ended did not arrive here.
  if (own->second.actors.contains(name)) static_cast<void>(unpublish(context, name));
  for (const auto& [session, entry] : entries_)
    if (entry.actors.contains(name))
      return Error{Code::kAlreadyExists, "an actor named '" + name + "' lives on node '" + entry.member.name +
                                             "' already; give this one another name"};
  own->second.actors.emplace(name, number);
  announce(
      {0, MembershipEvent::kPublished, own->second.member, {name, own->second.member.node_id, number}, ""});
  tell(context.session, notices_);  // before the answer: who has published knows what is published
  return {};
}

Result<void> Registry::unpublish(const rpc::CallContext& context, const std::string& name) {
  const auto own = entries_.find(context.session);
  if (own == entries_.end()) return {};
  const auto actor = own->second.actors.find(name);
  if (actor == own->second.actors.end()) return {};
  const NamedActor ended{name, own->second.member.node_id, actor->second};
  own->second.actors.erase(actor);
  announce({0, MembershipEvent::kUnpublished, own->second.member, ended, "it has ended"});
  tell(context.session, notices_);
  return {};
}

rpc::Future<void> Registry::barrier(const rpc::CallContext& context, const std::string& name,
                                    const std::vector<std::string>& participants, std::int64_t timeout_ns) {
  send_notices();  // who comes to a barrier may take it that all know what was done before
  const auto own = entries_.find(context.session);
  if (own == entries_.end())
    return barriers_.refuse({Code::kFailedPrecondition, "join before waiting at a barrier"});
  for (const std::string& participant : participants)
    if (const auto gone = gone_.find(participant); gone != gone_.end())
      return barriers_.refuse(Barriers::gone_error(participant, gone->second));
  return barriers_.enter(name, own->second.member.name, participants, Duration(timeout_ns));
}

std::optional<rpc::SessionId> Registry::session_of(std::uint64_t node_id) const {
  for (const auto& [session, entry] : entries_)
    if (entry.member.node_id == node_id) return session;
  return {};
}

Membership Registry::list() const {
  Membership all{version_, {}, {}};
  for (const auto& [session, entry] : entries_) {
    all.members.push_back(entry.member);
    for (const auto& [name, number] : entry.actors)
      all.actors.push_back({name, entry.member.node_id, number});
  }
  return all;
}

void Registry::session_closed(rpc::SessionId session, const std::string& reason) {
  remove(session, MembershipEvent::kDied, reason);
}

void Registry::remove(rpc::SessionId session, MembershipEvent event, const std::string& reason) {
  const auto found = entries_.find(session);
  if (found == entries_.end()) return;
  const Member member = found->second.member;
  entries_.erase(found);
  if (gone_.size() < kMaxGone) gone_[member.name] = reason;
  barriers_.gone(member.name, reason);
  announce({0, event, member, {}, reason});
}

/// Other nodes are told at the end of the round: if many join at once, each hears of all of them by one
/// message.
void Registry::announce(MembershipChange change) {
  change.version = ++version_;
  own_notices_.push_back(change);
  notices_.push_back(std::move(change));
  if (notices_.size() == 1)
    loop_.defer([weak = weak_from_this()] {
      if (const auto self = weak.lock()) self->send_notices();
    });
  tell_own_node();
}

/// Whoever is told may throw; the others are to be told all the same.
void Registry::notify(rpc::SessionId member, const std::vector<MembershipChange>& changes) {
  try {
    ways_.notify(member, changes);
  } catch (...) {
    loop_.report_exception("who is told of the membership");
  }
}

/// What is told may lead to the next change, before this one has been told to all of the node; that one
/// waits.
void Registry::tell_own_node() {
  if (telling_own_node_) return;
  const Raised telling(telling_own_node_);
  while (!own_notices_.empty()) {
    const MembershipChange change = std::move(own_notices_.front());
    own_notices_.pop_front();
    if (entries_.contains(rpc::kLocal)) notify(rpc::kLocal, {change});
  }
}

void Registry::send_notices() {
  const std::vector<MembershipChange> changes = std::exchange(notices_, {});
  if (changes.empty()) return;
  std::vector<rpc::SessionId> members;
  members.reserve(entries_.size());
  for (const auto& [session, entry] : entries_)
    if (session != rpc::kLocal) members.push_back(session);
  for (const rpc::SessionId member : members) tell(member, changes);
}

void Registry::tell(rpc::SessionId member, const std::vector<MembershipChange>& changes) {
  const auto found = entries_.find(member);
  if (member == rpc::kLocal || found == entries_.end() || changes.empty()) return;
  const std::uint64_t told =
      std::exchange(found->second.told, std::max(found->second.told, changes.back().version));
  const auto news = std::find_if(changes.begin(), changes.end(),
                                 [&](const MembershipChange& change) { return change.version > told; });
  if (news == changes.begin())
    notify(member, changes);
  else if (news != changes.end())
    notify(member, {news, changes.end()});
}

Result<void> Registry::suspect(const rpc::CallContext& context, std::uint64_t node_id,
                               std::int64_t silence_ns) {
  if (!entries_.contains(context.session))
    return Error{Code::kFailedPrecondition, "join before telling of others"};
  suspect_member(node_id, Duration(std::max<std::int64_t>(silence_ns, 0)));
  return {};
}

void Registry::suspect_member(std::uint64_t node_id, Duration silence) {
  for (const auto& [session, entry] : entries_)
    if (entry.member.node_id == node_id) return ways_.suspect(session, silence);
}

}  // namespace troupe
