#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include <troupe/rpc/methods.hpp>
#include <troupe/runtime/loop.hpp>

#include "caf_internals.hpp"

namespace troupe {

class PublishedActor;

/// Who asks an actor of the application in the name of remote callers: its responses come here, on whatever
/// thread of CAF's, and go on to the node's loop.
class ResponseReceiver final : public ProxyBase {
 public:
  ResponseReceiver(caf::actor_config& config, Loop& loop, std::weak_ptr<PublishedActor> owner)
      : ProxyBase(config), loop_(&loop), owner_(std::move(owner)) {}

  Enqueued enqueue(caf::mailbox_element_ptr message, SchedulingContext* context) override;
  using ProxyBase::enqueue;
  /// Responses that come from now on are dropped.
  void kill_proxy(SchedulingContext* context, caf::error reason) override;

 private:
  std::mutex mutex_;  // of loop_, against a node that goes while a response comes
  Loop* loop_;
  std::weak_ptr<PublishedActor> owner_;
};

/// The state of the named actor that stands for an actor of the application: hands calls on as CAF requests
/// and answers them with the responses. A call that gets none ends at its caller's deadline. State of the
/// loop.
class PublishedActor : public std::enable_shared_from_this<PublishedActor> {
 public:
  PublishedActor(caf::actor_system& system, Loop& loop, caf::actor actor);
  /// What is unanswered is answered with kUnavailable.
  ~PublishedActor();
  PublishedActor(const PublishedActor&) = delete;
  PublishedActor& operator=(const PublishedActor&) = delete;

  /// Before the first call: its own shared_ptr must exist.
  void begin();
  /// `methods` by name, and kWholeMessage. Calls are handed on whatever their types are: CAF matches them.
  static std::shared_ptr<const rpc::MethodTable> table(const std::vector<std::string>& methods);
  /// A response has come.
  void respond(std::uint64_t id, const caf::message& response);

 private:
  /// `method`: the message's first element, as an atom if it can be one; empty: the message is the arguments.
  void take(const std::string& method, rpc::InboundCallPtr call);
  void drop_expired();

  caf::actor_system& system_;
  Loop& loop_;
  caf::actor actor_;
  caf::actor receiver_;
  std::map<std::uint64_t, rpc::InboundCallPtr> asked_;  // by the request's number
  std::uint64_t next_ = 1;
  TimePoint looked_at_;
};

}  // namespace troupe
