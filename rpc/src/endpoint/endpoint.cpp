// The endpoint: what programs call, and the registry of sessions.
#include <troupe/rpc/endpoint.hpp>

#include <algorithm>
#include <cassert>

#include <troupe/rpc/stream_ends.hpp>

#include "calls/answers.hpp"
#include "calls/call_scope.hpp"
#include "calls/frugal_error.hpp"
#include "calls/retrying_call.hpp"
#include "device/device_tensors.hpp"
#include "endpoint/core_sources.hpp"
#include "wire/flat_writer.hpp"

namespace troupe::rpc {

namespace {
Error shutting_down() {
  return frugal_error(Code::kCancelled, "the node shuts down");
}
}  // namespace

// ---- What programs call -------------------------------------------------------------------------

Endpoint::Endpoint(Loop& loop, std::unique_ptr<Transport> transport, EndpointOptions options,
                   EndpointEvents& events)
    : loop_(loop),
      core_(std::make_unique<EndpointCore>(loop, std::move(transport), std::move(options), events)) {}
Endpoint::~Endpoint() {
  // In a child of fork() its links and its shared memory are the parent's, who goes on with them.
  if (loop_.is_forked())
    (void)core_.release();
  else
    core_->shut_down();
}
void Endpoint::shut_down() {
  if (!loop_.is_forked()) core_->shut_down();
}
Result<std::string> Endpoint::listen(std::string_view address) {
  return core_->listen(address);
}
Result<SessionId> Endpoint::connect(std::string_view address) {
  return core_->connect(address);
}
void Endpoint::close(SessionId session, const Error& why) {
  core_->close(session, why);
}
void Endpoint::close_all_with(std::uint64_t node_id, const Error& why) {
  core_->close_all_with(node_id, why);
}
void Endpoint::forget_caller(std::uint64_t node_id) {
  core_->forget_caller(node_id);
}
void Endpoint::keep_watch(SessionId session, bool on) {
  core_->keep_watch(session, on);
}
void Endpoint::suspect(SessionId session, Duration silence) {
  if (Session* found = core_->find(session)) core_->liveness_->suspect(*found, silence);
}
const Peer* Endpoint::peer(SessionId session) const {
  const Session* found = core_->find(session);
  return found ? &found->peer() : nullptr;
}
std::string Endpoint::identity_of(SessionId session) const {
  const Session* found = core_->find(session);
  if (!found) return {};
  std::string own = core_->transport_->peer_identity(session);
  return own.empty() ? found->peer().identity : own;
}
std::string Endpoint::local_host(SessionId session) const {
  return core_->transport_->local_host(session);
}
bool Endpoint::ready(SessionId session) const {
  return core_->ready(session);
}
Result<void> Endpoint::send(CallTarget target, MethodId method, const CallOptions& options,
                            const BodyWriter& body) {
  return core_->send(target, method, options, body);
}
std::uint64_t Endpoint::call_with_retries(FindTarget find, MethodId method, const CallOptions& options,
                                          const BodyWriter& body, ReplySink& sink) {
  return core_->call_with_retries(std::move(find), method, options, body, sink);
}
void Endpoint::cancel(std::uint64_t call_id) {
  core_->cancel(call_id);
}
bool Endpoint::is_open(std::uint64_t call_id) const {
  return core_->is_open(call_id);
}
MemoryPool& Endpoint::pool() {
  return core_->pool_;
}
SharedPool& Endpoint::shared_pool() {
  return core_->shared_pool_;
}
const EndpointOptions& Endpoint::options() const {
  return core_->options_;
}
const Endpoint::Stats& Endpoint::stats() const {
  return core_->stats_;
}
std::size_t Endpoint::open_calls() const {
  return core_->calls_.open();
}
std::size_t Endpoint::inbound_calls() const {
  return core_->inbound_calls_;
}
std::size_t Endpoint::kept_answers() const {
  return core_->answers_->kept_answers();
}
Duration Endpoint::default_timeout() const {
  return core_->default_timeout();
}
Result<void> Endpoint::set_default_timeout(Duration timeout) {
  if (timeout <= Duration::zero())
    return Error{Code::kInvalidArgument,
                 "a default timeout is more than nothing; a call without a deadline has rpc::kNoDeadline"};
  core_->default_timeout_ns_.store(timeout.count(), std::memory_order_relaxed);
  return {};
}
Endpoint::Waiting Endpoint::waiting() const {
  return core_->waiting();
}
Endpoint::DeviceUse Endpoint::device_use() const {
  return core_->device_use();
}
std::vector<FunctionMetrics> Endpoint::function_metrics() {
  return core_->function_metrics();
}
CallMetrics* Endpoint::metrics() {
  return core_->metrics();
}

// ---- Its beginning and its end ------------------------------------------------------------------

EndpointCore::EndpointCore(Loop& loop, std::unique_ptr<Transport> transport, EndpointOptions options,
                           EndpointEvents& events)
    : loop_(loop),
      options_(std::move(options)),
      default_timeout_ns_(options_.default_timeout.count()),
      events_(events),
      shared_pool_(options_.shared),
      devices_(options_.gpus.empty()
                   ? nullptr
                   : std::make_unique<DeviceTensors>(loop, options_.gpus, options_.max_pinned_bytes,
                                                     [this](const auto& slabs) { tell_slabs_gone(slabs); })),
      metrics_(options_.metrics ? std::make_unique<CallMetrics>(loop) : nullptr),
      heads_(std::make_unique<HeadPool>(flat::Writer::kFirstBytes)),
      random_(options_.seed != 0 ? options_.seed : options_.node_id),
      own_(random_()),
      orphans_(random_()),
      pump_(std::make_unique<FlowPump>(*this)),
      endings_(std::make_unique<Endings>(*this)),
      long_from_(transport->limits().eager_bytes),
      answers_(std::make_unique<Answers>(options_.answers)),
      liveness_(std::make_unique<Liveness>(*this)),
      local_delivery_(std::make_unique<LocalDelivery>(*this)),
      transport_(std::move(transport)) {
  assert(options_.node_id != 0 && options_.default_timeout > Duration::zero());
  CallLimits& limits = options_.limits;
  limits.max_inbound_calls_per_peer = std::min(limits.max_inbound_calls_per_peer, limits.max_inbound_calls);
  transport_->set_events(*this);
  expect_strangers();
}

void EndpointCore::shut_down() {
  closing_ = true;
  while (!sessions_.empty()) close(sessions_.begin()->first, shutting_down());
  endings_->finish();
  Endings::end_streams(own_, shutting_down(), SIZE_MAX);
  Endings::fail_calls(own_, shutting_down(), SIZE_MAX);
  while (!retrying_.empty()) retrying_.begin()->second->finish(shutting_down());
  std::size_t chain = 0;
  cancel_some_inbound(own_, chain, SIZE_MAX);
  cancel_orphans();
}

/// After shut_down(): of others there is only what has not been answered.
EndpointCore::~EndpointCore() {
  std::vector<std::shared_ptr<detail::CallScope>> scopes;
  const auto leave = [&](InboundCall& call) {
    call.endpoint_ = nullptr;
    if (call.span_) end_span(call, std::move(call.span_));
    if (call.scope_) scopes.push_back(call.scope_);
  };
  own_.in.for_each(leave);
  orphans_.for_each(leave);
  nodes_.for_each([&](const PeerNode& node) { node.orphans.for_each(leave); });
  for (const auto& scope : scopes) scope->finish();
}

// ---- The registry of sessions -------------------------------------------------------------------

Session* EndpointCore::look_up(SessionId session) {
  const auto found = sessions_.find(session);
  return found == sessions_.end() ? nullptr : last_found_ = found->second.get();
}

bool EndpointCore::ready(SessionId session) const {
  const auto found = sessions_.find(session);
  return session == kLocal || (found != sessions_.end() && found->second->ready());
}

Result<std::string> EndpointCore::listen(std::string_view address) {
  if (auto may = may_meet_at(address); !may) return may.error();
  return transport_->listen(address);
}

Result<SessionId> EndpointCore::connect(std::string_view address) {
  if (closing_) return shutting_down();
  if (auto may = may_meet_at(address); !may) return may.error();
  auto link = transport_->dial(address);
  if (!link) return link.error();
  Peer peer;
  peer.address = std::string(address);
  auto session = std::make_unique<Session>(*this, *link, std::move(peer));
  session->begun = loop_.refresh_now();
  attend(*sessions_.emplace(*link, std::move(session)).first->second);
  return *link;
}

void EndpointCore::close(SessionId session, const Error& why) {
  if (Session* closing = find(session)) shield("a goodbye", [&] { closing->say_goodbye(why); });
  end_session(session, frugal_error(why), false);
}

void EndpointCore::close_all_with(std::uint64_t node_id, const Error& why) {
  const PeerNode* const node = nodes_.find(node_id);
  if (!node) return;
  const std::vector<SessionId> with_it(node->sessions.begin(), node->sessions.end());
  for (const SessionId id : with_it) close(id, why);
}

void EndpointCore::end_session(SessionId session, Error error, bool tell) {
  const auto found = sessions_.find(session);
  if (found == sessions_.end()) return;
  std::unique_ptr<Session> ended = std::move(found->second);
  last_found_ = nullptr;
  sessions_.erase(found);
  if (ended->calls.node) ended->calls.node->sessions.erase(session);
  // Each whatever the others throw: nothing may be left that knows of the session.
  shield(Endings::kWhere, [&] { transport_->close(session); });
  shield(Endings::kWhere, [&] {
    if (!ended->peer().node_name.empty()) error.message = ended->peer().node_name + ": " + error.message;
  });
  if (devices_) shield(Endings::kWhere, [&] { leave_devices(*ended); });
  endings_->begin(std::move(ended), std::move(error), tell);
}

void EndpointCore::on_thrown(std::string_view where) {
  ++stats_.exceptions;
  try {
    events_.on_exception(detail::current_exception_error(where));
  } catch (...) {  // it has been counted
  }
}

// ---- What the transport tells -------------------------------------------------------------------

void EndpointCore::on_link(LinkId link, std::string_view peer_address, bool incoming) {
  if (closing_) return transport_->close(link);
  if (incoming) {
    Peer peer;
    peer.address = std::string(peer_address);
    peer.incoming = true;
    auto session = std::make_unique<Session>(*this, link, std::move(peer));
    session->begun = loop_.now();
    attend(*sessions_.emplace(link, std::move(session)).first->second);
  }
  if (Session* session = find(link)) session->begin_meeting();
}

void EndpointCore::on_control(LinkId link, std::span<const std::byte> message) {
  shield("a control message", [&] {
    if (Session* session = find(link)) session->on_control(message);
  });
}

void EndpointCore::on_closed(LinkId link, Error error) {
  end_session(link, std::move(error), true);
}

Result<void> EndpointCore::on_parts(LinkId link, std::span<const std::byte> head, std::size_t total_bytes,
                                    std::vector<Buffer>& parts) {
  try {  // not the shield: what that tells of must not run inside of a vendor's callback
    return begin_message(link, head, total_bytes, parts);
  } catch (...) {
    return detail::current_exception_error("asking for memory for a message");
  }
}

Result<void> EndpointCore::begin_message(LinkId link, std::span<const std::byte> head,
                                         std::size_t total_bytes, std::vector<Buffer>& parts) {
  // Nobody is told where to send to before the meeting: what comes earlier is a stranger's.
  Session* const session = find(link);
  if (!session || !session->met()) return Error{Code::kUnauthenticated, "a message came before the meeting"};
  if (total_bytes > options_.limits.max_message_bytes)
    return Error{Code::kResourceExhausted,
                 "a message of " + std::to_string(total_bytes) + " bytes is longer than the " +
                     std::to_string(options_.limits.max_message_bytes) + " allowed"};
  auto message = InMessage::begin(head);
  if (!message) return message.error();
  const Tensor* const into = destination(link, (*message)->header());
  if (auto made = (*message)->allocate_parts(total_bytes, pool_, parts, into,
                                             devices_ ? devices_->staging() : nullptr);
      !made)
    return made;
  session->begun_messages.add(head.data(), std::move(*message));
  return {};
}

/// Where the first tensor of an answer that comes is to be received; null: wherever.
const Tensor* EndpointCore::destination(LinkId link, const MessageHeader& header) {
  if (into_.empty() || header.kind != MessageKind::kReply) return nullptr;
  const OpenCall* call = find_call(header.call_id);
  return call && call->target.session == link ? call->into.get() : nullptr;
}

void EndpointCore::on_frame(LinkId link, Buffer&& head, std::vector<Buffer>&& parts) {
  Session* session = find(link);
  if (!session) return;
  if (!session->met())
    return end_session(link, {Code::kUnauthenticated, "a message came before the meeting"}, true);
  session->life.heard = loop_.now();
  const HeadPool::Scope heads(*heads_);
  bool read = false;
  shield("a message", [&] {
    auto begun = parts.empty() ? nullptr : session->begun_messages.take(head.data());
    auto message =
        begun ? InMessage::finish(std::move(begun), std::move(head), std::move(parts), &session->memory())
              : InMessage::parse(std::move(head), std::move(parts), &session->memory());
    read = true;
    if (!message) return end_session(link, message.error(), true);
    stats_.bytes_received += (*message)->bytes();
    if (!session->life.listed && session->memory().maps()) [[unlikely]]
      liveness_->list(*session);
    deliver(link, std::move(*message));
  });
  // It is lost, and whoever waits for what it said would wait for ever.
  if (!read) [[unlikely]]
    end_session(link, {Code::kResourceExhausted, "there was no memory to read a message"}, true);
}

}  // namespace troupe::rpc
