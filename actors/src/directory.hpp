#pragma once

#include <cstdint>
#include <deque>
#include <set>
#include <string>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include <troupe/actors/membership.hpp>
#include <troupe/runtime/result.hpp>

namespace troupe {

/// A node's copy of the registry's contents, kept by its notices: names resolve here, without a message.
class Directory {
 public:
  /// Starts from a snapshot.
  void reset(const Membership& membership);
  /// The changes that lead from what is known to `membership`, for a node that has missed notices. All have
  /// its version; who is gone without a known reason counts as dead.
  std::vector<MembershipChange> difference(const Membership& membership) const;
  /// Nothing up to this version is missing.
  void advance_to(std::uint64_t version) { version_ = version; }
  /// Makes a change. Precondition: its version is not below version().
  void apply(const MembershipChange& change);

  /// Never null; valid until the next change. kNotFound, with the nearest name, or kUnavailable if its node
  /// died or left.
  Result<const NamedActor*> find_actor(std::string_view name) const;
  /// The name of the actor with this number; empty: it has none. Looks at all.
  std::string_view name_of_actor(std::uint64_t number) const;
  /// Cheaper than find_actor() where it is not.
  bool has_actor(std::string_view name) const { return actors_.find(name) != actors_.end(); }
  std::size_t count_members(std::string_view role) const;
  /// Up to `count` members that follow a node, or go before it, in the ring of ids, the nearest first; never
  /// itself.
  std::vector<std::uint64_t> after(std::uint64_t node_id, std::size_t count) const;
  std::vector<std::uint64_t> before(std::uint64_t node_id, std::size_t count) const;
  const Member* find_member(std::uint64_t node_id) const;
  /// Whether this life of a node has ended for the cluster: it died, or was taken for dead, or left.
  bool is_over(std::uint64_t node_id) const { return over_.contains(node_id); }
  const Member* find_member_named(std::string_view name) const;
  Membership list() const;
  std::uint64_t version() const { return version_; }

 private:
  struct StringHash {
    using is_transparent = void;
    std::size_t operator()(std::string_view text) const { return std::hash<std::string_view>()(text); }
  };
  void remove_member(const Member& member, const std::string& why);

  std::uint64_t version_ = 0;
  std::unordered_map<std::uint64_t, Member> members_;
  std::set<std::uint64_t> ring_;  // their ids
  std::unordered_map<std::string, NamedActor, StringHash, std::equal_to<>> actors_;
  /// Why names that were there are gone, so that a late caller hears the truth. Bounded.
  std::unordered_map<std::string, std::string, StringHash, std::equal_to<>> gone_;
  /// Node ids, each of one life, that are no more; the latest, in the order in which they went.
  std::unordered_set<std::uint64_t> over_;
  std::deque<std::uint64_t> over_in_order_;
};

}  // namespace troupe
