#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include <troupe/actors/membership.hpp>
#include <troupe/rpc/methods.hpp>
#include <troupe/runtime/result.hpp>

#include "barriers.hpp"

namespace troupe {

/// Who is in the cluster: the state of the actor number kRegistryActor of the first node. It knows members
/// by the session on which they joined; the end of that session is their death.
class Registry {
 public:
  /// Sends a change to a member.
  using Notify = std::function<void(rpc::SessionId, const MembershipChange&)>;

  Registry(Loop& loop, Notify notify) : notify_(std::move(notify)), barriers_(loop) {}
  static void methods(rpc::Methods<Registry>& methods);

  /// The membership with the newcomer in it. kAlreadyExists: a living node has the name.
  Result<Membership> join(const rpc::CallContext& context, const Member& member);
  /// Idempotent.
  Result<void> leave(const rpc::CallContext& context);
  /// kAlreadyExists: a living actor has the name. kFailedPrecondition: the caller has not joined.
  Result<void> publish(const rpc::CallContext& context, const std::string& name, std::uint64_t number);
  Result<void> unpublish(const rpc::CallContext& context, const std::string& name);
  Membership list() const;
  /// Of the last change: what it costs a member to see that it has missed nothing.
  std::uint64_t version() const { return version_; }

  /// Waits in Node::barrier(): see there, and Barriers. kUnavailable: one of the participants is gone.
  rpc::Future<void> barrier(const rpc::CallContext& context, const std::string& name,
                            const std::vector<std::string>& participants, std::int64_t timeout_ns);

  /// The session's end: its member has died, unless it has left.
  void session_closed(rpc::SessionId session, const std::string& reason);

 private:
  struct Entry {
    Member member;
    std::map<std::string, std::uint64_t> actors;
  };
  void remove(rpc::SessionId session, MembershipEvent event, const std::string& reason);
  void announce(MembershipChange change, rpc::SessionId except);
  void send_notices();

  struct Notice {
    MembershipChange change;
    rpc::SessionId except;
  };
  Notify notify_;
  Barriers barriers_;
  std::map<std::string, std::string> gone_;  // why names are not there any more; bounded
  std::uint64_t version_ = 0;
  std::deque<Notice> notices_;
  bool sending_ = false;
  std::map<rpc::SessionId, Entry> entries_;
};

}  // namespace troupe
