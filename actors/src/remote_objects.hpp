#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include <troupe/actors/remote.hpp>
#include <troupe/rpc/endpoint.hpp>
#include <troupe/runtime/timer.hpp>

namespace troupe {

struct NodeImpl;
class OwnedObjects;

/// Objects' numbers are chosen by those who make them and have this bit, other actors' numbers do not. The
/// rest is the maker's id and a count, so that numbers of one maker grow and are used once.
inline constexpr std::uint64_t kObjectBit = std::uint64_t{1} << 63;

/// The latest few thousand of what has been: a set of bounded size.
class RecentNumbers {
 public:
  void add(std::uint64_t number);
  bool contains(std::uint64_t number) const { return set_.contains(number); }

 private:
  std::unordered_set<std::uint64_t> set_;
  std::deque<std::uint64_t> order_;
};

/// What other nodes have made here. An object ends when its owner releases it, when the owner's list of what
/// it holds lacks it, or when the owner is gone from the membership. The state of the actor number
/// kObjectsActor. With the turn.
class HostedObjects final : public detail::ObjectHost {
 public:
  explicit HostedObjects(NodeImpl& node);

  /// Lets objects of a type be made: `constructors` has its constructor under `name`.
  void add_constructor(const std::string& name, const rpc::MethodTable& constructors);
  std::shared_ptr<const rpc::MethodTable> methods() const { return methods_; }
  /// A call to an object that is not there: keeps it for the object to come, or refuses it.
  void take(rpc::InboundCallPtr call);
  void owner_gone(std::uint64_t owner);
  /// Now and then: refuses the calls whose objects did not come.
  void refuse_late(TimePoint now);
  std::size_t size() const { return owners_.size(); }

  Result<void> may_make(const rpc::CallContext& context, std::uint64_t number) override;
  void make(const rpc::CallContext& context, std::uint64_t number, std::shared_ptr<void> state,
            std::shared_ptr<const rpc::MethodTable> methods) override;

 private:
  struct Early {
    rpc::InboundCallPtr call;
    TimePoint until;
  };
  Result<void> release(const rpc::CallContext& context, std::uint64_t number);
  Result<void> keep_only(const rpc::CallContext& context, std::uint64_t below,
                         const std::vector<std::uint64_t>& held);
  std::uint64_t caller_of(const rpc::CallContext& context) const;
  void end(std::uint64_t number);

  NodeImpl& node_;
  std::shared_ptr<rpc::MethodTable> methods_ = std::make_shared<rpc::MethodTable>();
  std::unordered_map<std::uint64_t, std::uint64_t> owners_;             // by object
  std::unordered_map<std::uint64_t, std::set<std::uint64_t>> objects_;  // by owner
  RecentNumbers ended_;
  RecentNumbers gone_owners_;
  std::map<std::uint64_t, std::deque<Early>> early_;  // calls that overtook the creation, by object
  std::size_t early_calls_ = 0, early_bytes_ = 0;
};

/// What this node has made at others. Tells them when it lets an object go, and, until they have confirmed
/// it, again and again what it still holds. With the turn.
class OwnedObjects final : public std::enable_shared_from_this<OwnedObjects> {
 public:
  explicit OwnedObjects(NodeImpl& node);

  std::shared_ptr<detail::RemoteObject> make(
      std::string_view where, std::string_view type, rpc::MethodId method,
      const std::function<void(std::uint64_t, rpc::OutMessage&)>& body);
  void release(std::uint64_t node_id, std::uint64_t number);
  /// The same on any thread, also one that has not the turn. Nothing after close().
  void release_soon(std::uint64_t node_id, std::uint64_t number);
  /// The node goes.
  void close();
  /// Now and then, until all releases are confirmed.
  void reconcile();
  NodeImpl& node() { return node_; }

 private:
  struct At {
    std::set<std::uint64_t> held;
    std::uint64_t releases = 0, confirmed = 0;  // how many there were, and how many the node knows of
    bool asking = false;
  };
  void tell_what_is_held(std::uint64_t node_id, At& at);

  NodeImpl& node_;
  std::mutex mutex_;
  Loop* loop_;  // null: closed. With the mutex
  std::uint64_t next_number_;
  std::map<std::uint64_t, At> at_;  // by node id
};

/// Both, and the time that makes them look after themselves.
class RemoteObjects final : private TimerNode {
 public:
  explicit RemoteObjects(NodeImpl& node);
  /// Before the loop goes.
  void close();

  std::shared_ptr<HostedObjects> hosted;
  std::shared_ptr<OwnedObjects> owned;

 private:
  void on_timer() override;
  NodeImpl& node_;
};

}  // namespace troupe
