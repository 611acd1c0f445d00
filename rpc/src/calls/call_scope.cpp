// Calls within calls: what a handler's own calls take over from the one that it answers.
#include "calls/call_scope.hpp"

#include <algorithm>
#include <utility>

#include <troupe/rpc/call_context.hpp>

#include "endpoint/core.hpp"

namespace troupe::rpc {

namespace detail {

std::shared_ptr<CallScope> scope_of_context(const Loop& loop) {
  auto& active = *static_cast<ActiveCall*>(loop.context());
  return active.call ? active.call->scope() : active.scope;
}

TraceContext trace_of_context(const Loop& loop) {
  return trace_of_work(loop.context());
}

TraceContext trace_of_work(const void* context) {
  const auto& active = *static_cast<const ActiveCall*>(context);
  if (active.call) return active.call->trace();
  return active.scope ? active.scope->trace() : TraceContext{};
}

TimePoint deadline_of(const CallScope* scope) {
  return scope ? scope->deadline() : TimePoint::never();
}

bool CallScope::cancelled_or_expired() const {
  if (cancelled() || deadline_ == TimePoint::never()) return cancelled();
  const std::lock_guard lock(end_);
  return endpoint_ && endpoint_->loop().clock().now() >= deadline_;
}

Duration CallScope::time_left() const {
  const std::lock_guard lock(end_);
  if (cancelled() || !endpoint_) return Duration::zero();
  return std::max(rpc::time_left(deadline_, endpoint_->loop().clock().now()), Duration::zero());
}

void CallScope::on_cancel_from_anywhere(UniqueFunction<void()> told) {
  {
    const std::lock_guard lock(end_);
    if (endpoint_ && !endpoint_->loop().in_turn())
      return endpoint_->loop().post([self = shared_from_this(), told = std::move(told)]() mutable {
        self->on_cancel(std::move(told));
      });
  }
  on_cancel(std::move(told));
}

void CallScope::add(std::uint64_t call_id) {
  if (!endpoint_) return;
  if (calls_.size() >= look_at_) {
    std::erase_if(calls_, [&](std::uint64_t call) { return !endpoint_->is_open(call); });
    look_at_ = 2 * calls_.size() + 16;
  }
  calls_.push_back(call_id);
}

void CallScope::on_cancel(UniqueFunction<void()> told) {
  if (cancelled_) return told();
  if (!endpoint_) return;
  told_.push_back(std::move(told));
  if (!scheduled() && deadline_ != TimePoint::never()) endpoint_->loop().schedule(*this, deadline_);
}

void CallScope::cancel() {
  if (cancelled_ || !endpoint_) return;
  cancelled_ = true;
  const auto self = shared_from_this();
  EndpointCore& endpoint = *endpoint_;
  endpoint.loop().cancel(*this);
  // Each of these may answer the call itself, which finishes this.
  const auto calls = std::exchange(calls_, {});
  for (auto& told : std::exchange(told_, {}))
    endpoint.shield("who is told of a cancellation", [&] { told(); });
  endpoint.cancel_all(calls);
}

void CallScope::finish() {
  if (!endpoint_) return;
  endpoint_->loop().cancel(*this);
  {
    const std::lock_guard lock(end_);
    endpoint_ = nullptr;
  }
  calls_.clear();
  std::exchange(told_, {}).clear();  // last: what they own may do anything
}

}  // namespace detail

// ---- The call that is answered ------------------------------------------------------------------

const std::shared_ptr<detail::CallScope>& InboundCall::scope() {
  if (!scope_ && endpoint_)
    scope_ = std::make_shared<detail::CallScope>(*endpoint_, deadline_, trace(),
                                                 header().metadata.passed_on(), cancelled_);
  return scope_;
}

Loop* InboundCall::loop() const {
  return endpoint_ ? &endpoint_->loop() : nullptr;
}

bool InboundCall::expired() const {
  return endpoint_ && endpoint_->loop().now() >= deadline_;
}

Metadata detail::passed_on_metadata(const Loop& loop) {
  const auto scope = current_scope(loop);
  return scope ? scope->metadata() : Metadata();
}

/// For a call that is made within another: no more time than that one has left, and its trace.
Result<std::shared_ptr<detail::CallScope>> EndpointCore::join_scope(CallOptions& options) const {
  auto scope = detail::current_scope(loop_);
  if (!scope) return scope;
  if (scope->cancelled())
    return Error{Code::kCancelled, "the call within which this one was made has been cancelled"};
  options.timeout = timeout_of(options);
  const Duration left = time_left(scope->deadline(), loop_.clock().now());
  if (left <= Duration::zero())
    return Error{Code::kDeadlineExceeded, "no time was left for a call within another"};
  if (left < options.timeout) options.timeout = left;
  if (!options.trace) options.trace = scope->trace();
  if (!scope->metadata().empty()) options.metadata = options.metadata.within(scope->metadata());
  return scope;
}

/// Those who are to hear that calls have been cancelled: told when all these are marked, because what is told
/// may answer others.
class EndpointCore::Cancelling {
 public:
  explicit Cancelling(EndpointCore& endpoint) : endpoint_(endpoint) {}

  void mark(InboundCall& call) {
    call.cancelled_ = true;
    endpoint_.shield("noting a cancellation", [&] {
      if (call.scope_) scopes_.push_back(call.scope_);
      if (!call.awaited_.expired()) answers_.push_back(call.awaited_);
    });
  }
  void tell() {
    for (const auto& scope : scopes_) scope->cancel();
    for (const auto& answer : answers_)
      if (const auto future = answer.lock())
        endpoint_.shield("an answer that is not wanted any more", [&] { future->cancel(); });
  }

 private:
  EndpointCore& endpoint_;
  std::vector<std::shared_ptr<detail::CallScope>> scopes_;
  std::vector<std::weak_ptr<detail::Cancellable>> answers_;
};

void EndpointCore::cancel_inbound(PeerCalls& calls, std::uint64_t call_id) {
  InboundCall* call = calls.in.find(call_id);
  if (!call) return;
  if (call->held_ != 0) return forget(*calls.held.take(*call));
  Cancelling cancelling(*this);
  cancelling.mark(*call);
  InboundCall* first = call->header().token != 0 ? first_of(*call) : nullptr;
  if (first && first != call) cancelling.mark(*first);
  cancelling.tell();
}

/// The peer has gone: its calls that still run are nobody's. Does so for `most` of them, and says for how
/// many; `chain` is 0 in the first call.
std::size_t EndpointCore::cancel_some_inbound(PeerCalls& calls, std::size_t& chain, std::size_t most) {
  std::size_t did = 0;
  for (; did < most && !calls.held.empty(); ++did) forget(*calls.held.pop());
  Cancelling cancelling(*this);
  InboundCalls& orphans = calls.node ? calls.node->orphans : orphans_;
  for (InboundCall* call = nullptr; did < most && (call = calls.in.any(chain)); ++did) {
    calls.in.remove(*call);
    orphans.add(*call);
    // One with a token may come back for its answer, on another link.
    if (call->header().kind == MessageKind::kRequest && call->token_owner_ == 0) cancelling.mark(*call);
  }
  cancelling.tell();
  return did;
}

/// The endpoint goes. Those with a token, and messages, too: whoever works on one, perhaps in the pool, is to
/// see that it is for nothing.
void EndpointCore::cancel_orphans() {
  Cancelling cancelling(*this);
  const auto mark = [&](InboundCall& call) { cancelling.mark(call); };
  orphans_.for_each(mark);
  nodes_.for_each([&](const PeerNode& node) { node.orphans.for_each(mark); });
  cancelling.tell();
}

// ---- What a handler sees of it ------------------------------------------------------------------

CallContext::CallContext(const CallContext& other)
    : session(other.session),
      deadline(other.deadline),
      trace(other.trace),
      metadata(other.metadata),
      active_{nullptr, other.active_.call ? other.active_.call->scope() : other.active_.scope},
      endpoint_(other.endpoint_) {}

CallContext& CallContext::operator=(const CallContext& other) {
  if (this == &other) return *this;
  session = other.session;
  deadline = other.deadline;
  trace = other.trace;
  metadata = other.metadata;
  endpoint_ = other.endpoint_;
  active_ = {nullptr, other.active_.call ? other.active_.call->scope() : other.active_.scope};
  return *this;
}

bool CallContext::cancelled() const {
  if (!active_.call) return active_.scope && active_.scope->cancelled_or_expired();
  if (active_.call->cancelled()) return true;
  const Loop* loop = active_.call->loop();
  return loop && loop->clock().now() >= deadline;
}

EndpointEvents* CallContext::owner() const {
  return endpoint_ ? &endpoint_->events() : nullptr;
}

Duration CallContext::time_left() const {
  if (!active_.call) {
    if (active_.scope) return active_.scope->time_left();
    return endpoint_ ? Duration::zero() : kNoDeadline;  // copied after the answer, or made of no call
  }
  const Loop* const loop = active_.call->loop();
  if (!loop || active_.call->cancelled()) return Duration::zero();
  return std::max(rpc::time_left(deadline, loop->clock().now()), Duration::zero());
}

void CallContext::on_cancel(UniqueFunction<void()> told) const {
  if (const auto scope = active_.call ? active_.call->scope() : active_.scope)
    scope->on_cancel_from_anywhere(std::move(told));
}

}  // namespace troupe::rpc
