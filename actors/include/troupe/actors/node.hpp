#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <troupe/actors/caller.hpp>
#include <troupe/actors/membership.hpp>
#include <troupe/actors/node_options.hpp>
#include <troupe/rpc/client.hpp>
#include <troupe/rpc/endpoint.hpp>
#include <troupe/rpc/functions.hpp>
#include <troupe/rpc/methods.hpp>
#include <troupe/rpc/stream.hpp>
#include <troupe/runtime/clock.hpp>
#include <troupe/runtime/loop.hpp>
#include <troupe/runtime/result.hpp>

namespace caf {
class actor;
class actor_system;
}  // namespace caf

namespace troupe {

class DynamicCalls;
class MetricsBoard;
struct NodeImpl;
class NodeTraces;
template <class T>
class RemoteRef;
namespace detail {
class RemoteObject;
}

/// One process's place in a cluster (tests and simulations have several in a process): it joins under a
/// unique name, keeps named actors that others call, and calls theirs. Functions are for any thread
/// unless they say otherwise.
///
///     auto node = Node::start({.name = "alice", .registry = address}).value();
///     Tensor sum = node->rpc_sync<Tensor>("calculator", "add", x, y).value();
class Node {
 public:
  /// Joins the cluster; waits for the join timeout at most. Throws nothing. kAlreadyExists: a living node has
  /// that name, or the listening address is in use. kUnavailable: no first node at `registry` in time.
  /// kResourceExhausted: it had no room for so long, or this system gives no thread, descriptor or memory.
  /// kFailedPrecondition: it speaks another version of the protocol, or another machine is to be reached
  /// without a secret, or from an address that others cannot use. kUnauthenticated: the first node has
  /// another secret, or only one of both has one. kPermissionDenied: others can read the secret's file, or
  /// the port is not for everybody. kInvalidArgument: an option that cannot be; the error names it.
  static Result<std::unique_ptr<Node>> start(NodeOptions options);
  /// shutdown(), then goes. No other thread may be in a function of the node or wait for a future of it: if
  /// some may, shutdown() first, which ends their waits, and join them. Not from the node's own actors.
  ~Node();
  /// Leaves the cluster, ends the node's actors and answers everything that is open, here and at the
  /// callers, with kCancelled or kUnavailable; so is every call from then on. Takes a second at most if
  /// the first node does not answer. Idempotent.
  void shutdown();
  /// Leaves in order, then is as after shutdown(). From now on calls of other nodes are refused with
  /// kUnavailable, "the node is leaving", and nobody finds this node's actors by their names any more, which
  /// are free for others. What is open here is finished, for `drain_time` at most; the first node besides
  /// waits until it is the last one. kDeadlineExceeded: that was not enough, and what was left has been
  /// ended. A thread outside of the loop.
  Result<void> leave(Duration drain_time);
  Node(const Node&) = delete;
  Node& operator=(const Node&) = delete;

  const std::string& name() const;
  std::uint64_t id() const;
  /// Where others reach this node: the `registry` of the next ones if this is the first.
  const std::string& address() const;
  Loop& loop();
  rpc::Endpoint& endpoint();
  /// The node at which a call came in: for handlers. Precondition: of an actor of a node.
  static Node& of(const rpc::CallContext& context);
  /// Who makes a call of this node's. A node id and name are what that node has said of itself; knowing the
  /// secret is what it has proved, as `identity` says. After its session has ended all of it is empty.
  Caller caller_of(const rpc::CallContext& context) const;
  MetricsBoard& metrics();  ///< troupe/actors/node_metrics.hpp
  caf::actor_system& system();

  // ---- Actors ------------------------------------------------------------------------------------
  /// Makes a named actor with the state State(args...), which tells its methods by
  /// `static void methods(rpc::Methods<State>&)`. The actor runs on the node's loop, one message at a
  /// time. kAlreadyExists: the name is taken.
  template <class State, class... Args>
  Result<void> spawn(const std::string& name, Args&&... args) {
    rpc::Methods<State> methods;
    State::methods(methods);
    return spawn_state(name, std::make_shared<State>(std::forward<Args>(args)...), methods.table());
  }
  /// The same for a state that exists, with methods given from outside.
  Result<void> spawn_state(std::string name, std::shared_ptr<void> state,
                           std::shared_ptr<const rpc::MethodTable> methods);
  /// Functions without a state as a named actor.
  Result<void> serve(std::string name, const rpc::Functions& functions) {
    return spawn_state(std::move(name), nullptr, functions.table());
  }
  /// Ends a named actor of this node; what it has not begun is answered with an error. kNotFound.
  Result<void> kill(std::string_view name);
  /// Makes an actor of the application's, of the system in NodeOptions::system, callable under a name from
  /// every node, CAF or not: see troupe/actors/caf.hpp. `methods`: the names that callers may call; none are
  /// needed for messages that begin with no name. Calls are handed on at once and run where the actor runs;
  /// when it ends the name goes. kAlreadyExists as for spawn().
  Result<void> publish(const std::string& name, const caf::actor& actor,
                       const std::vector<std::string>& methods = {});
  /// A named actor anywhere in the cluster as an ordinary CAF actor: see troupe/actors/caf.hpp.
  /// kNotFound, kUnavailable as for a call.
  Result<caf::actor> actor(std::string_view name);

  // ---- Calls -------------------------------------------------------------------------------------
  /// How long calls may take that do not say it, and whose function does not: for those that begin from now
  /// on. kInvalidArgument: zero or less.
  Result<void> set_default_timeout(Duration timeout) { return endpoint().set_default_timeout(timeout); }
  /// Calls method `method` of the actor `actor` and waits. kNotFound at once if nobody has that name,
  /// kUnavailable if it died or leaves; kUnimplemented and kInvalidArgument for a wrong method or types;
  /// kDeadlineExceeded; kResourceExhausted when too much is open or waits, here or there; kCancelled when
  /// this node shuts down, or the call within which this one is made was cancelled; kInternal if an argument
  /// or the answer cannot be encoded or decoded; else what the method itself answers.
  template <class R, class... Args>
  Result<R> rpc_sync(std::string_view actor, std::string_view method, const Args&... args) {
    return rpc_sync_with<R>(rpc::kPlainCall, actor, method, args...);
  }
  template <class R, class... Args>
  Result<R> rpc_sync_with(const rpc::CallOptions& options, std::string_view actor, std::string_view method,
                          const Args&... args) {
    return rpc::call_sync_with<R>(
        endpoint(), options, method, CallName{actor, method},
        [&](rpc::MethodId id, const rpc::BodyWriter& body, rpc::ReplySink& sink) {
          return call(actor, id, options, body, sink);
        },
        args...);
  }
  /// The same without waiting: the answer comes through the future.
  template <class R, class... Args>
  rpc::Future<R> rpc_async(std::string_view actor, std::string_view method, const Args&... args) {
    return rpc_async_with<R>(rpc::kPlainCall, actor, method, args...);
  }
  template <class R, class... Args>
  rpc::Future<R> rpc_async_with(const rpc::CallOptions& options, std::string_view actor,
                                std::string_view method, const Args&... args) {
    return rpc::call_async_with<R>(
        endpoint(), options, method, BasicCallName<std::string>{std::string(actor), std::string(method)},
        [this, options](rpc::MethodId id, const rpc::BodyWriter& body, rpc::ReplySink& sink,
                        const auto& name) { return call(name.actor, id, options, body, sink); },
        args...);
  }

  /// The same for a method that is declared: see rpc::Function. Its timeout is the call's, unless `options`
  /// say another.
  template <class R, class... P>
  Result<R> rpc_sync(std::string_view actor, const rpc::Function<R(P...)>& method,
                     const std::type_identity_t<P>&... args) {
    return rpc_sync_with<R>(method.options({}), actor, method.name, args...);
  }
  template <class R, class... P>
  Result<R> rpc_sync_with(const rpc::CallOptions& options, std::string_view actor,
                          const rpc::Function<R(P...)>& method, const std::type_identity_t<P>&... args) {
    return rpc_sync_with<R>(method.options(options), actor, method.name, args...);
  }
  template <class R, class... P>
  rpc::Future<R> rpc_async(std::string_view actor, const rpc::Function<R(P...)>& method,
                           const std::type_identity_t<P>&... args) {
    return rpc_async_with<R>(method.options({}), actor, method.name, args...);
  }
  template <class R, class... P>
  rpc::Future<R> rpc_async_with(const rpc::CallOptions& options, std::string_view actor,
                                const rpc::Function<R(P...)>& method,
                                const std::type_identity_t<P>&... args) {
    return rpc_async_with<R>(method.options(options), actor, method.name, args...);
  }
  /// Tells an actor something and hears nothing back: neither an answer nor, later, an error. It is run once,
  /// or not at all if it gets lost on the way, comes after its deadline, or has other types than the method.
  /// The error says only that it could not be sent. Calls to one actor, one-way or not, arrive in order.
  template <class... Args>
  Result<void> send(std::string_view actor, std::string_view method, const Args&... args) {
    return send_with(rpc::kPlainCall, actor, method, args...);
  }
  template <class... Args>
  Result<void> send_with(const rpc::CallOptions& options, std::string_view actor, std::string_view method,
                         const Args&... args) {
    return tell(actor, method, options, rpc::detail::arguments_writer(args...));
  }
  /// Calls `method` of each of the actors at once; the future has all answers, in their order, once every one
  /// has answered or failed.
  template <class R, class... Args>
  rpc::Future<std::vector<ActorAnswer<R>>> broadcast(const std::vector<std::string>& actors,
                                                     std::string_view method, const Args&... args) {
    return broadcast_with<R>(rpc::kPlainCall, actors, method, args...);
  }
  template <class R, class... Args>
  rpc::Future<std::vector<ActorAnswer<R>>> broadcast_with(const rpc::CallOptions& options,
                                                          const std::vector<std::string>& actors,
                                                          std::string_view method, const Args&... args) {
    std::vector<rpc::Future<R>> calls;
    calls.reserve(actors.size());
    for (const std::string& actor : actors)
      calls.push_back(rpc_async_with<R>(options, actor, method, args...));
    return rpc::when_all_settled(loop(), std::move(calls))
        .then([actors](Result<std::vector<Result<R>>> results) -> Result<std::vector<ActorAnswer<R>>> {
          if (!results) return std::move(results).error();
          std::vector<ActorAnswer<R>> answers;
          answers.reserve(actors.size());
          for (std::size_t i = 0; i < actors.size(); ++i)
            answers.push_back({actors[i], std::move((*results)[i])});
          return answers;
        });
  }
  /// The names of all actors on nodes of this role, for a broadcast.
  std::vector<std::string> actors_of(std::string_view role) const;

  /// For other languages' bindings: finds the actor and calls it, as Endpoint::call(). With the turn.
  std::uint64_t call(std::string_view actor, rpc::MethodId method, const rpc::CallOptions& options,
                     const rpc::BodyWriter& body, rpc::ReplySink& sink);
  /// A call that may be repeated: `options.retry` says how often. It runs once, because it carries a token;
  /// if options.token is 0 the node makes one. Works for rpc_sync_with and rpc_async_with alike.
  ///     node->rpc_sync_with<int>({.retry = {.max_attempts = 5}}, "counter", "add", 1);
  /// A token is unique in the node's life.
  std::uint64_t make_token();

  /// Opens a stream: see rpc::StreamReader, and rpc::StreamWriter for the method's side. Errors come with the
  /// first next().
  template <class T, class... Args>
  rpc::StreamReader<T> stream(std::string_view actor, std::string_view method, const Args&... args) {
    return stream_with<T>(rpc::StreamOptions{}, actor, method, args...);
  }
  template <class T, class... Args>
  rpc::StreamReader<T> stream_with(const rpc::StreamOptions& options, std::string_view actor,
                                   std::string_view method, const Args&... args) {
    return rpc::open_stream_with<T>(
        endpoint(), options, method, CallName{actor, method},
        [&](rpc::MethodId id, const rpc::CallOptions& stream, const rpc::BodyWriter& body,
            rpc::ReplySink& sink) { return call(actor, id, stream, body, sink); },
        args...);
  }

  // ---- Objects at other nodes: troupe/actors/remote.hpp --------------------------------------------
  /// Lets other nodes make objects T(args...) of these types here, or T(Node&, args...) where T has such a
  /// constructor: it is given this node. T tells its methods as the state of an
  /// actor does, and has a `static constexpr std::string_view type_name`.
  template <class T, class... Args>
  void constructible();
  /// Makes an object T(args...) at the node named `where`, owned by this one through the reference.
  template <class T, class... Args>
  RemoteRef<T> remote(std::string_view where, const Args&... args);

  // ---- Membership --------------------------------------------------------------------------------
  Membership membership();
  /// Waits until `count` nodes of `role` are there and returns them, by name. kDeadlineExceeded says who
  /// is there; else as wait_for_actor().
  Result<std::vector<Member>> wait_for_role(std::string_view role, std::size_t count, Duration timeout);
  /// Waits until an actor of this name can be called. kDeadlineExceeded; kUnavailable: the first node is
  /// gone; kCancelled: the node was stopped.
  Result<void> wait_for_actor(std::string_view name, Duration timeout);
  /// Waits until each of the nodes named `participants`, of which this is one, is in barrier() with this
  /// `name` and the same participants. kUnavailable at once if one of them dies or leaves, or has before;
  /// kDeadlineExceeded names those who did not come. kInvalidArgument: this node is not among the names, or
  /// others wait there with other names. A name may be used again and again, but by one wait of a node at a
  /// time: else kFailedPrecondition.
  Result<void> barrier(std::string_view name, const std::vector<std::string>& participants, Duration timeout);
  /// Calls `watcher` on the loop at every change from now on, in order, until unwatch() of the number
  /// returned. It may make calls and wait for them, and is then called again meanwhile if more changes.
  std::uint64_t watch(std::function<void(const MembershipChange&)> watcher);
  void unwatch(std::uint64_t watcher);

  // ---- Driving -----------------------------------------------------------------------------------
  /// Drives the loop on this thread until stop(), or until the first node of the cluster has gone.
  /// Returns kUnavailable in the second case. Needs no own_thread; with one it only waits.
  Result<void> run();
  /// Makes run() return. Safe in a signal handler's thread (not in the handler itself).
  void stop();

 private:
  explicit Node(std::unique_ptr<NodeImpl> impl);
  friend class DynamicCalls;
  friend class NodeTraces;
  /// "actor.method", made only if somebody asks.
  template <class Text>
  struct BasicCallName {
    Text actor, method;
    operator std::string() const { return std::string(actor) + "." + std::string(method); }
  };
  using CallName = BasicCallName<std::string_view>;
  void add_constructor(const std::string& name, const rpc::MethodTable& constructors);
  std::shared_ptr<detail::RemoteObject> make_remote(
      std::string_view where, std::string_view type, rpc::MethodId method,
      const std::function<void(std::uint64_t, rpc::OutMessage&)>& body);
  Result<void> tell(std::string_view actor, std::string_view method, const rpc::CallOptions& options,
                    const rpc::BodyWriter& body);

  std::unique_ptr<NodeImpl> impl_;
};

}  // namespace troupe
