#include "directory.hpp"

#include <algorithm>

#include <troupe/runtime/text.hpp>

namespace troupe {

namespace {
constexpr std::size_t kMaxGone = 4096;
constexpr std::size_t kMaxOver = 1 << 16;
}  // namespace

void Directory::reset(const Membership& membership) {
  version_ = membership.version;
  members_.clear();
  ring_.clear();
  actors_.clear();
  for (const Member& member : membership.members)
    members_[member.node_id] = member, ring_.insert(member.node_id);
  for (const NamedActor& actor : membership.actors) actors_[actor.name] = actor;
}

std::vector<MembershipChange> Directory::difference(const Membership& membership) const {
  Directory next;
  next.reset(membership);
  std::vector<MembershipChange> changes;
  const auto add = [&](MembershipEvent event, const Member& member, const NamedActor& actor) {
    changes.push_back(
        {membership.version, event, member, actor, "it was gone when members were listed anew"});
  };
  for (const auto& [id, member] : members_)
    if (!next.find_member(id)) add(MembershipEvent::kDied, member, {});
  for (const auto& [name, actor] : actors_) {
    const auto kept = next.actors_.find(name);
    const bool same = kept != next.actors_.end() && kept->second.node_id == actor.node_id &&
                      kept->second.number == actor.number;
    const Member* member = next.find_member(actor.node_id);
    if (!same && member) add(MembershipEvent::kUnpublished, *member, actor);
  }
  for (const auto& [id, member] : next.members_)
    if (!find_member(id)) add(MembershipEvent::kJoined, member, {});
  for (const auto& [name, actor] : next.actors_) {
    const auto known = actors_.find(name);
    const bool same = known != actors_.end() && known->second.node_id == actor.node_id &&
                      known->second.number == actor.number;
    const Member* member = next.find_member(actor.node_id);
    if (!same && member) add(MembershipEvent::kPublished, *member, actor);
  }
  return changes;
}

void Directory::apply(const MembershipChange& change) {
  version_ = change.version;
  switch (change.event) {
    case MembershipEvent::kJoined:
      members_[change.member.node_id] = change.member;
      ring_.insert(change.member.node_id);
      break;
    case MembershipEvent::kLeft:
      remove_member(change.member, "its node '" + change.member.name + "' has left");
      break;
    case MembershipEvent::kDied:
      remove_member(change.member, "its node '" + change.member.name + "' died: " + change.reason);
      break;
    case MembershipEvent::kPublished:
      actors_[change.actor.name] = change.actor;
      gone_.erase(change.actor.name);
      break;
    case MembershipEvent::kUnpublished:
      actors_.erase(change.actor.name);
      if (gone_.size() < kMaxGone)
        gone_[change.actor.name] = change.reason.empty() ? "it has ended" : change.reason;
      break;
  }
}

void Directory::remove_member(const Member& member, const std::string& why) {
  members_.erase(member.node_id);
  ring_.erase(member.node_id);
  if (over_.insert(member.node_id).second) over_in_order_.push_back(member.node_id);
  if (over_in_order_.size() > kMaxOver) {
    over_.erase(over_in_order_.front());
    over_in_order_.pop_front();
  }
  std::erase_if(actors_, [&](const auto& entry) {
    if (entry.second.node_id != member.node_id) return false;
    if (gone_.size() < kMaxGone) gone_[entry.first] = why;
    return true;
  });
}

Result<const NamedActor*> Directory::find_actor(std::string_view name) const {
  if (const auto found = actors_.find(name); found != actors_.end()) return &found->second;
  if (const auto gone = gone_.find(name); gone != gone_.end())
    return Error{Code::kUnavailable, "the actor is gone: " + gone->second};
  NearestName nearest(name);
  for (const auto& [known, actor] : actors_) nearest.offer(known);
  std::string message = "no actor is named '" + std::string(name) + "'";
  if (!nearest.best().empty())
    message += "; did you mean '" + std::string(nearest.best()) + "'?";
  else
    message += " (" + std::to_string(actors_.size()) + " others are known)";
  return Error{Code::kNotFound, message};
}

std::size_t Directory::count_members(std::string_view role) const {
  return static_cast<std::size_t>(std::count_if(
      members_.begin(), members_.end(), [&](const auto& entry) { return entry.second.role == role; }));
}

std::vector<std::uint64_t> Directory::after(std::uint64_t node_id, std::size_t count) const {
  std::vector<std::uint64_t> found;
  auto next = ring_.upper_bound(node_id);
  for (std::size_t looked_at = 0; looked_at < ring_.size() && found.size() < count; ++looked_at, ++next) {
    if (next == ring_.end()) next = ring_.begin();
    if (*next != node_id) found.push_back(*next);
  }
  return found;
}

std::vector<std::uint64_t> Directory::before(std::uint64_t node_id, std::size_t count) const {
  std::vector<std::uint64_t> found;
  auto next = ring_.lower_bound(node_id);
  for (std::size_t looked_at = 0; looked_at < ring_.size() && found.size() < count; ++looked_at) {
    if (next == ring_.begin()) next = ring_.end();
    if (*--next != node_id) found.push_back(*next);
  }
  return found;
}

std::string_view Directory::name_of_actor(std::uint64_t number) const {
  for (const auto& [name, actor] : actors_)
    if (actor.number == number) return name;
  return {};
}

const Member* Directory::find_member(std::uint64_t node_id) const {
  const auto found = members_.find(node_id);
  return found == members_.end() ? nullptr : &found->second;
}

const Member* Directory::find_member_named(std::string_view name) const {
  for (const auto& [id, member] : members_)
    if (member.name == name) return &member;
  return nullptr;
}

Membership Directory::list() const {
  Membership all{version_, {}, {}};
  for (const auto& [id, member] : members_) all.members.push_back(member);
  for (const auto& [name, actor] : actors_) all.actors.push_back(actor);
  std::sort(all.members.begin(), all.members.end(),
            [](const Member& a, const Member& b) { return a.name < b.name; });
  std::sort(all.actors.begin(), all.actors.end(),
            [](const NamedActor& a, const NamedActor& b) { return a.name < b.name; });
  return all;
}

}  // namespace troupe
