// Streams: both ends, and the endpoint's part in them. The protocol is told in wire.capnp, at Envelope.Kind.
#include <troupe/rpc/stream_ends.hpp>

#include <algorithm>

#include "endpoint/core.hpp"

namespace troupe::rpc {

namespace {

constexpr std::uint64_t kMaxWindowItems = std::uint64_t{1} << 20;
/// What a writer may write without room.
constexpr std::size_t kMaxWaiting = 64;

StreamWindow sane(StreamWindow window) {
  window.items = std::clamp<std::uint64_t>(window.items, 1, kMaxWindowItems);
  window.bytes = std::clamp<std::uint64_t>(window.bytes, 1, std::uint64_t{1} << 62);
  return window;
}

}  // namespace

void ReplySink::on_item(std::unique_ptr<InMessage>) {}
bool ReplySink::has_items(std::uint64_t) const {
  return true;
}

namespace detail {

// ---- The callee's end ---------------------------------------------------------------------------

std::shared_ptr<StreamSource> StreamSource::open(InboundCallPtr call) {
  EndpointCore* endpoint = call->endpoint_;
  const InMessage& request = call->message();
  std::uint64_t items = 0;
  std::uint64_t bytes = 0;
  const bool valid = request.value_count() >= 2 && request.value(0).read_unsigned(items) &&
                     request.value(1).read_unsigned(bytes) && items > 0 && items <= kMaxWindowItems &&
                     bytes > 0 && request.header().kind == MessageKind::kRequest;
  if (!valid || !endpoint) {
    call->reply_error({Code::kInvalidArgument, "a stream begins with its reader's credit"});
    return nullptr;
  }
  PeerCalls* calls = endpoint->calls_of(call->session());
  const std::uint64_t call_id = call->header().call_id;
  if (!calls || calls->streams.contains(call_id)) {
    endpoint->drop(std::move(call));  // the network has repeated it; the first goes on
    return nullptr;
  }
  std::shared_ptr<StreamSource> source(new StreamSource(std::move(call)));
  source->credit_items_ = items;
  source->credit_bytes_ = bytes;
  calls->streams.emplace(call_id, source);
  if (Session* reader = endpoint->find(source->call_->session())) endpoint->attend(*reader);
  return source;
}

StreamSource::StreamSource(InboundCallPtr call)
    : endpoint_(*call->endpoint_), loop_(endpoint_.loop()), call_(std::move(call)) {}

StreamSource::~StreamSource() = default;

Result<bool> StreamSource::write(const BodyWriter& item) {
  if (state_ != State::kOpen) {
    if (!outcome_) return outcome_.error();
    return Error{Code::kFailedPrecondition, "the stream has ended"};
  }
  if (waiting_.size() >= kMaxWaiting)
    return Error{Code::kResourceExhausted,
                 std::to_string(waiting_.size()) + " items wait for the reader already; wait for room()"};
  auto frame = endpoint_.encode(
      {MessageKind::kItem, call_->header().call_id, written_, 0, 0, Duration{0}, {}}, item, call_->session());
  if (!frame) return frame.error();
  const std::size_t bytes = bytes_of(*frame);
  if (bytes > endpoint_.options().limits.max_message_bytes)
    return Error{Code::kResourceExhausted,
                 "an item of " + std::to_string(bytes) + " bytes is longer than a message may be"};
  waiting_.push_back({std::move(*frame), bytes});
  ++written_;
  send_waiting();
  if (state_ == State::kEnded && !outcome_) return outcome_.error();
  return has_room();
}

/// Sends what there is credit for. The reader may be on this node, and do anything meanwhile.
void StreamSource::send_waiting() {
  const auto self = shared_from_this();
  while (state_ != State::kEnded && !waiting_.empty() && has_credit()) {
    Waiting next = std::move(waiting_.front());
    waiting_.pop_front();
    ++sent_items_;
    sent_bytes_ += next.bytes;
    const auto sent = endpoint_.send_frame(call_->session(), std::move(next.frame), Flow::kReply);
    if (!sent) return end_by_reader(sent.error());
  }
  if (state_ == State::kEnding && waiting_.empty()) finish();
  if (state_ == State::kOpen && has_room() && !waiting_for_room_.empty()) tell_writer({});
}

Future<void> StreamSource::room() {
  Promise<void> promise(loop_);
  auto future = promise.future();
  if (state_ != State::kOpen)
    promise.set(outcome_ ? Error{Code::kFailedPrecondition, "the stream has ended"} : outcome_.error());
  else if (has_room())
    promise.set({});
  else
    waiting_for_room_.push_back(std::move(promise));
  return future;
}

void StreamSource::end(Result<void> outcome) {
  if (state_ != State::kOpen) return;
  state_ = State::kEnding;
  outcome_ = std::move(outcome);
  send_waiting();
}

void StreamSource::drop() {
  dropped_ = true;
  if (!in_handler_) end(Error{Code::kInternal, "the writer dropped the stream without an end"});
}

void StreamSource::handler_ended(Result<void> outcome) {
  in_handler_ = false;
  ended_call_.reset();
  if (!outcome) return end(std::move(outcome));
  if (dropped_) drop();
}

void StreamSource::finish() {
  const auto self = shared_from_this();
  state_ = State::kEnded;
  endpoint_.forget_stream(call_->session(), call_->header().call_id);
  InboundCallPtr call = std::move(call_);
  call->items_ = written_;
  if (outcome_)
    call->reply_void();
  else
    call->reply_error(outcome_.error());
  if (in_handler_) ended_call_ = std::move(call);
  tell_writer(Error{Code::kFailedPrecondition, "the stream has ended"});
}

void StreamSource::on_credit(std::uint64_t items, std::uint64_t bytes) {
  credit_items_ = std::max(credit_items_, items);
  credit_bytes_ = std::max(credit_bytes_, bytes);
  send_waiting();
}

void StreamSource::end_by_reader(const Error& why) {
  if (state_ == State::kEnded) return;
  const auto self = shared_from_this();
  state_ = State::kEnded;
  outcome_ = why;
  waiting_.clear();
  endpoint_.forget_stream(call_->session(), call_->header().call_id);
  InboundCallPtr call = std::move(call_);
  call->cancelled_ = true;
  call->reply_error(why);
  if (in_handler_) ended_call_ = std::move(call);
  tell_writer(why);
}

void StreamSource::tell_writer(const Result<void>& outcome) {
  for (Promise<void>& promise : std::exchange(waiting_for_room_, {})) promise.set(outcome);
}

// ---- The caller's end ---------------------------------------------------------------------------

StreamSink::StreamSink(Endpoint& endpoint, StreamWindow window)
    : endpoint_(endpoint.core()),
      loop_(endpoint.loop()),
      window_(sane(window)),
      items_(window_.items),
      credit_items_(window_.items),
      credit_bytes_(window_.bytes) {}

bool StreamSink::ready() const {
  return ended_ || items_[taken_ % window_.items];
}

StreamSink::Next StreamSink::take() {
  auto& slot = items_[taken_ % window_.items];
  if (!slot) {
    if (error_) return *error_;
    return std::unique_ptr<InMessage>();
  }
  auto item = std::move(slot);
  ++taken_;
  taken_bytes_ += item->bytes();
  if (!ended_) give_credit();
  return item;
}

/// Not for each item: when half of a window has been read since the last time.
void StreamSink::give_credit() {
  const std::uint64_t items = taken_ + window_.items;
  const std::uint64_t bytes = taken_bytes_ + window_.bytes;
  if (items - credit_items_ < (window_.items + 1) / 2 && bytes - credit_bytes_ < (window_.bytes + 1) / 2)
    return;
  credit_items_ = items;
  credit_bytes_ = bytes;
  endpoint_.send_credit(call_id_, items, bytes);
}

void StreamSink::on_item(std::unique_ptr<InMessage> item) {
  const std::uint64_t number = item->header().target;
  call_id_ = item->header().call_id;
  if (ended_ || number < taken_) return;
  const std::uint64_t bytes = item->bytes();
  const bool allowed =
      number < credit_items_ && received_bytes_ + bytes - std::max(longest_, bytes) <= credit_bytes_;
  if (!allowed) {
    error_ = Error{Code::kDataLoss, "the writer of the stream has sent more than it may"};
    return endpoint_.cancel(call_id_);
  }
  auto& slot = items_[number % window_.items];
  if (slot) return;  // repeated by the network
  slot = std::move(item);
  ++received_;
  received_bytes_ += bytes;
  longest_ = std::max(longest_, bytes);
  tell_reader();
}

void StreamSink::on_reply(Result<std::unique_ptr<InMessage>> reply) {
  const auto self = std::move(self_);
  ended_ = true;
  if (!error_ && !reply) error_ = reply.error();
  if (!error_ && (*reply)->is_error()) error_ = (*reply)->error();
  tell_reader();
  detached_.store(true, std::memory_order_release);  // last: from here on the loop may go
}

void StreamSink::when_ready(TimePoint deadline, UniqueFunction<void(Next)> continuation) {
  if (continuation_)
    return continuation(Error{Code::kFailedPrecondition, "the next item is being waited for already"});
  if (ready()) return continuation(take());
  continuation_ = std::move(continuation);
  loop_.schedule(*this, deadline);
}

void StreamSink::tell_reader() {
  if (!continuation_ || !ready()) return;
  loop_.cancel(*this);
  const auto self = shared_from_this();
  auto continuation = std::exchange(continuation_, nullptr);
  continuation(take());
}

void StreamSink::on_timer() {
  auto continuation = std::exchange(continuation_, nullptr);
  continuation(Error{Code::kDeadlineExceeded, "nothing came in time"});
}

void StreamSink::cancel() {
  if (ended_) return;
  for (auto& item : items_) item.reset();
  endpoint_.cancel(call_id_);
}

}  // namespace detail

// ---- The endpoint's part ------------------------------------------------------------------------

void EndpointCore::on_item(SessionId session, std::unique_ptr<InMessage> message) {
  const std::uint64_t call_id = message->header().call_id;
  OpenCall* call = find_call(call_id);
  if (!call || call->target.session != session) {
    ++stats_.replies_late;
    // Not to a peer that reads nothing: what is said to it would lie here. A cancel may be lost.
    const bool reads =
        session == kLocal || transport_->bytes_in_flight(session) <= options_.limits.max_answer_bytes;
    if (reads) send_cancel({session, 0}, call_id);  // the writer has not heard, or heard twice of the call
    return;
  }
  ReplySink& sink = *call->sink;
  shield("who reads a stream", [&] { sink.on_item(std::move(message)); });
  call = find_call(call_id);
  if (call && call->parked && call->sink->has_items(call->parked->header().target))
    complete(*call, std::move(call->parked));
}

void EndpointCore::on_credit(SessionId session, const MessageHeader& header) {
  PeerCalls* calls = calls_of(session);
  if (!calls) return;
  if (const auto stream = calls->streams.find(header.call_id); stream != calls->streams.end())
    std::shared_ptr(stream->second)->on_credit(header.target, header.method);
}

/// A lost credit only means that the next one tells more; on a link that lives none is lost.
void EndpointCore::send_credit(std::uint64_t call_id, std::uint64_t items, std::uint64_t bytes) {
  const OpenCall* call = find_call(call_id);
  if (!call) return;
  const SessionId session = call->target.session;
  auto frame = encode({MessageKind::kCredit, call_id, items, bytes, 0, Duration{0}, {}},
                      [](OutMessage& out) { out.values(0); });
  if (frame) (void)send_frame(session, std::move(*frame), Flow::kUrgent);
}

void EndpointCore::forget_stream(SessionId session, std::uint64_t call_id) {
  if (PeerCalls* calls = calls_of(session)) calls->streams.erase(call_id);
}

}  // namespace troupe::rpc
