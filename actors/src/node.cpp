// How a node comes and goes, and what it keeps: see node_calls.cpp for what it does meanwhile.
#include <troupe/actors/node.hpp>

#include <algorithm>
#include <cassert>
#include <new>
#include <system_error>
#include <utility>

#include <troupe/actors/caf.hpp>
#include <troupe/runtime/process.hpp>

#include "actor_proxy.hpp"
#include "advertised_address.hpp"
#include "identity.hpp"
#include "meeting_reasons.hpp"
#include "node_impl.hpp"

namespace troupe {

namespace {

constexpr Duration kLeaveTimeout{std::chrono::seconds(1)};
constexpr unsigned kThreadsOfSystem = 4;  // of small_system_config(): a worker, the clock, and what prints
constexpr Duration kDialAgain{std::chrono::milliseconds(50)};
constexpr Duration kMostPause{std::chrono::milliseconds(400)};
/// Calls of the cluster's own are part of no other, and of no trace.
const rpc::CallOptions kHousekeeping{.trace = TraceContext::not_traced(), .detached = true};

/// An actor system for actors that run on our loop: CAF's own threads have nothing to do, so there is one,
/// and it waits instead of polling.
std::unique_ptr<caf::actor_system_config> small_system_config() {
  auto config = std::make_unique<caf::actor_system_config>();
  use_waiting_scheduler(*config, 1);
  return config;
}

/// The state of the actor number kNodeActor: where the registry's notices arrive.
struct NodeService {
  std::function<bool(rpc::SessionId)> is_registry;
  std::function<void(const MembershipChange&)> changed;
  std::function<void()> doubt_registry;
  std::function<NodeMetrics()> metrics;
  static void methods(rpc::Methods<NodeService>& methods) {
    methods.add("membership_changed", [](NodeService& self, const rpc::CallContext& context,
                                         const std::vector<MembershipChange>& changes) {
      if (!self.is_registry(context.session)) return;  // nobody else knows
      for (const MembershipChange& change : changes) self.changed(change);
    });
    methods.add("doubt_registry", [](NodeService& self) { self.doubt_registry(); });
    methods.add(std::string(kNodeMetrics), [](NodeService& self) { return self.metrics(); });
  }
};

template <class State>
std::shared_ptr<const rpc::MethodTable> table_of() {
  rpc::Methods<State> methods;
  State::methods(methods);
  return methods.table();
}

}  // namespace

// ---- Coming -------------------------------------------------------------------------------------

NodeImpl::NodeImpl(NodeOptions node_options) : options(std::move(node_options)) {
  options.log = options.log.with_node(options.name);
  if (!options.clock) own_clock = std::make_unique<RealClock>();
  clock = options.clock ? options.clock : own_clock.get();
  if (!options.system) {
    register_caf_types();
    own_config = small_system_config();
    own_system = std::make_unique<caf::actor_system>(*own_config);
    forget_system_of_thread();
  }
  system = options.system ? options.system : own_system.get();
  if (options.node_id == 0) options.node_id = random_node_id();
  next_actor = first_actor(options.node_id);
  if (!options.loop.on_exception)
    options.loop.on_exception = [this](const std::string& what) { options.log.error(what); };
  loop = std::make_unique<Loop>(*clock, options.loop);
  options.log = rpc::follow_trace(options.log, *loop);
  unit = std::make_shared<LoopUnit>(*system, *loop);
  if (options.pool_threads > 0 && !options.clock)
    pool = std::make_unique<NodePool>(*loop, ThreadPool::Limits{options.pool_threads, options.pool_waiting});
}

Result<std::unique_ptr<Node>> Node::start(NodeOptions options) {
  if (options.name.empty()) return Error{Code::kInvalidArgument, "a node needs a name"};
  if (!options.loop.help && !options.own_thread)
    return Error{Code::kInvalidArgument, "node '" + options.name +
                                             "' cannot start: where waiting threads do not help to drive it, "
                                             "it needs a thread of its own"};
  if (options.default_timeout <= Duration::zero())
    return Error{Code::kInvalidArgument,
                 "node '" + options.name + "' cannot start: its default timeout is to be more than nothing"};
  if (options.system && !caf_types_registered())
    return Error{
        Code::kFailedPrecondition,
        "this CAF must know Troupe's types: call troupe::register_caf_types() before the first actor "
        "system is made"};
  // Else the next socket might become standard error, and the log go to whoever is at its other end.
  (void)open_standard_descriptors();
  const std::string cannot = "node '" + options.name + "' cannot start";
  // CAF ends the process where it gets no thread.
  if (!options.system)
    if (auto room = room_for_threads(kThreadsOfSystem + (options.own_thread ? 1 : 0)); !room)
      return with_context(room.error(), cannot);
  try {
    std::unique_ptr<Node> node(new Node(std::make_unique<NodeImpl>(std::move(options))));
    if (auto started = node->impl_->start(); !started) return started.error();
    return node;
  } catch (const std::system_error& error) {
    return with_context(errno_error(error.code().value(), error.what()), cannot);
  } catch (const std::bad_alloc&) {
    return Error{Code::kResourceExhausted, cannot + ": there is no memory"};
  }
}

Result<void> NodeImpl::drive_on_thread() {
  auto started = start_thread([this] { loop->run(); });
  if (!started) return with_context(started.error(), "node '" + options.name + "' cannot start");
  thread = std::move(*started);
  return {};
}

Result<void> NodeImpl::start() {
  if (auto fit =
          check_member({options.node_id, options.name, options.role, options.advertise, options.metadata});
      !fit)
    return fit;
  // A simulated node's network has no other users.
  const bool is_simulated = static_cast<bool>(options.make_transport);
  auto secret = is_simulated && options.secret.empty() && options.secret_file.empty()
                    ? SharedSecret{}
                    : shared_secret(options.secret, options.secret_file);
  if (!secret) return with_context(secret.error(), "node '" + options.name + "' cannot start");
  {
    Loop::Turn turn(*loop);
    if (auto listening = listen(*secret); !listening) return listening;
  }
  if (auto served = metrics.serve(options.metrics_address); !served) return served;
  // Who does not help to drive must find somebody who does.
  if (options.own_thread && !options.loop.help)
    if (auto driven = drive_on_thread(); !driven) return driven;
  if (auto in = join(); !in) return in;
  if (options.own_thread && options.loop.help) return drive_on_thread();
  return {};
}

Result<void> NodeImpl::listen(const SharedSecret& secret) {
  auto transport = options.make_transport ? options.make_transport(*loop)
                                          : rpc::make_process_transport(*loop, options.transport);
  if (!transport) return transport.error();
  rpc::EndpointOptions endpoint_options;
  endpoint_options.node_id = options.node_id;
  endpoint_options.node_name = options.name;
  endpoint_options.secret = secret.text;
  endpoint_options.secret_is_of_this_machine = secret.of_this_user;
  endpoint_options.secret_identity = secret.identity();
  endpoint_options.default_timeout = options.default_timeout;
  endpoint_options.shared = options.shared_pool;
  endpoint_options.gpus = options.gpus;
  endpoint_options.map_gpu_memory = options.map_gpu_memory;
  if (options.shared_pool.max_bytes > 0 && !SharedPool::others_cannot_write())
    options.log.warn("this kernel cannot keep other processes of this user from writing into shared tensors");
  endpoint_options.metrics = options.metrics;
  endpoint_options.heartbeat_interval = options.heartbeat_interval;
  endpoint_options.silence_limit = options.silence_limit;
  endpoint_options.handshake_timeout = options.handshake_timeout;
  endpoint_options.limits = options.limits;
  endpoint_options.answers = options.answers;
  if (auto traced = begin_tracing(*this, endpoint_options); !traced) return traced;
  endpoint = std::make_unique<rpc::Endpoint>(*loop, std::move(*transport), endpoint_options, *this);
  auto listening = endpoint->listen(options.listen);
  if (!listening) return with_context(listening.error(), "node '" + options.name + "' cannot listen");
  listening_at = *listening;
  auto advertised = advertised_address(listening_at, options.advertise);
  if (!advertised) return with_context(advertised.error(), "node '" + options.name + "' cannot start");
  address = *advertised;

  auto service = std::make_shared<NodeService>();
  service->metrics = [this] { return metrics.snapshot(); };
  service->is_registry = [this](rpc::SessionId session) { return session == registry_session; };
  service->changed = [this](const MembershipChange& change) { on_change(change); };
  service->doubt_registry = [this] { ring.doubt_registry(); };
  add_actor("", service, table_of<NodeService>(), kNodeActor);
  objects = std::make_unique<RemoteObjects>(*this);
  add_actor("", std::shared_ptr<detail::ObjectHost>(objects->hosted), objects->hosted->methods(),
            kObjectsActor);
  if (!options.registry.empty()) return {};
  registry = std::make_shared<Registry>(
      *loop, Registry::Ways{
                 [this](rpc::SessionId session, const std::vector<MembershipChange>& changes) {
                   // A member that cannot be told is dying; its session's end will follow.
                   (void)endpoint->send({session, kNodeActor}, {rpc::fnv1a("membership_changed"), 0},
                                        kHousekeeping, [&](rpc::OutMessage& out) {
                                          out.values(1);
                                          rpc::Codec<std::vector<MembershipChange>>::encode(out.value(0),
                                                                                            changes);
                                        });
                 },
                 [this](rpc::SessionId session, Duration silence) { endpoint->suspect(session, silence); },
                 [this](rpc::SessionId session) {
                   if (session == rpc::kLocal) return options.node_id;
                   const rpc::Peer* const peer = endpoint->peer(session);
                   return peer ? peer->node_id : 0;
                 }});
  add_actor("", registry, table_of<Registry>(), kRegistryActor);
  return {};
}

Result<rpc::SessionId> NodeImpl::meet_registry(TimePoint deadline) {
  MeetingReasons reasons;
  Duration pause = kDialAgain;
  for (;;) {
    rpc::SessionId session = rpc::kLocal;
    {
      Loop::Turn turn(*loop);
      auto dialled = endpoint->connect(options.registry);
      if (!dialled) return dialled.error();
      session = *dialled;
      meeting_error.reset();
      registry_session = session;
    }
    loop->wait_until([&] { return endpoint->ready(session) || meeting_error; }, deadline);
    Loop::Turn turn(*loop);
    if (endpoint->ready(session)) return session;
    // The first node may not have started yet, or be about to go, or have no room: only time can tell.
    // Another refusal is final.
    if (meeting_error) reasons.add(*meeting_error);
    if (meeting_error && !reasons.may_change(*meeting_error)) return *meeting_error;
    const TimePoint again = clock->now() + pause;
    if (again >= deadline) {
      endpoint->close(session, {Code::kCancelled, "gave up joining"});
      return reasons.error(options.registry, options.join_timeout);
    }
    pause = std::min(pause * 2, kMostPause);
    loop->wait_until([] { return false; }, again);
  }
}

/// What is told to others of where this node is; with a registry, it depends on the way to that.
Result<void> NodeImpl::advertise_address() {
  if (registry || !options.advertise.empty()) return {};
  Loop::Turn turn(*loop);
  const std::string own_host = endpoint->local_host(registry_session);
  auto advertised = advertised_address(listening_at, options.advertise, own_host);
  if (!advertised) return advertised.error();
  address = *advertised;
  return may_advertise(address, own_host);
}

Result<void> NodeImpl::join() {
  const TimePoint deadline = clock->now() + options.join_timeout;
  if (!registry) {
    auto met = meet_registry(deadline);
    if (!met) return with_context(met.error(), "node '" + options.name + "' cannot join");
  }
  if (auto advertised = advertise_address(); !advertised)
    return with_context(advertised.error(), "node '" + options.name + "' cannot join");
  const Member self{options.node_id, options.name, options.role, address, options.metadata};
  auto membership = rpc::call_sync<Membership>(
      *endpoint, {registry_session, kRegistryActor}, "join", "joining",
      {.timeout = options.join_timeout, .trace = TraceContext::not_traced()}, self);
  if (!membership) return with_context(membership.error(), "node '" + options.name + "' cannot join");
  Loop::Turn turn(*loop);
  directory.reset(*membership);
  forget_found();
  joined = true;
  options.log.info("joined",
                   {{"address", address}, {"role", options.role}, {"members", membership->members.size()}});
  for (const MembershipChange& change : std::exchange(early_changes, {})) on_change(change);
  ring.members_changed();
  return {};
}

// ---- Going --------------------------------------------------------------------------------------

Node::Node(std::unique_ptr<NodeImpl> impl) : impl_(std::move(impl)) {
  impl_->facade = this;
}

Node::~Node() {
  // Its threads do not exist here, and its sockets and shared memory are the parent's: none of it is ended.
  if (impl_->loop->is_forked()) {
    (void)impl_.release();
    return;
  }
  assert(!impl_->loop->in_turn() && "a node cannot be destroyed by its own actors or watchers");
  shutdown();
}

void Node::shutdown() {
  if (!impl_->loop->is_forked()) impl_->leave();
}

Result<void> Node::leave(Duration drain_time) {
  auto drained = impl_->drain(drain_time);
  shutdown();
  return drained;
}

Result<void> NodeImpl::drain(Duration time) {
  const TimePoint deadline = clock->now() + time;
  {
    const Loop::Turn turn(*loop);
    if (closing || !joined) return {};
    leaving = true;
    last_called = {};
    options.log.info("leaving", {{"open_calls", endpoint->inbound_calls()}, {"drain_time", time}});
  }
  // Who does not hear of it in time hears it from refusals.
  (void)rpc::call_sync<void>(*endpoint, {registry_session, kRegistryActor}, "leaving", "leaving",
                             {.timeout = std::min(time, kLeaveTimeout), .trace = TraceContext::not_traced()});
  std::uint64_t seen = UINT64_MAX;
  std::size_t others = 0;
  const auto is_last = [&] {
    if (!registry) return true;
    if (std::exchange(seen, directory.version()) != directory.version())
      others = directory.list().members.size() - 1;
    return others == 0;
  };
  const auto is_drained = [&] { return endpoint->inbound_calls() == 0 && endpoint->waiting().bytes == 0; };
  if (loop->wait_until([&] { return !running || (is_drained() && is_last()); }, deadline)) return {};
  const Loop::Turn turn(*loop);
  std::string left;
  if (const std::size_t open = endpoint->inbound_calls(); open > 0)
    left = std::to_string(open) + " calls were still open";
  if (others > 0)
    left += (left.empty() ? "" : ", and ") + std::to_string(others) + " other nodes were still there";
  return Error{Code::kDeadlineExceeded, "node '" + options.name + "' has left before it was done: " +
                                            (left.empty() ? "answers were on their way" : left)};
}

void NodeImpl::leave() {
  metrics.stop_serving();
  if (joined && !registry)
    (void)rpc::call_sync<void>(*endpoint, {registry_session, kRegistryActor}, "leave", "leaving",
                               {.timeout = kLeaveTimeout, .trace = TraceContext::not_traced()});
  answer_everything();
  if (const std::size_t left = pool ? pool->close(options.pool_patience) : 0; left > 0)
    options.log.error("methods in the pool did not end when the node did",
                      {{"methods", left}, {"waited", options.pool_patience}});
  // A handler that waits for a call has its answer now, so the thread comes home.
  loop->stop();
  if (thread.joinable()) thread.join();
  Loop::Turn turn(*loop);
  while (!actors.empty()) end_actor(actors.begin()->first);
  if (tracing) tracing->close();
}

void NodeImpl::answer_everything() {
  Loop::Turn turn(*loop);
  joined = false;
  closing = true;
  if (endpoint) ring.close(), withdrawals.close();
  if (objects) objects->close();
  stop_driving({});
  while (!proxies.empty()) end_proxy(proxies.begin()->first, {Code::kCancelled, "the node shuts down"});
  loop->poll();  // what the proxies have posted
  if (endpoint) endpoint->shut_down();
}

NodeImpl::~NodeImpl() {
  Loop::Turn turn(*loop);
  ends->close();
  if (objects) objects->owned->close();
  objects.reset();
  endpoint.reset();
  unit->close();
}

// ---- Actors -------------------------------------------------------------------------------------

void NodeImpl::add_actor(std::string actor_name, std::shared_ptr<void> state,
                         std::shared_ptr<const rpc::MethodTable> methods, std::uint64_t number) {
  if (rpc::CallMetrics* counted = endpoint->metrics())
    for (const std::string_view method : methods->sorted_names()) counted->learn(method);
  caf::actor_config config{unit.get()};
  const MailboxBounds bounds{options.max_calls_waiting, options.max_bytes_waiting};
  caf::actor handle = system->spawn_class<WorkerActor, caf::no_spawn_options>(
      config, unit, std::move(state), std::move(methods), bounds, pool.get());
  if (own_system) forget_system_of_thread();
  auto* worker = static_cast<WorkerActor*>(caf::actor_cast<caf::abstract_actor*>(handle));
  actors.emplace(number, Actor{std::move(actor_name), std::move(handle), worker});
}

void NodeImpl::end_actor(std::uint64_t number) {
  const auto found = actors.find(number);
  if (found == actors.end()) return;
  const Actor actor = std::move(found->second);
  actors.erase(found);
  last_called = {};
  if (!actor.name.empty()) local_names.erase(actor.name);
  forget_found();
  actor.worker->end();
  unit->run();
  actor.worker->outlive_call(actor.handle);
}

Result<void> Node::spawn_state(std::string name, std::shared_ptr<void> state,
                               std::shared_ptr<const rpc::MethodTable> methods) {
  NodeImpl& node = *impl_;
  if (node.loop->is_forked()) return HomeProcess::error();
  if (name.empty()) return Error{Code::kInvalidArgument, "a named actor needs a name"};
  std::uint64_t number = 0;
  {
    // The actor is there before anybody can know of it.
    Loop::Turn turn(*node.loop);
    if (node.closing) return Error{Code::kCancelled, "the node shuts down"};
    if (node.local_names.contains(name) || !node.names_in_making.insert(name).second)
      return Error{Code::kAlreadyExists, "an actor named '" + name + "' lives on this node already"};
    number = node.next_actor++;
    node.withdrawals.forget(name);
    node.add_actor(name, std::move(state), std::move(methods), number);
  }
  auto published = rpc::call_sync<void>(*node.endpoint, {node.registry_session, kRegistryActor}, "publish",
                                        "publishing '" + name + "'", kHousekeeping, name, number);
  const bool unsure = !published && published.error().code != Code::kAlreadyExists;
  {
    Loop::Turn turn(*node.loop);
    node.names_in_making.erase(name);
    if (published && !node.closing) {
      node.local_names.emplace(name, number);
      node.forget_found();
      return {};
    }
    node.end_actor(number);
  }
  if (unsure) (void)node.withdraw(name);  // perhaps it was published, and only the answer did not come
  return published ? Error{Code::kCancelled, "the node shuts down"} : published.error();
}

Result<void> Node::kill(std::string_view name) {
  NodeImpl& node = *impl_;
  if (node.loop->is_forked()) return HomeProcess::error();
  {
    Loop::Turn turn(*node.loop);
    const auto found = node.local_names.find(name);
    if (found == node.local_names.end())
      return Error{Code::kNotFound, "no actor named '" + std::string(name) + "' lives on this node"};
    node.end_actor(found->second);
  }
  return node.withdraw(std::string(name));
}

// ---- Small things -------------------------------------------------------------------------------

const std::string& Node::name() const {
  return impl_->options.name;
}
std::uint64_t Node::id() const {
  return impl_->options.node_id;
}
const std::string& Node::address() const {
  return impl_->address;
}
Loop& Node::loop() {
  return *impl_->loop;
}
rpc::Endpoint& Node::endpoint() {
  return *impl_->endpoint;
}
MetricsBoard& Node::metrics() {
  return impl_->metrics;
}
caf::actor_system& Node::system() {
  return *impl_->system;
}

Result<void> Node::run() {
  NodeImpl& node = *impl_;
  if (node.loop->is_forked()) return HomeProcess::error();
  node.loop->wait_until([&] { return !node.running; }, TimePoint::never());
  Loop::Turn turn(*node.loop);
  return node.outcome;
}

void Node::stop() {
  impl_->loop->post([node = impl_.get()] { node->stop_driving({}); });
}

void NodeImpl::stop_driving(Result<void> why) {
  if (!running) return;
  running = false;
  outcome = std::move(why);
}

std::optional<Error> NodeImpl::why_stopped() {
  Loop::Turn turn(*loop);
  if (running) return std::nullopt;
  return outcome ? Error{Code::kCancelled, "the node was stopped"} : outcome.error();
}

}  // namespace troupe
