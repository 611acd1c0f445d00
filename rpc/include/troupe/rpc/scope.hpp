#pragma once

#include <memory>
#include <string_view>

#include <troupe/rpc/metadata.hpp>
#include <troupe/runtime/clock.hpp>
#include <troupe/runtime/error.hpp>
#include <troupe/runtime/loop.hpp>

/// In whose name work is done: while a handler runs, the loop's context is the call that it answers, so that
/// calls made meanwhile are part of that one. docs/calls.md tells what follows.
namespace troupe::rpc {

class InboundCall;

namespace detail {

/// What a call that came in shares with the work done in its name, which may outlive it.
class CallScope;

/// What the loop's context points to. One of the two is there.
struct ActiveCall {
  InboundCall* call = nullptr;       ///< while its handler runs
  std::shared_ptr<CallScope> scope;  ///< in a continuation
};

/// The scope of the present work. Precondition: the loop has a context.
std::shared_ptr<CallScope> scope_of_context(const Loop& loop);
/// The same; null if it is done in nobody's name. With the turn.
inline std::shared_ptr<CallScope> current_scope(const Loop& loop) {
  return loop.context() ? scope_of_context(loop) : nullptr;
}
/// What calls made within the present work carry, because an outer call passes it on. With the turn.
Metadata passed_on_metadata(const Loop& loop);
/// When the work must have ended that a scope stands for; never for null.
TimePoint deadline_of(const CallScope* scope);

/// Something that can be told that nobody wants its outcome any more.
class Cancellable {
 public:
  /// With the turn. May end this object.
  virtual void cancel() = 0;

 protected:
  ~Cancellable() = default;
};

/// Inside a catch: the error that stands for what was thrown by `who` ("the handler").
Error current_exception_error(std::string_view who);

}  // namespace detail

/// While it lives, calls made with the turn are part of no other: for what a handler must see to the end
/// whatever becomes of its caller. CallOptions::detached does it for one call.
class Detached {
 public:
  explicit Detached(Loop& loop) : none_(loop, nullptr) {}

 private:
  Loop::Context none_;
};

}  // namespace troupe::rpc
