#include "registry.hpp"

#include <utility>
#include <vector>

namespace troupe {

namespace {
constexpr rpc::SessionId kNobody = UINT64_MAX;
constexpr std::size_t kMaxGone = 4096;
}  // namespace

void Registry::methods(rpc::Methods<Registry>& methods) {
  methods.add("join", &Registry::join)
      .add("leave", &Registry::leave)
      .add("publish", &Registry::publish)
      .add("unpublish", &Registry::unpublish)
      .add("list", &Registry::list)
      .add("barrier", &Registry::barrier)
      .add("version", &Registry::version);
}

Result<Membership> Registry::join(const rpc::CallContext& context, const Member& member) {
  if (member.name.empty() || member.node_id == 0)
    return Error{Code::kInvalidArgument, "a node needs a name and an id to join"};
  for (const auto& [session, entry] : entries_) {
    if (entry.member.name == member.name)
      return Error{Code::kAlreadyExists, "a node named '" + member.name + "' has joined already, from " +
                                             entry.member.address + "; give this one another name"};
    if (session == context.session) return Error{Code::kAlreadyExists, "this node has joined already"};
  }
  entries_[context.session] = {member, {}};
  gone_.erase(member.name);
  announce({0, MembershipEvent::kJoined, member, {}, ""}, context.session);
  return list();
}

Result<void> Registry::leave(const rpc::CallContext& context) {
  remove(context.session, MembershipEvent::kLeft, "it left");
  return {};
}

Result<void> Registry::publish(const rpc::CallContext& context, const std::string& name,
                               std::uint64_t number) {
  const auto own = entries_.find(context.session);
  if (own == entries_.end()) return Error{Code::kFailedPrecondition, "join before publishing '" + name + "'"};
  for (const auto& [session, entry] : entries_)
    if (entry.actors.contains(name))
      return Error{Code::kAlreadyExists, "an actor named '" + name + "' lives on node '" + entry.member.name +
                                             "' already; give this one another name"};
  own->second.actors.emplace(name, number);
  announce(
      {0, MembershipEvent::kPublished, own->second.member, {name, own->second.member.node_id, number}, ""},
      kNobody);
  return {};
}

Result<void> Registry::unpublish(const rpc::CallContext& context, const std::string& name) {
  const auto own = entries_.find(context.session);
  if (own == entries_.end()) return {};
  const auto actor = own->second.actors.find(name);
  if (actor == own->second.actors.end()) return {};
  const NamedActor ended{name, own->second.member.node_id, actor->second};
  own->second.actors.erase(actor);
  announce({0, MembershipEvent::kUnpublished, own->second.member, ended, "it ended"}, kNobody);
  return {};
}

rpc::Future<void> Registry::barrier(const rpc::CallContext& context, const std::string& name,
                                    const std::vector<std::string>& participants, std::int64_t timeout_ns) {
  const auto own = entries_.find(context.session);
  if (own == entries_.end())
    return barriers_.refuse({Code::kFailedPrecondition, "join before waiting at a barrier"});
  for (const std::string& participant : participants)
    if (const auto gone = gone_.find(participant); gone != gone_.end())
      return barriers_.refuse(Barriers::gone_error(participant, gone->second));
  return barriers_.enter(name, own->second.member.name, participants, Duration(timeout_ns));
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
  announce({0, event, member, {}, reason}, session);
}

void Registry::announce(MembershipChange change, rpc::SessionId except) {
  change.version = ++version_;
  notices_.push_back({std::move(change), except});
  if (!sending_) send_notices();
}

/// What is told may lead to the next change, before this one has been told to everybody; that one waits, so
/// that all hear of them in order.
void Registry::send_notices() {
  sending_ = true;
  while (!notices_.empty()) {
    const Notice notice = std::move(notices_.front());
    notices_.pop_front();
    std::vector<rpc::SessionId> members;
    for (const auto& [session, entry] : entries_)
      if (session != notice.except) members.push_back(session);
    for (const rpc::SessionId member : members)
      if (entries_.contains(member)) notify_(member, notice.change);
  }
  sending_ = false;
}

}  // namespace troupe
