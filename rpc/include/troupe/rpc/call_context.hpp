#pragma once

#include <troupe/rpc/call.hpp>

namespace troupe::rpc {

/// What a handler may want to know of the call it answers; it gets it by taking a `const CallContext&` as its
/// first parameter. Calls that the handler makes are part of this one without it. A copy may be kept.
/// With the turn; cancelled(), time_left(), on_cancel() and the fields also on the pool thread that runs the
/// method. Who calls, by name, and the node that answers: see Node::caller_of() and Node::of().
class CallContext {
 public:
  CallContext() = default;
  explicit CallContext(InboundCall& call)
      : session(call.session()),
        deadline(call.deadline()),
        trace(call.trace()),
        metadata(call.header().metadata),
        active_{&call, {}},
        endpoint_(call.endpoint_) {}
  CallContext(const CallContext& other);
  CallContext& operator=(const CallContext& other);
  ~CallContext() = default;

  SessionId session = kLocal;  ///< who calls
  TimePoint deadline;          ///< when the caller stops waiting, in the loop's clock; may be never
  TraceContext trace;          ///< the call's own span if it is sampled
  Metadata metadata;           ///< that came with it

  /// Whether nobody waits for the answer any more: the caller gave it up, its node died, or the deadline has
  /// passed. Reads the clock, so that also a handler that computes for long sees the deadline; the others
  /// it can see only once it has let the loop work (in a call it waits for, or between two futures).
  bool cancelled() const;
  /// How long the caller still waits, by the clock: zero once it is cancelled or answered, kNoDeadline if as
  /// long as it lives.
  Duration time_left() const;
  /// Runs `told` on the loop if that happens before the call is answered; at once if it has happened, on the
  /// pool soon.
  void on_cancel(UniqueFunction<void()> told) const;
  /// Who is told of the calls that come where this one came in; null for a context that was made of none.
  EndpointEvents* owner() const;
  detail::ActiveCall* active() const { return &active_; }

 private:
  mutable detail::ActiveCall active_;
  EndpointCore* endpoint_ = nullptr;
};

}  // namespace troupe::rpc
