#pragma once

#include <vector>

#include "endpoint/core.hpp"

/// What the loop calls of an endpoint.
namespace troupe::rpc {

/// Sends what waits as room comes free: asked in every round of the loop while anything waits.
class EndpointCore::FlowPump final : public Source, private TimerNode {
 public:
  explicit FlowPump(EndpointCore& owner) : endpoint_(owner) {}
  ~FlowPump() override;
  void add(Session& session);
  /// The same, though nothing may happen that has the loop run a round.
  void hurry(Session& session);
  int poll() override;

 private:
  void on_timer() override { (void)poll(); }

  EndpointCore& endpoint_;
  std::vector<SessionId> sessions_;  // those with something that waits, either way
};

/// Fires when messages of an endpoint to itself wait.
struct EndpointCore::LocalDelivery final : TimerNode {
  explicit LocalDelivery(EndpointCore& owner) : endpoint(owner) {}
  EndpointCore& endpoint;

 private:
  void on_timer() override { endpoint.deliver_waiting_local(); }
};

}  // namespace troupe::rpc
