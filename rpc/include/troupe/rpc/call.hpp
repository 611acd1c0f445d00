#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <type_traits>

#include <troupe/rpc/codec.hpp>
#include <troupe/rpc/message.hpp>
#include <troupe/runtime/clock.hpp>
#include <troupe/runtime/result.hpp>

namespace troupe::rpc {

class Endpoint;

namespace detail {
class StreamSource;
/// Inside a catch: the error that stands for what was thrown by `who` ("the handler").
Error current_exception_error(std::string_view who);
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
/// believes in (0: unchecked, for dynamically typed callers).
struct MethodId {
  std::uint64_t name = 0;
  std::uint64_t signature = 0;
};

/// How often a call is repeated that found no callee (kUnavailable) or had no answer in time. Between two
/// attempts lies a pause, which doubles from attempt to attempt up to kLongestBackoff and of which a random
/// part, up to half, is left out, so that callers do not come back all at once.
struct RetryPolicy {
  std::uint32_t max_attempts = 1;  ///< 1: the call is not repeated
  Duration first_backoff{std::chrono::milliseconds(10)};
  Duration attempt_timeout{0};  ///< how long one answer is waited for; 0: the timeout over max_attempts
  static constexpr Duration kLongestBackoff{std::chrono::seconds(2)};
};

struct CallOptions {
  Duration timeout{0};  ///< 0: the endpoint's default; negative: too late already. All attempts together.
  TraceContext trace = {};
  /// Names the call to its callee, which runs it once and answers repeats with the first answer, as long as
  /// it remembers (AnswerLimits). Never used for two calls by one node id. 0: none.
  std::uint64_t token = 0;
  RetryPolicy retry = {};  ///< more than one attempt only with a token
};

/// Where a call's one answer goes. Called on the loop, exactly once, possibly before call() returns. It
/// may make calls, end sessions and destroy the sink, but not the endpoint, and must not throw.
class ReplySink {
 public:
  virtual void on_reply(Result<std::unique_ptr<InMessage>> reply) = 0;
  /// An item of a stream, before its reply; like on_reply() in what it may do. Only readers of streams
  /// expect any.
  virtual void on_item(std::unique_ptr<InMessage> item);
  /// Whether `count` items have come, so that the reply that followed them may be given.
  virtual bool has_items(std::uint64_t count) const;

 protected:
  ReplySink() = default;
  ReplySink(const ReplySink&) = default;
  ReplySink& operator=(const ReplySink&) = default;
  ~ReplySink() = default;
};

/// A reference to a callable that writes a message's body; does not own it.
class BodyWriter {
 public:
  template <class F>
  requires(!std::is_same_v<std::remove_cvref_t<F>, BodyWriter>) BodyWriter(F&& write)
      : object_(const_cast<void*>(static_cast<const void*>(&write))),
        call_([](void* object, OutMessage& out) {
          (*static_cast<std::remove_reference_t<F>*>(object))(out);
        }) {}
  void operator()(OutMessage& out) const { call_(object_, out); }

 private:
  void* object_;
  void (*call_)(void*, OutMessage&);
};

/// A call that came in and must be answered once. Loop only. Dropping it unanswered answers with
/// kInternal, so that no caller waits in vain; answering a one-way call, or one whose caller has gone,
/// does nothing. It may outlive its endpoint.
class InboundCall {
 public:
  InboundCall(Endpoint& endpoint, SessionId session, std::unique_ptr<InMessage> message, TimePoint deadline);
  ~InboundCall();
  InboundCall(const InboundCall&) = delete;
  InboundCall& operator=(const InboundCall&) = delete;
  // From memory that is used again and again.
  static void* operator new(std::size_t size);
  static void operator delete(void* memory, std::size_t size);

  const InMessage& message() const { return *message_; }
  const MessageHeader& header() const { return message_->header(); }
  SessionId session() const { return session_; }
  TimePoint deadline() const { return deadline_; }
  /// Whether the caller has said that it no longer waits, or has gone.
  bool cancelled() const { return cancelled_; }

  void reply_error(Error error);
  /// Answers a call that has not begun and never will: a repeat of it, with its token, may run.
  void refuse(Error error);
  /// `body` may throw: that is then the answer.
  void reply_with(BodyWriter body);
  void reply_void() {
    reply_with([](OutMessage& out) { out.values(0); });
  }
  template <class T>
  void reply(const T& value) {
    reply_with([&](OutMessage& out) {
      out.values(1);
      Codec<T>::encode(out.value(0), value);
    });
  }

 private:
  friend class Endpoint;
  friend class detail::StreamSource;
  Endpoint* endpoint_;  // null: gone, or answered
  SessionId session_;
  std::unique_ptr<InMessage> message_;
  TimePoint deadline_;
  bool cancelled_ = false;
  std::uint64_t token_owner_ = 0;    // the caller's node id, if repeats may wait for the answer
  std::uint64_t items_ = 0;          // sent before the answer
  InboundCall* previous_ = nullptr;  // the endpoint's list of open calls
  InboundCall* next_ = nullptr;
};

using InboundCallPtr = std::unique_ptr<InboundCall>;

}  // namespace troupe::rpc
