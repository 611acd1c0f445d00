#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <string>

#include <troupe/runtime/error.hpp>

#include "caf_internals.hpp"

namespace troupe {

struct NodeImpl;

/// A named actor of the cluster as a CAF actor: what is sent to it becomes a call, the answer a response
/// message. It may be used from any thread and may outlive its node; then it answers with errors.
class ActorProxy final : public ProxyBase {
 public:
  ActorProxy(caf::actor_config& config, NodeImpl& node, std::string name)
      : ProxyBase(config), node_(&node), name_(std::move(name)) {}

  Enqueued enqueue(caf::mailbox_element_ptr message, SchedulingContext* context) override;
  using ProxyBase::enqueue;
  /// The actor behind it is gone: tells those who monitor or link to it, and refuses from now on.
  void kill_proxy(SchedulingContext* context, caf::error reason) override;

 private:
  std::mutex mutex_;  // of node_, against a node that goes while another thread sends
  NodeImpl* node_;    // null once the actor is gone
  std::string name_;
};

}  // namespace troupe
