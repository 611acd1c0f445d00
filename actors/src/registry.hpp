#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <troupe/actors/membership.hpp>
#include <troupe/rpc/methods.hpp>
#include <troupe/runtime/result.hpp>

#include "barriers.hpp"

namespace troupe {

/// Who is in the cluster: the state of the actor number kRegistryActor of the first node. It knows members
/// by the session on which they joined; the end of that session is their death.
class Registry : public std::enable_shared_from_this<Registry> {
 public:
  struct Ways {
    /// Tells a member of changes, in their order.
    std::function<void(rpc::SessionId, const std::vector<MembershipChange>&)> notify;
    /// Endpoint::suspect()
    std::function<void(rpc::SessionId, Duration silence)> suspect;
    /// The node at the other end, as the meeting has found it to be; 0: there is none any more.
    std::function<std::uint64_t(rpc::SessionId)> node_of;
  };

  Registry(Loop& loop, Ways ways) : loop_(loop), ways_(std::move(ways)), barriers_(loop) {}
  static void methods(rpc::Methods<Registry>& methods);

  /// The membership with the newcomer in it. kAlreadyExists: a living node has the name.
  /// kPermissionDenied: the caller is another node than the one that it says it is.
  Result<Membership> join(const rpc::CallContext& context, const Member& member);
  /// The member goes soon: its actors are found by nobody any more, and it publishes no more.
  Result<void> leaving(const rpc::CallContext& context);
  /// Idempotent.
  Result<void> leave(const rpc::CallContext& context);
  /// kAlreadyExists: a living actor has the name. kFailedPrecondition: the caller has not joined.
  Result<void> publish(const rpc::CallContext& context, const std::string& name, std::uint64_t number);
  Result<void> unpublish(const rpc::CallContext& context, const std::string& name);
  /// A member has heard nothing of another one for so long: that one is asked, and if it does not answer its
  /// session ends, and with it its membership.
  Result<void> suspect(const rpc::CallContext& context, std::uint64_t node_id, std::int64_t silence_ns);
  void suspect_member(std::uint64_t node_id, Duration silence);
  Membership list() const;
  /// On which a member joined. Looks at all.
  std::optional<rpc::SessionId> session_of(std::uint64_t node_id) const;

  /// Waits in Node::barrier(): see there, and Barriers. kUnavailable: one of the participants is gone.
  rpc::Future<void> barrier(const rpc::CallContext& context, const std::string& name,
                            const std::vector<std::string>& participants, std::int64_t timeout_ns);

  /// The session's end: its member has died, unless it has left.
  void session_closed(rpc::SessionId session, const std::string& reason);

 private:
  struct Entry {
    Member member;
    std::map<std::string, std::uint64_t> actors;
    std::uint64_t told = 0;  // all changes up to this version, by the answer to its join or by notices
    bool leaving = false;
  };
  void remove(rpc::SessionId session, MembershipEvent event, const std::string& reason);
  void announce(MembershipChange change);
  void tell_own_node();
  void notify(rpc::SessionId member, const std::vector<MembershipChange>& changes);
  void tell(rpc::SessionId member, const std::vector<MembershipChange>& changes);
  void send_notices();

  Loop& loop_;
  Ways ways_;
  Barriers barriers_;
  std::map<std::string, std::string> gone_;  // why names are not there any more; bounded
  std::uint64_t version_ = 0;
  std::vector<MembershipChange> notices_;     // that no other node was told of yet
  std::deque<MembershipChange> own_notices_;  // that this one was not told of
  bool telling_own_node_ = false;
  std::map<rpc::SessionId, Entry> entries_;
};

}  // namespace troupe
