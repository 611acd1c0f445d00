// What an endpoint sends to itself: messages, and calls that need none.
#include "calls/call_scope.hpp"
#include "endpoint/core_sources.hpp"

namespace troupe::rpc {

namespace {
/// Deliveries of an endpoint to itself that may lie in one another on the stack.
constexpr int kMaxLocalDepth = 8;
}  // namespace

/// A delivery on the stack; it is done in nobody's name.
class EndpointCore::Deeper {
 public:
  explicit Deeper(EndpointCore& endpoint) : depth_(endpoint.local_depth_), none_(endpoint.loop_, nullptr) {
    ++depth_;
  }
  ~Deeper() { --depth_; }
  Deeper(const Deeper&) = delete;
  Deeper& operator=(const Deeper&) = delete;

 private:
  int& depth_;
  Loop::Context none_;
};

Result<void> EndpointCore::send_local(OutFrame&& frame) {
  auto message = InMessage::parse(std::move(frame.head), std::move(frame.parts));
  if (!message) return message.error();
  deliver_local({std::move(*message), nullptr, nullptr});
  return {};
}

/// Things are delivered at once, unless the stack is deep already: a chain of calls, each made by the answer
/// to the one before, or by the method called, may have any length. Or the thread is not to run them.
bool EndpointCore::may_deliver() const {
  return local_depth_ < kMaxLocalDepth && local_waiting_.empty() && !loop_.only_borrowed();
}

void EndpointCore::wait_local(Local local) {
  local_waiting_.push_back(std::move(local));
  if (!local_delivery_->scheduled()) loop_.schedule(*local_delivery_, loop_.now());
}

void EndpointCore::deliver_local(Local local) {
  if (!may_deliver()) return wait_local(std::move(local));
  const Deeper deeper(*this);
  hand_over(std::move(local));
}

void EndpointCore::hand_over(Local local) {
  if (local.message) return deliver(kLocal, std::move(local.message));
  if (local.result) return give(local.call_id, *local.result);
  ++stats_.calls_received;
  begin_metered(*local.call);
  if (local.call->cancelled()) return;
  if (inbound_calls_ > options_.limits.max_inbound_calls)
    return local.call->reply_error(
        {Code::kResourceExhausted,
         std::to_string(options_.limits.max_inbound_calls) + " calls wait for their answers here already"});
  if (options_.tracer) begin_span(*local.call);
  shield("a call that came in", [&] { events_.on_call(std::move(local.call)); });
}

void EndpointCore::deliver_waiting_local() {
  // Those that come meanwhile wait for the loop's next round.
  for (std::size_t left = local_waiting_.size(); left > 0 && !local_waiting_.empty(); --left) {
    Local local = std::move(local_waiting_.front());
    local_waiting_.pop_front();
    hand_over(std::move(local));
  }
  if (!local_waiting_.empty() && !local_delivery_->scheduled()) loop_.schedule(*local_delivery_, loop_.now());
}

// ---- Calls without a message --------------------------------------------------------------------

std::uint64_t EndpointCore::open_directly(CallTarget target, const MessageHeader& header, OpenSpan span,
                                          const BodyWriter& body, ReplySink& sink, detail::CallScope* scope) {
  std::unique_ptr<detail::DirectCall> direct;
  try {
    direct = body.copy(header);
  } catch (...) {
    Error error = detail::current_exception_error("copying the arguments");
    if (span) detail::note_error(*span, error);
    span.reset();
    sink.on_reply(std::move(error));
    return 0;
  }
  OpenCall& opened = calls_.take(*this);
  opened.sink = &sink;
  opened.target = target;
  own_.out.add(opened);
  opened.span = std::move(span);
  const std::uint64_t call_id = opened.id();
  const TimePoint begun = loop_.fresh_now();
  const TimePoint deadline = begun + header.remaining;  // never, if there is none
  if (header.remaining != kNoDeadline) loop_.schedule(opened, deadline);
  try {
    if (metrics_)
      opened.metered =
          metrics_->begin(CallSide::kClient, header.method, begun, [&] { return sink.called(); });
    ++stats_.calls_sent;
    if (scope) scope->add(call_id);
    direct->header.call_id = call_id;
    deliver_local({nullptr, std::make_unique<InboundCall>(*this, std::move(direct), deadline), nullptr});
  } catch (...) {  // there is no memory: whoever waits hears it
    Error error = detail::current_exception_error("making a call");
    if (OpenCall* failed = find_call(call_id)) complete(*failed, std::move(error));
  }
  return call_id;
}

InboundCall::InboundCall(EndpointCore& endpoint, std::unique_ptr<detail::DirectCall> direct,
                         TimePoint deadline)
    : endpoint_(&endpoint), session_(kLocal), direct_(std::move(direct)), deadline_(deadline) {
  endpoint.enlist(*this);
}

namespace {
class DirectError final : public detail::DirectResult {
 public:
  explicit DirectError(Error error) : error_(std::move(error)) {}
  void give(ReplySink& sink) override { sink.on_reply(std::move(error_)); }
  Code code() const override { return error_.code; }
  std::unique_ptr<DirectResult> keep() override { return std::make_unique<DirectError>(std::move(error_)); }
  const Error* error() const override { return &error_; }

 private:
  Error error_;
};
}  // namespace

void InboundCall::reply_directly(detail::DirectResult& result) {
  if (!endpoint_) return;
  EndpointCore& endpoint = *endpoint_;
  endpoint.forget(*this);
  if (span_ && span_->code == Code::kOk && result.error()) detail::note_error(*span_, *result.error());
  if (span_) endpoint.end_span(*this, std::move(span_));  // before the caller's
  if (!cancelled_) endpoint.answer_directly(header().call_id, result);
}

void InboundCall::reply_directly_error(Error error) {
  DirectError result(std::move(error));
  reply_directly(result);
}

void EndpointCore::answer_directly(std::uint64_t call_id, detail::DirectResult& result) {
  if (!may_deliver()) return wait_local({nullptr, nullptr, result.keep(), call_id});
  const Deeper deeper(*this);
  give(call_id, result);
}

void EndpointCore::give(std::uint64_t call_id, detail::DirectResult& result) {
  OpenCall* open = find_call(call_id);
  if (!open || open->target.session != kLocal) {
    ++stats_.replies_late;
    return;
  }
  open->metered.code = result.code();
  if (open->metered.series) metrics_->end(open->metered);
  open->metered.series = nullptr;
  if (open->span) [[unlikely]]
    end_span(*open, result.error());
  ReplySink& sink = release(*open);
  shield("who waited for an answer", [&] { result.give(sink); });  // last: it may do anything
}

}  // namespace troupe::rpc
