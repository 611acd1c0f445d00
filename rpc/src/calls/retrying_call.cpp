#include "calls/retrying_call.hpp"

#include <algorithm>

#include "calls/call_scope.hpp"
#include "calls/frugal_error.hpp"
#include "endpoint/core.hpp"
#include "wire/envelope_patch.hpp"

namespace troupe::rpc {

namespace {

/// Ids of calls that are repeated; a slot's number, in the low half of other ids, never has this bit.
constexpr std::uint64_t kRetryingBit = std::uint64_t{1} << 31;

Duration attempt_timeout(const EndpointCore& endpoint, const CallOptions& call) {
  if (call.retry.attempt_timeout > Duration::zero()) return call.retry.attempt_timeout;
  const Duration all = endpoint.timeout_of(call);
  return all == kNoDeadline ? endpoint.default_timeout() : all / call.retry.max_attempts;
}

/// Whether the callee may not have seen the call, or its answer was lost.
bool worth_another(const Result<std::unique_ptr<InMessage>>& reply) {
  if (!reply)
    return reply.error().code == Code::kUnavailable || reply.error().code == Code::kDeadlineExceeded;
  return (*reply)->is_error() && (*reply)->error().code == Code::kUnavailable;
}

}  // namespace

EndpointCore::RetryingCall::RetryingCall(EndpointCore& endpoint, std::uint64_t id, FindTarget find,
                                         const CallOptions& options, OutFrame frame, ReplySink& sink,
                                         OpenSpan span)
    : endpoint_(endpoint),
      id_(id),
      find_(std::move(find)),
      policy_(options.retry),
      frame_(std::move(frame)),
      sink_(sink),
      span_(std::move(span)),
      deadline_(endpoint.loop_.refresh_now() + endpoint.timeout_of(options)),
      attempt_timeout_(attempt_timeout(endpoint, options)) {}

void EndpointCore::RetryingCall::meter(std::uint64_t method) {
  if (CallMetrics* metrics = endpoint_.metrics())
    metered_ = metrics->begin(CallSide::kClient, method, endpoint_.loop_.now(), [&] { return called(); });
}

Result<CallTarget> EndpointCore::RetryingCall::find_target() const {
  try {
    return find_();
  } catch (...) {
    return detail::current_exception_error("finding the callee");
  }
}

void EndpointCore::RetryingCall::attempt() {
  try {
    make_attempt();
  } catch (...) {  // before anybody was called: nothing comes that would end this
    finish(frugal_error(Code::kResourceExhausted, "no memory for another attempt"));
  }
}

void EndpointCore::RetryingCall::make_attempt() {
  state_ = State::kTrying;
  attempt_id_ = 0;
  if (++attempts_ > 1) {
    ++endpoint_.stats_.calls_retried;
    if (metered_.series) ++metered_.series->retries;
  }
  const Duration left = time_left(deadline_, endpoint_.loop_.refresh_now());
  if (left <= Duration::zero()) return finish(frugal_error(Code::kDeadlineExceeded, "no answer in time"));
  auto target = find_target();
  if (!target) return on_reply(target.error());
  target_ = *target;
  OutFrame frame{Buffer::copy_of(frame_.head.bytes()), frame_.parts};
  if (frame_.leases)
    frame.leases = std::make_shared<FrameLeases>(FrameLeases{.waits = frame_.leases->waits,
                                                             .later = frame_.leases->later,
                                                             .device_bytes = frame_.leases->device_bytes});
  patch_target(frame.head, target_.actor);
  metered_.sent(bytes_of(frame));
  OpenSpan span = begin_attempt(frame);
  // An answer may come inside of this, and end this object.
  EndpointCore& endpoint = endpoint_;
  const std::uint64_t id = id_;
  const std::uint64_t made = endpoint.call_encoded(
      target_, std::move(frame), std::min(left, attempt_timeout_), left, *this, std::move(span));
  const auto self = endpoint.retrying_.find(id);
  if (self != endpoint.retrying_.end() && endpoint.find_call(made)) self->second->attempt_id_ = made;
}

void EndpointCore::RetryingCall::on_reply(Result<std::unique_ptr<InMessage>> reply) {
  if (!worth_another(reply)) return finish(std::move(reply));
  const TimePoint now = endpoint_.loop_.refresh_now();
  const Duration pause = next_pause();
  if (attempts_ < policy_.max_attempts && now + pause < deadline_) {
    state_ = State::kPausing;
    endpoint_.loop_.schedule(*this, now + pause);
    return;
  }
  const bool given_up = !reply && reply.error().code == Code::kDeadlineExceeded;
  if (!reply && attempts_ > 1)
    endpoint_.shield("telling of attempts", [&] {
      reply = with_context(reply.error(), "after " + std::to_string(attempts_) + " attempts");
    });
  end(std::move(reply), given_up ? attempt_id_ : 0);
}

Duration EndpointCore::RetryingCall::next_pause() {
  Duration longest = policy_.first_backoff;
  for (std::uint32_t i = 1; i < attempts_ && longest < RetryPolicy::kLongestBackoff; ++i) longest *= 2;
  longest = std::clamp(longest, Duration(1), RetryPolicy::kLongestBackoff);
  return longest - Duration(endpoint_.random_.between(0, longest.count() / 2));
}

/// finish(), and nobody waits for the attempt `given_up` any more, if that is one. The callee may be of this
/// node, and do anything when it hears so: hence last.
void EndpointCore::RetryingCall::end(Result<std::unique_ptr<InMessage>> reply, std::uint64_t given_up) {
  EndpointCore& endpoint = endpoint_;
  const CallTarget target = target_;
  finish(std::move(reply));
  if (given_up != 0) endpoint.shield("giving a call up", [&] { endpoint.send_cancel(target, given_up); });
}

void EndpointCore::RetryingCall::cancel() {
  const std::uint64_t open = attempt_id_;
  if (state_ == State::kTrying && endpoint_.find_call(open)) {
    endpoint_.cancel(open);  // its answer, kCancelled, ends this
    return;
  }
  end(frugal_error(Code::kCancelled, "cancelled by the caller"), open);
}

void EndpointCore::RetryingCall::finish(Result<std::unique_ptr<InMessage>> reply) {
  ReplySink& sink = sink_;
  endpoint_.end_metered(metered_, reply);
  const auto found = endpoint_.retrying_.find(id_);
  const std::unique_ptr<RetryingCall> self = std::move(found->second);
  endpoint_.retrying_.erase(found);
  if (self->span_ && !reply) detail::note_error(*self->span_, reply.error());
  if (self->span_ && reply && (*reply)->is_error()) detail::note_error(*self->span_, (*reply)->error());
  self->span_.reset();
  endpoint_.shield("who waited for an answer", [&] { sink.on_reply(std::move(reply)); });
}

std::uint64_t EndpointCore::call_with_retries(FindTarget find, MethodId method, const CallOptions& options,
                                              const BodyWriter& body, ReplySink& sink) {
  const auto refuse = [&](Error error) {
    count_refused(method.name, error.code, sink);
    sink.on_reply(std::move(error));
    return std::uint64_t{0};
  };
  if (closing_) return refuse({Code::kCancelled, "the node shuts down"});
  if (loop_.is_forked()) return refuse(HomeProcess::error());
  // Between two attempts it is none of the open calls, and yet it is kept.
  if (retrying_.size() >= options_.limits.max_open_calls)
    return refuse(
        {Code::kResourceExhausted,
         std::to_string(retrying_.size()) + " calls that can be repeated are open already; wait for some"});
  if (options.token == 0 || options.retry.max_attempts == 0)
    return refuse({Code::kInvalidArgument, "only a call with a token can be repeated"});
  if (options.into)
    return refuse(
        {Code::kInvalidArgument, "a call that can be repeated cannot say where its answer is to lie"});
  CallOptions own = options;
  std::shared_ptr<detail::CallScope> scope;
  if (loop_.context() && !options.detached) {
    auto joined = join_scope(own);
    if (!joined) return refuse(std::move(joined).error());
    scope = std::move(*joined);
  }
  const Duration timeout = timeout_of(own);
  if (timeout <= Duration::zero())
    return refuse({Code::kDeadlineExceeded, "no time was left when the call was made"});
  if (auto checked = own.metadata.check(); !checked) return refuse(checked.error());
  own.trace = trace_of(own);
  OpenSpan span = begin_span(own.trace, SpanKind::kInternal, {}, method);
  auto frame = encode({MessageKind::kRequest, 0, 0, method.name, method.signature, timeout, own.trace,
                       own.token, own.metadata},
                      body, kElsewhere, false, own.stream.get());
  if (!frame) return refuse(frame.error());
  const std::uint64_t id = kRetryingBit | (++next_retrying_ << 32);
  auto call = std::make_unique<RetryingCall>(*this, id, std::move(find), own, std::move(*frame), sink,
                                             std::move(span));
  RetryingCall& made = *call;
  retrying_.emplace(id, std::move(call));
  try {
    if (scope) scope->add(id);
    made.meter(method.name);
  } catch (...) {
    retrying_.erase(id);
    throw;
  }
  made.attempt();
  return id;
}

std::uint64_t EndpointCore::call_encoded(CallTarget target, OutFrame frame, Duration timeout,
                                         Duration remaining, ReplySink& sink, OpenSpan span) {
  if (calls_.open() >= options_.limits.max_open_calls) {
    const Error error{Code::kResourceExhausted,
                      std::to_string(calls_.open()) + " calls are open already; wait for some"};
    if (span) detail::note_error(*span, error);
    sink.on_reply(error);
    return 0;
  }
  OpenCall& open = calls_.take(*this);
  open.sink = &sink;
  open.target = target;
  open.attempt = true;
  open.span = std::move(span);
  const std::uint64_t call_id = open.id();
  if (timeout != kNoDeadline) loop_.schedule(open, loop_.now() + timeout);
  ++stats_.calls_sent;
  patch_call_id(frame.head, call_id);
  patch_remaining(frame.head, remaining);
  const Result<void> sent = send_frame(target.session, std::move(frame), Flow::kCall, &open);
  if (!sent)
    if (OpenCall* failed = find_call(call_id)) complete(*failed, frugal_error(sent.error()));
  return call_id;
}

}  // namespace troupe::rpc
