#pragma once

#include <cstdint>
#include <optional>

#include <troupe/runtime/timer.hpp>

#include "endpoint/core.hpp"

namespace troupe::rpc {

/// A call with a token that is made again when its callee is not there or does not answer in time. Its
/// envelope is encoded once and kept. Ends by finish(), in one answer; the endpoint owns it until then.
///
///     kTrying --answer, last failure--> ended
///     kTrying --failure--> kPausing --timer--> kTrying
class EndpointCore::RetryingCall final : public ReplySink, private TimerNode {
 public:
  /// `span` is that of all attempts together, or null.
  RetryingCall(EndpointCore& endpoint, std::uint64_t id, FindTarget find, const CallOptions& options,
               OutFrame frame, ReplySink& sink, OpenSpan span);

  /// Makes an attempt. May end this object.
  void attempt();
  /// The caller waits no longer: tells the callee, too.
  void cancel();
  std::string called() const override { return sink_.called(); }
  /// From now on it is counted.
  void meter(std::uint64_t method);
  /// Ends this object.
  void finish(Result<std::unique_ptr<InMessage>> reply);

 private:
  enum class State : std::uint8_t { kTrying, kPausing };
  void on_reply(Result<std::unique_ptr<InMessage>> reply) override;
  void on_timer() override { attempt(); }
  void make_attempt();
  Result<CallTarget> find_target() const;
  Duration next_pause();
  void end(Result<std::unique_ptr<InMessage>> reply, std::uint64_t given_up);
  OpenSpan begin_attempt(OutFrame& frame);

  EndpointCore& endpoint_;
  const std::uint64_t id_;
  const FindTarget find_;
  const RetryPolicy policy_;
  const OutFrame frame_;  // as it was encoded; each attempt sends a copy of its head
  ReplySink& sink_;
  OpenSpan span_;
  const TimePoint deadline_;
  const Duration attempt_timeout_;
  State state_ = State::kTrying;
  std::uint32_t attempts_ = 0;
  CallTarget target_{};
  detail::MeteredCall metered_;
  std::uint64_t attempt_id_ = 0;  // of the call that is open while kTrying
};

}  // namespace troupe::rpc
