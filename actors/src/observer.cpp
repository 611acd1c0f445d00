#include <troupe/actors/observer.hpp>

#include <sys/epoll.h>

#include <algorithm>
#include <map>
#include <optional>

#include <troupe/rpc/client.hpp>
#include <troupe/rpc/endpoint.hpp>

#include "identity.hpp"
#include "meeting_reasons.hpp"
#include "node_impl.hpp"

namespace troupe {

struct ClusterObserver::Impl final : rpc::EndpointEvents {
  explicit Impl(ObserverOptions observer_options) : options(std::move(observer_options)), loop(clock) {}
  ~Impl() override {
    const Loop::Turn turn(loop);
    endpoint.reset();
  }

  Result<void> start();
  Result<void> meet_first_node();
  Result<rpc::SessionId> session_to(const Member& member);
  rpc::Future<NodeMetrics> ask(const Member& member);

  void on_call(rpc::InboundCallPtr call) override {
    call->reply_error({Code::kUnimplemented, "an observer has no actors"});
  }
  void on_session(rpc::SessionId, const rpc::Peer&) override {}
  void on_session_closed(rpc::SessionId session, const rpc::Peer&, const Error& error) override {
    std::erase_if(sessions, [&](const auto& entry) { return entry.second == session; });
    if (session == first) first_gone = error;
  }

  ObserverOptions options;
  RealClock clock;
  Loop loop;
  std::unique_ptr<rpc::Endpoint> endpoint;
  rpc::SessionId first = rpc::kLocal;  // the first node
  std::optional<Error> first_gone;
  std::map<std::uint64_t, rpc::SessionId> sessions;  // by node id
};

Result<void> ClusterObserver::Impl::start() {
  auto secret = shared_secret(options.secret, options.secret_file);
  if (!secret) return std::move(secret).error();
  {
    const Loop::Turn turn(loop);
    auto transport = rpc::make_process_transport(loop, options.transport);
    if (!transport) return std::move(transport).error();
    rpc::EndpointOptions own;
    own.node_id = random_node_id();
    own.node_name = "observer";
    own.secret = secret->text;
    own.secret_is_of_this_machine = secret->of_this_user;
    own.secret_identity = secret->identity();
    own.default_timeout = options.timeout;
    own.metrics = false;
    endpoint = std::make_unique<rpc::Endpoint>(loop, std::move(*transport), own, *this);
    auto dialled = endpoint->connect(options.address);
    if (!dialled) return std::move(dialled).error();
    first = *dialled;
  }
  return meet_first_node();
}

Result<void> ClusterObserver::Impl::meet_first_node() {
  loop.wait_until([&] { return endpoint->ready(first) || first_gone; }, clock.now() + options.timeout);
  const Loop::Turn turn(loop);
  if (endpoint->ready(first)) return {};
  if (first_gone && first_gone->code != Code::kUnavailable) return *first_gone;
  MeetingReasons reasons;
  if (first_gone) reasons.add(*first_gone);
  return reasons.error(options.address, options.timeout);
}

Result<rpc::SessionId> ClusterObserver::Impl::session_to(const Member& member) {
  if (const rpc::Peer* peer = endpoint->peer(first); peer && peer->node_id == member.node_id) return first;
  if (const auto known = sessions.find(member.node_id); known != sessions.end()) return known->second;
  auto session = endpoint->connect(member.address);
  if (session) sessions.emplace(member.node_id, *session);
  return session;
}

rpc::Future<NodeMetrics> ClusterObserver::Impl::ask(const Member& member) {
  const Loop::Turn turn(loop);
  auto session = session_to(member);
  if (!session) {
    rpc::Promise<NodeMetrics> refused(loop, clock.now() + options.timeout);
    auto future = refused.future();
    refused.set(session.error());
    return future;
  }
  return rpc::call_async<NodeMetrics>(*endpoint, {*session, kNodeActor}, kNodeMetrics,
                                      "asking node '" + member.name + "'", {.timeout = options.timeout});
}

ClusterObserver::ClusterObserver(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

ClusterObserver::~ClusterObserver() {
  const Loop::Turn turn(impl_->loop);
  if (impl_->endpoint) impl_->endpoint->shut_down();
}

Result<std::unique_ptr<ClusterObserver>> ClusterObserver::connect(ObserverOptions options) {
  std::unique_ptr<ClusterObserver> made(new ClusterObserver(std::make_unique<Impl>(std::move(options))));
  if (auto started = made->impl_->start(); !started) return std::move(started).error();
  return made;
}

Result<std::vector<NodeView>> ClusterObserver::look() {
  Impl& self = *impl_;
  auto membership =
      rpc::call_sync<Membership>(*self.endpoint, {self.first, kRegistryActor}, "list",
                                 "asking who is in the cluster", {.timeout = self.options.timeout});
  if (!membership) return std::move(membership).error();
  std::sort(membership->members.begin(), membership->members.end(),
            [](const Member& a, const Member& b) { return a.name < b.name; });
  std::vector<rpc::Future<NodeMetrics>> asked;
  for (const Member& member : membership->members) asked.push_back(self.ask(member));
  std::vector<NodeView> views;
  for (std::size_t i = 0; i < asked.size(); ++i) views.push_back({membership->members[i], asked[i].get()});
  return views;
}

void ClusterObserver::wait(Duration time, const std::function<bool()>& done, int descriptor) {
  struct Wakes final : FdHandler {
    void on_ready(std::uint32_t) override {}  // done() is asked after it
  } wakes;
  Impl& self = *impl_;
  {
    const Loop::Turn turn(self.loop);
    // One that cannot be watched (a file) only means that `done` is asked less often.
    if (descriptor >= 0) (void)self.loop.watch(descriptor, EPOLLIN, wakes);
  }
  self.loop.wait_until(done, self.clock.now() + time);
  const Loop::Turn turn(self.loop);
  if (descriptor >= 0) self.loop.unwatch(descriptor);
}

}  // namespace troupe
