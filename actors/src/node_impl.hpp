#pragma once

#include <array>
#include <atomic>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

#include <caf/all.hpp>

#include <troupe/actors/node.hpp>
#include <troupe/actors/node_metrics.hpp>

#include "caf_values.hpp"
#include "directory.hpp"
#include "identity.hpp"
#include "log_rate.hpp"
#include "loop_unit.hpp"
#include "node_pool.hpp"
#include "node_tracing.hpp"
#include "registry.hpp"
#include "remote_objects.hpp"
#include "watch_ring.hpp"
#include "withdrawals.hpp"
#include "worker_actor.hpp"

namespace troupe {

/// How many failures of handlers are logged at once, and how often one more is.
inline constexpr int kFailuresAtOnce = 10;
inline constexpr Duration kFailurePause{std::chrono::seconds(1)};

/// Numbers that actors have on every node.
inline constexpr std::uint64_t kRegistryActor = 1;  ///< on the first node only
inline constexpr std::uint64_t kNodeActor = 2;      ///< takes the registry's notices
inline constexpr std::uint64_t kObjectsActor = 3;   ///< makes and ends objects for other nodes
/// The first of a node's own: no two lives of nodes give the same number, so that a call to a node that has
/// died cannot reach another one that took its address.
inline std::uint64_t first_actor(std::uint64_t node_id) {
  return ((node_id << 20) | (1U << 10)) & ~kObjectBit;
}

/// Hears, on any thread, of the end of the application's actors that are published; outlives the node.
class EndWatch {
 public:
  explicit EndWatch(NodeImpl& node) : node_(&node) {}
  /// `state` stands for the actor under its name: see PublishedActor.
  void actor_ended(const std::weak_ptr<void>& state, const std::string& name);
  void close() {
    const std::lock_guard lock(mutex_);
    node_ = nullptr;
  }

 private:
  std::mutex mutex_;
  NodeImpl* node_;
};

/// What a node is made of. State of the loop, but for what says otherwise.
struct NodeImpl final : rpc::EndpointEvents {
  explicit NodeImpl(NodeOptions node_options);
  ~NodeImpl() override;

  // node.cpp: coming and going
  Result<void> start();
  Result<void> drive_on_thread();
  Result<void> listen(const SharedSecret& secret);
  Result<void> join();
  Result<rpc::SessionId> meet_registry(TimePoint deadline);
  Result<void> advertise_address();
  void leave();
  Result<void> drain(Duration time);
  bool refuses_now(const rpc::InboundCall& call) const;
  void answer_everything();
  Result<void> withdraw(const std::string& name);
  void add_actor(std::string name, std::shared_ptr<void> state,
                 std::shared_ptr<const rpc::MethodTable> methods, std::uint64_t number);
  void end_actor(std::uint64_t number);
  void stop_driving(Result<void> outcome);
  std::optional<Error> why_stopped();

  // node_calls.cpp: calls and membership
  void on_call(rpc::InboundCallPtr call) override;
  bool takes_directly(std::uint64_t actor, std::uint64_t method, const void* type) override;
  void on_failure(const rpc::InboundCall& call, const Error& error) override;
  rpc::CallNames names_of(const rpc::CallTarget& target, std::uint64_t method) override;
  Result<void> may_meet(const rpc::Peer& peer) override;
  void on_session(rpc::SessionId session, const rpc::Peer& peer) override;
  void on_session_closed(rpc::SessionId session, const rpc::Peer& peer, const Error& error) override;
  void on_device_way(rpc::SessionId session, const rpc::Peer& peer, const std::string& way) override;
  void on_quiet(rpc::SessionId session, const rpc::Peer& peer, Duration silence) override;
  std::uint64_t news() override { return joined && !alone ? directory.version() : 0; }
  void on_news(rpc::SessionId session, std::uint64_t version) override;
  Result<rpc::CallTarget> resolve(std::string_view actor);
  Result<rpc::CallTarget> look_up(std::string_view actor);
  /// What resolve() has found may be true no longer: after each change of what it looks at.
  void forget_found() {
    for (Found& found : found_last) found.name.clear();
  }
  Result<rpc::SessionId> session_to(std::uint64_t node_id);
  void on_change(const MembershipChange& change);
  void apply_change(const MembershipChange& change);
  void log_refusal(const rpc::Peer& peer, const Error& error);
  void log_change(const MembershipChange& change) const;
  void tell_watchers(const MembershipChange& change);
  void run_watchers();
  void relist();
  Result<rpc::SessionId> meet(std::uint64_t node_id);

  // actor_proxy.cpp: named actors as CAF actors
  void call_dynamic(const std::string& actor, const CafCall& call, const caf::message& message,
                    const caf::strong_actor_ptr& sender, caf::message_id id);
  void end_proxy(const std::string& actor, const Error& error);

  /// What resolve() found for a name; an empty one: nothing.
  struct Found {
    std::string name;
    rpc::CallTarget target;
  };
  struct Actor {
    std::string name;
    caf::actor handle;
    WorkerActor* worker = nullptr;  // what `handle` holds
  };
  struct Watcher {
    std::function<void(const MembershipChange&)> function;
    std::deque<MembershipChange> untold;
  };

  Node* facade = nullptr;
  NodeOptions options;
  std::unique_ptr<RealClock> own_clock;
  Clock* clock = nullptr;
  std::unique_ptr<caf::actor_system_config> own_config;
  std::unique_ptr<caf::actor_system> own_system;
  caf::actor_system* system = nullptr;
  std::string listening_at;
  std::string address;  // where others reach it
  bool joined = false;
  rpc::SessionId registry_session = rpc::kLocal;

  std::unique_ptr<Loop> loop;
  std::shared_ptr<LoopUnit> unit;
  std::shared_ptr<Registry> registry;  // on the first node
  Directory directory;
  std::vector<MembershipChange> early_changes;  // notices that came before the answer to join
  std::map<std::uint64_t, Watcher> watchers;
  bool watchers_scheduled = false;
  bool relisting = false;
  TimePoint last_refusal{-1'000'000'000'000};  // long ago
  std::uint64_t refusals_untold = 0;
  LogRate failures{kFailuresAtOnce, kFailurePause};
  std::uint64_t next_watcher = 1;
  std::unordered_map<std::uint64_t, Actor> actors;
  struct Called {
    std::uint64_t number = 0;
    WorkerActor* worker = nullptr;
  };
  Called last_called;                                             // of `actors`
  std::map<std::string, std::uint64_t, std::less<>> local_names;  // of those that the registry knows
  std::set<std::string, std::less<>> names_in_making;             // it is being asked for these
  std::unordered_map<std::uint64_t, rpc::SessionId> sessions;     // by node id: the one that our calls take
  std::array<Found, 16> found_last;                               // callers ask for the same again and again
  /// The CAF handle for a named actor, made once; ended with the actor.
  std::map<std::string, caf::actor, std::less<>> proxies;
  std::uint64_t next_actor = 0;
  std::atomic<std::uint64_t> next_token{1};
  std::unique_ptr<NodeTracing> tracing;  // null: no traces
  std::unique_ptr<NodePool> pool;        // null: all methods run on the loop
  std::unique_ptr<rpc::Endpoint> endpoint;
  std::unique_ptr<RemoteObjects> objects;
  WatchRing ring{*this};
  Withdrawals withdrawals{*this};
  MetricsBoard metrics{*this};
  std::shared_ptr<EndWatch> ends = std::make_shared<EndWatch>(*this);

  std::thread thread;
  bool alone = false;                  // the first node has gone: deaths are seen by sessions only
  bool closing = false;                // from shutdown() on
  bool leaving = false;                // from Node::leave() on
  bool running = true;                 // until stop() or the cluster's end
  Result<void> outcome;                // of run()
  std::optional<Error> meeting_error;  // why the session to the registry ended, before it was joined
};

}  // namespace troupe
