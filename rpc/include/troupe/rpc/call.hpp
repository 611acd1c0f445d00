#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>

#include <troupe/rpc/call_metrics.hpp>
#include <troupe/rpc/codec.hpp>
#include <troupe/rpc/direct.hpp>
#include <troupe/rpc/message.hpp>
#include <troupe/rpc/scope.hpp>
#include <troupe/rpc/tracing.hpp>
#include <troupe/runtime/clock.hpp>
#include <troupe/runtime/result.hpp>
#include <troupe/runtime/stream.hpp>
#include <troupe/runtime/task.hpp>
#include <troupe/runtime/tensor.hpp>

namespace troupe::rpc {

class Endpoint;
class CallContext;
class EndpointCore;
class EndpointEvents;
class HeldRequests;
class InboundCalls;

namespace detail {
class StreamSource;
}  // namespace detail

/// An endpoint's name for its connection to one peer; kLocal is the endpoint itself.
using SessionId = LinkId;
inline constexpr SessionId kLocal = 0;

/// Where a call goes: an actor, as the endpoint at the other end of the session numbers them.
struct CallTarget {
  SessionId session = kLocal;
  std::uint64_t actor = 0;
};

/// What is called: the hash of the method's name, and the fingerprint of the types that the caller
/// believes in (0: unchecked, for dynamically typed callers). `text` is the name itself, for traces; it may
/// be missing, and is valid only while the call is begun.
struct MethodId {
  std::uint64_t name = 0;
  std::uint64_t signature = 0;
  std::string_view text = {};
};

/// For timeouts: as long as the function says, or else the endpoint.
inline constexpr Duration kDefaultTimeout = Duration::min();
/// For timeouts: only an answer ends the call, or who cancels it, or the end of its peer, who is found out if
/// he dies or falls silent.
inline constexpr Duration kNoDeadline = Duration::max();
/// kNoDeadline if the deadline is never.
inline Duration time_left(TimePoint deadline, TimePoint now) {
  return deadline == TimePoint::never() ? kNoDeadline : deadline - now;
}

/// How often a call is repeated that found no callee (kUnavailable) or had no answer in time. Between two
/// attempts lies a pause, which doubles from attempt to attempt up to kLongestBackoff and of which a random
/// part, up to half, is left out, so that callers do not come back all at once.
struct RetryPolicy {
  std::uint32_t max_attempts = 1;  ///< 1: the call is not repeated
  Duration first_backoff{std::chrono::milliseconds(10)};
  /// How long one answer is waited for; 0: the timeout over max_attempts, without a deadline the default.
  Duration attempt_timeout{0};
  static constexpr Duration kLongestBackoff{std::chrono::seconds(2)};
};

struct CallOptions {
  /// Of all attempts together. Zero and less, as a computed rest may be: too late already.
  Duration timeout = kDefaultTimeout;
  /// Of what it is part. None: the call within which it is made, if there is one, detached or not.
  TraceContext trace = {};
  /// Names the call to its callee, which runs it once and answers repeats with the first answer, as long as
  /// it remembers (AnswerLimits). Never used for two calls by one node id: another method of the same actor
  /// is kInvalidArgument, another actor runs it as another call. 0: none.
  std::uint64_t token = 0;
  RetryPolicy retry = {};  ///< more than one attempt only with a token; a Node makes one where it is 0
  /// The call is part of no other, but for its trace: a handler that makes it passes on neither its deadline
  /// nor its end.
  bool detached = false;
  Metadata metadata = {};  ///< what the outer call passes on is added
  /// False, of a call that is not waited for: the thread that makes it does nothing of the loop's, but leaves
  /// its beginning to the thread that drives that. See CompletionQueue.
  bool help = true;
  /// Where the answer's first tensor is to lie: see into(). Not with retries.
  std::shared_ptr<const Tensor> into = {};
  /// Device tensors among the arguments are read after what it has been given so far, besides what their
  /// memory knows (end_write()).
  std::shared_ptr<const troupe::Stream> stream = {};
};

/// Those of a call that says nothing. Not made anew for each: whoever reads them at once would wait for the
/// stores.
inline const CallOptions kPlainCall;

/// For CallOptions::into: the answer's first tensor is received in the memory of this one, which must be
/// contiguous, in memory of the host or of a GPU of the endpoint's, and of the very dtype and shape. A long
/// one comes straight from the network, and the answer shares it. kInvalidArgument: another tensor came, or
/// none. The memory belongs to the call until it is answered, and after an error until nothing refers to it:
/// what was on its way may still be written there.
inline std::shared_ptr<const Tensor> into(Tensor tensor) {
  return std::make_shared<const Tensor>(std::move(tensor));
}

/// Where a call's one answer goes. Called on the loop, exactly once, possibly before call() returns. It may
/// make calls, end sessions and destroy the sink, but not the endpoint. It should not throw: what it throws
/// ends in the endpoint, which tells EndpointEvents::on_exception().
class ReplySink {
 public:
  virtual void on_reply(Result<std::unique_ptr<InMessage>> reply) = 0;
  /// An item of a stream, before its reply; like on_reply() in what it may do. Only readers of streams
  /// expect any.
  virtual void on_item(std::unique_ptr<InMessage> item);
  /// Whether `count` items have come, so that the reply that followed them may be given.
  virtual bool has_items(std::uint64_t count) const;
  /// In place of a reply with a value, if the call's BodyWriter had a type() and the callee was of this node:
  /// the Result<R>, to be moved from.
  virtual void on_value(void* result) { (void)result; }
  /// What is called, ending with the method's name if the sink knows it ("ps0.add"), for metrics. Asked for a
  /// method's first call only.
  virtual std::string called() const { return {}; }

 protected:
  ReplySink() = default;
  ReplySink(const ReplySink&) = default;
  ReplySink& operator=(const ReplySink&) = default;
  ~ReplySink() = default;
};

namespace detail {
template <class T>
class DirectResultOf final : public DirectResult {
 public:
  explicit DirectResultOf(Result<T> value) : value_(std::move(value)) {}
  void give(ReplySink& sink) override { sink.on_value(&value_); }
  Code code() const override { return value_ ? Code::kOk : value_.error().code; }
  std::unique_ptr<DirectResult> keep() override {
    return std::make_unique<DirectResultOf<T>>(std::move(value_));
  }
  const Error* error() const override { return value_ ? nullptr : &value_.error(); }

 private:
  Result<T> value_;
};
}  // namespace detail

/// A reference to a callable that writes a message's body; does not own it. One that is a
/// detail::TypedArguments can also hand over the arguments without a message.
class BodyWriter {
 public:
  template <class F>
  requires(!std::is_same_v<std::remove_cvref_t<F>, BodyWriter>) BodyWriter(F&& write)
      : object_(const_cast<void*>(static_cast<const void*>(&write))),
        call_(
            [](void* object, OutMessage& out) { (*static_cast<std::remove_reference_t<F>*>(object))(out); }) {
    if constexpr (requires { write.type(); }) {
      type_ = write.type();
      copy_ = [](void* object, const MessageHeader& header) {
        return static_cast<std::remove_reference_t<F>*>(object)->copy(header);
      };
    }
  }
  void operator()(OutMessage& out) const { call_(object_, out); }
  /// What detail::direct_type() says of the call; null if that is not known.
  const void* type() const { return type_; }
  /// Precondition: type().
  std::unique_ptr<detail::DirectCall> copy(const MessageHeader& header) const {
    return copy_(object_, header);
  }

 private:
  void* object_;
  void (*call_)(void*, OutMessage&);
  const void* type_ = nullptr;
  std::unique_ptr<detail::DirectCall> (*copy_)(void*, const MessageHeader&) = nullptr;
};

/// A call that came in and must be answered once. Loop only. Dropping it unanswered answers with
/// kInternal, so that no caller waits in vain; answering a one-way call, or one whose caller has gone,
/// does nothing. It may outlive its endpoint.
class InboundCall {
 public:
  InboundCall(EndpointCore& endpoint, SessionId session, std::unique_ptr<InMessage> message,
              TimePoint deadline);
  /// One without a message, of the endpoint to itself.
  InboundCall(EndpointCore& endpoint, std::unique_ptr<detail::DirectCall> direct, TimePoint deadline);
  ~InboundCall();
  InboundCall(const InboundCall&) = delete;
  InboundCall& operator=(const InboundCall&) = delete;
  // From memory that is used again and again.
  static void* operator new(std::size_t size);
  static void operator delete(void* memory, std::size_t size);

  /// Precondition: !direct().
  const InMessage& message() const { return *message_; }
  const MessageHeader& header() const { return message_ ? message_->header() : direct_->header; }
  /// The arguments, if they came without a message: only for a method of which
  /// EndpointEvents::takes_directly() was true.
  detail::DirectCall* direct() const { return direct_.get(); }
  /// What it holds of memory while it waits.
  std::size_t bytes() const { return message_ ? message_->bytes() : direct_->bytes(); }
  SessionId session() const { return session_; }
  TimePoint deadline() const { return deadline_; }
  /// Whether the caller has said that it no longer waits, or has gone; of a one-way call, that the node ends.
  bool cancelled() const { return cancelled_; }
  /// Whether the deadline has passed, at the loop's now().
  bool expired() const;
  /// Null once it is answered.
  Loop* loop() const;
  /// What calls within it take over: its span's context, or the caller's if it has no span.
  TraceContext trace() const {
    if (span_) return span_->context;
    return not_traced_ ? TraceContext::not_traced() : header().trace;
  }
  /// Made now if there is none; null if the call was answered before there was one.
  const std::shared_ptr<detail::CallScope>& scope();
  /// What is to hear if the call is cancelled: a future from which the answer is to come.
  void await(std::weak_ptr<detail::Cancellable> answer) { awaited_ = std::move(answer); }

  void reply_error(Error error);
  /// Answers a call that has not begun and never will: a repeat of it, with its token, may run.
  void refuse(Error error);
  /// `body` may throw: that is then the answer.
  void reply_with(const BodyWriter& body);
  void reply_void() {
    if (direct_) {
      detail::DirectResultOf<void> result({});
      return reply_directly(result);
    }
    reply_with([](OutMessage& out) { out.values(0); });
  }
  template <class T>
  void reply(const T& value) {
    if (direct_) return reply_stored(value);
    reply_with([&](OutMessage& out) {
      out.values(1);
      Codec<T>::encode(out.value(0), value);
    });
  }

 private:
  friend class CallContext;
  friend class EndpointCore;
  friend class InboundCalls;
  friend class HeldRequests;
  friend class detail::StreamSource;
  template <class T>
  void reply_stored(const T& value) {
    std::optional<detail::DirectResultOf<detail::StoredType<T>>> result;
    try {
      result.emplace(detail::stored(value));
    } catch (...) {
      return reply_error(detail::current_exception_error("copying the answer"));
    }
    reply_directly(*result);
  }
  void reply_directly(detail::DirectResult& result);
  void reply_directly_error(Error error);
  void note_error(Error& error);

  EndpointCore* endpoint_;  // null: gone, or answered
  SessionId session_;
  std::unique_ptr<InMessage> message_;
  std::unique_ptr<detail::DirectCall> direct_;  // in place of a message
  TimePoint deadline_;
  bool cancelled_ = false;
  bool not_traced_ = false;        // decided here
  OpenSpan span_;                  // null: it is not traced, or its answer is on its way
  std::uint64_t token_owner_ = 0;  // the caller's node id, if repeats may wait for the answer
  std::uint64_t items_ = 0;        // sent before the answer
  std::shared_ptr<detail::CallScope> scope_;
  std::weak_ptr<detail::Cancellable> awaited_;
  detail::MeteredCall metered_;
  InboundCalls* listed_ = nullptr;  // the open calls of the same peer
  InboundCall* previous_ = nullptr;
  InboundCall* next_ = nullptr;
  std::size_t counted_bytes_ = 0;  // what its peer is charged for it
  std::uint64_t held_ = 0;         // its number among those that are not begun; 0: it is
};

using InboundCallPtr = std::unique_ptr<InboundCall>;

}  // namespace troupe::rpc
