#pragma once

#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <doctest/doctest.h>
#include <troupe/rpc/client.hpp>
#include <troupe/rpc/methods.hpp>

#include "transport_contract.hpp"

/// What every endpoint must do, over every transport: Duo<Kind> is two endpoints in this process.
namespace troupe::rpc::testing {

using namespace std::chrono_literals;

/// What is called on both sides, as any actor number.
struct Service {
  std::vector<InboundCallPtr> kept;  // calls that "keep" does not answer
  int begun = 0;

  static void methods(Methods<Service>& methods) {
    methods.add("add", [](Service&, std::int64_t a, std::int64_t b) { return a + b; })
        .add("echo", [](Service&, std::string_view text) { return text; })
        .add("tensor", [](Service&, Tensor tensor) { return tensor; })
        .add("fail", [](Service&, std::string message) -> Result<int> {
          return Error{Code::kAborted, std::move(message), {}, "the cause", 42};
        });
  }
};

/// One endpoint, and what it was told.
class Side final : public EndpointEvents {
 public:
  Side() {
    Methods<Service> methods;
    Service::methods(methods);
    table_ = methods.table();
  }

  std::vector<Error> failures;  // may grow until the endpoint has gone
  std::unique_ptr<Endpoint> endpoint;
  std::vector<std::pair<SessionId, Peer>> sessions;
  std::vector<std::pair<SessionId, Error>> closed;
  Service service;
  std::function<void(InboundCallPtr)> handler;  // instead of the service
  std::function<void(SessionId)> closed_hook;
  std::function<void()> failure_hook;
  std::vector<std::pair<SessionId, Duration>> quiet;
  std::vector<std::string> device_ways;
  std::uint64_t own_news = 0, heard_news = 0;

  static constexpr std::uint64_t kKeeper = 99;  // an actor that answers nothing by itself

  void on_call(InboundCallPtr call) override {
    ++service.begun;
    if (handler) return handler(std::move(call));
    if (call->header().target == kKeeper) return service.kept.push_back(std::move(call));
    table_->invoke(&service, std::move(call));
  }
  void on_failure(const InboundCall&, const Error& error) override {
    failures.push_back(error);
    if (failure_hook) failure_hook();
  }
  void on_session(SessionId session, const Peer& peer) override { sessions.emplace_back(session, peer); }
  void on_session_closed(SessionId session, const Peer&, const Error& error) override {
    closed.emplace_back(session, error);
    if (closed_hook) closed_hook(session);
  }
  void on_quiet(SessionId session, const Peer&, Duration silence) override {
    quiet.emplace_back(session, silence);
  }
  void on_device_way(SessionId, const Peer&, const std::string& way) override { device_ways.push_back(way); }
  std::uint64_t news() override { return own_news; }
  void on_news(SessionId, std::uint64_t news) override { heard_news = news; }

 private:
  std::shared_ptr<const MethodTable> table_;
};

/// Notes the answer of one call. `hook` runs inside on_reply().
class Answer final : public ReplySink {
 public:
  void on_reply(Result<std::unique_ptr<InMessage>> reply) override {
    ++count;
    if (!reply)
      error = reply.error();
    else if ((*reply)->is_error())
      error = (*reply)->error();
    else
      message = std::move(*reply);
    if (hook) hook();
  }
  Code code() const { return error ? error->code : Code::kOk; }

  int count = 0;
  std::unique_ptr<InMessage> message;
  std::optional<Error> error;
  std::function<void()> hook;
};

template <class... Args>
std::uint64_t start_call(Endpoint& endpoint, CallTarget target, std::string_view method, Duration timeout,
                         ReplySink& sink, const Args&... args) {
  return endpoint.call(target, {fnv1a(method), 0}, {.timeout = timeout, .trace = {}},
                       detail::arguments_writer(args...), sink);
}

inline EndpointOptions options_of(std::uint64_t id, const std::string& name) {
  EndpointOptions options;
  options.node_id = id;
  options.node_name = name;
  options.default_timeout = 10s;
  return options;
}

/// Two endpoints: `b` listens; connect() lets `a` meet it.
template <class Kind>
class Duo {
 public:
  static constexpr Duration kPatience = 30s;

  template <class... Args>
  explicit Duo(EndpointOptions for_a = options_of(1, "alice"), EndpointOptions for_b = options_of(2, "bob"),
               Args&&... args)
      : world(std::forward<Args>(args)...) {
    a.endpoint = std::make_unique<Endpoint>(world.a, world.make(world.a, "a"), std::move(for_a), a);
    b.endpoint = std::make_unique<Endpoint>(world.b, world.make(world.b, "b"), std::move(for_b), b);
    address = b.endpoint->listen(Kind::kAnyPort).value();
  }

  ~Duo() {
    for (auto& group : answers_)
      for (Answer& each : group) each.hook = nullptr;
  }
  Duo(const Duo&) = delete;
  Duo& operator=(const Duo&) = delete;

  /// Places for answers that outlive the endpoints.
  std::vector<Answer>& answers(std::size_t count) { return answers_.emplace_back(count); }
  Answer& answer() { return answers(1)[0]; }

  bool until(const std::function<bool()>& done, Duration timeout = kPatience) {
    return world.run_until(done, timeout);
  }
  void settle(Duration time = 20ms) {
    (void)until([] { return false; }, time);
  }
  /// A session from a to b, ready on both sides. Sets ab and ba.
  void connect() {
    ab = a.endpoint->connect(address).value();
    REQUIRE(until([&] { return a.sessions.size() == 1 && b.sessions.size() == 1; }));
    ba = b.sessions[0].first;
  }
  template <class R, class... Args>
  Result<R> call(std::string_view method, const Args&... args) {
    return call_with<R>({}, method, args...);
  }
  template <class R, class... Args>
  Result<R> call_with(const CallOptions& options, std::string_view method, const Args&... args) {
    auto future = call_async<R>(*a.endpoint, {ab, 5}, method, std::string(method), options, args...);
    REQUIRE(until([&] { return future.ready(); }));
    return future.get();
  }

 private:
  std::deque<std::vector<Answer>> answers_;

 public:
  Kind world;
  Side a, b;
  SessionId ab = 0, ba = 0;
  std::string address;
};

/// A transport whose owner says and answers nothing by itself.
class Stranger final : public TransportEvents {
 public:
  explicit Stranger(std::unique_ptr<Transport> transport_) : transport(std::move(transport_)) {
    transport->set_events(*this);
  }
  std::unique_ptr<Transport> transport;
  std::vector<LinkId> links;
  std::vector<std::vector<std::byte>> control;
  std::vector<Error> closed;

  void on_link(LinkId link, std::string_view, bool) override { links.push_back(link); }
  void on_control(LinkId, std::span<const std::byte> message) override {
    control.emplace_back(message.begin(), message.end());
  }
  Result<void> on_parts(LinkId, std::span<const std::byte>, std::size_t, std::vector<Buffer>&) override {
    return Error{Code::kInternal, "nothing is expected"};
  }
  void on_frame(LinkId, Buffer&&, std::vector<Buffer>&&) override {}
  void on_closed(LinkId, Error error) override { closed.push_back(std::move(error)); }
};

#define TROUPE_ENDPOINT_TRANSPORTS                                                             \
  ::troupe::rpc::contract::Shm, ::troupe::rpc::contract::Tcp, ::troupe::rpc::contract::UcxTcp, \
      ::troupe::rpc::contract::Sim

}  // namespace troupe::rpc::testing
