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

struct CallOptions {
  Duration timeout{0};  ///< 0: the endpoint's default; negative: too late already
  TraceContext trace = {};
};

/// Where a call's one answer goes. Called on the loop, exactly once, possibly before call() returns. It
/// may make calls, end sessions and destroy the sink, but not the endpoint, and must not throw.
class ReplySink {
 public:
  virtual void on_reply(Result<std::unique_ptr<InMessage>> reply) = 0;

 protected:
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

  const InMessage& message() const { return *message_; }
  const MessageHeader& header() const { return message_->header(); }
  SessionId session() const { return session_; }
  TimePoint deadline() const { return deadline_; }
  /// Whether the caller has said that it no longer waits, or has gone.
  bool cancelled() const { return cancelled_; }

  void reply_error(Error error);
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
  Endpoint* endpoint_;  // null: gone, or answered
  SessionId session_;
  std::unique_ptr<InMessage> message_;
  TimePoint deadline_;
  bool cancelled_ = false;
  InboundCall* previous_ = nullptr;  // the endpoint's list of open calls
  InboundCall* next_ = nullptr;
};

using InboundCallPtr = std::unique_ptr<InboundCall>;

}  // namespace troupe::rpc
