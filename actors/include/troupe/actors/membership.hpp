#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <tuple>
#include <vector>

#include <troupe/rpc/codec.hpp>

namespace troupe {

/// A node that has joined.
struct Member {
  std::uint64_t node_id = 0;  ///< random, one life of the node
  std::string name;           ///< unique among the living
  std::string role;           ///< what it is there for: "server", "worker" ...
  std::string address;        ///< where it listens
  std::map<std::string, std::string> metadata;
};

/// A named actor and where it lives.
struct NamedActor {
  std::string name;  ///< unique in the cluster
  std::uint64_t node_id = 0;
  std::uint64_t number = 0;  ///< the node's number for it
};

/// Everything the registry knows. `version` counts its changes.
struct Membership {
  std::uint64_t version = 0;
  std::vector<Member> members;
  std::vector<NamedActor> actors;
};

enum class MembershipEvent : std::uint8_t {
  kJoined,       ///< `member` joined
  kLeft,         ///< `member` left in good order; its actors are gone
  kDied,         ///< `member` was found dead (`reason`); its actors are gone
  kPublished,    ///< `actor` can be called
  kUnpublished,  ///< `actor` has ended
};

/// One change of the membership, the step to `version`.
struct MembershipChange {
  std::uint64_t version = 0;
  MembershipEvent event{};
  Member member;
  NamedActor actor;
  std::string reason;
};

}  // namespace troupe

template <>
struct troupe::rpc::Fields<troupe::Member> {
  static constexpr std::string_view name = "Member";
  static constexpr auto fields =
      std::tuple(&troupe::Member::node_id, &troupe::Member::name, &troupe::Member::role,
                 &troupe::Member::address, &troupe::Member::metadata);
};
template <>
struct troupe::rpc::Fields<troupe::NamedActor> {
  static constexpr std::string_view name = "NamedActor";
  static constexpr auto fields =
      std::tuple(&troupe::NamedActor::name, &troupe::NamedActor::node_id, &troupe::NamedActor::number);
};
template <>
struct troupe::rpc::Fields<troupe::Membership> {
  static constexpr std::string_view name = "Membership";
  static constexpr auto fields =
      std::tuple(&troupe::Membership::version, &troupe::Membership::members, &troupe::Membership::actors);
};
template <>
struct troupe::rpc::Fields<troupe::MembershipChange> {
  static constexpr std::string_view name = "MembershipChange";
  static constexpr auto fields = std::tuple(
      &troupe::MembershipChange::version, &troupe::MembershipChange::event, &troupe::MembershipChange::member,
      &troupe::MembershipChange::actor, &troupe::MembershipChange::reason);
};
