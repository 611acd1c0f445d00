#include "actor_proxy.hpp"

#include <utility>

#include <troupe/actors/caf.hpp>

#include "caf_values.hpp"
#include "node_impl.hpp"

namespace troupe {

namespace {

/// Gives a request's sender an error.
void answer_error(const caf::strong_actor_ptr& sender, caf::message_id id, const Error& error) {
  if (!sender || !id.is_request()) return;
  sender->enqueue(make_mail(nullptr, id.response_id(), to_caf(error)), nullptr);
}

/// A call on behalf of a CAF actor; deletes itself with the answer.
class ProxyCall final : public rpc::ReplySink {
 public:
  ProxyCall(caf::actor_system& system, caf::strong_actor_ptr sender, caf::message_id id, std::string what)
      : system_(system), sender_(std::move(sender)), id_(id), what_(std::move(what)) {}

  std::string called() const override { return what_; }
  void on_reply(Result<std::unique_ptr<rpc::InMessage>> reply) override {
    const std::unique_ptr<ProxyCall> self(this);
    if (!reply) return answer_error(sender_, id_, with_context(reply.error(), what_));
    if ((*reply)->is_error()) return answer_error(sender_, id_, with_context((*reply)->error(), what_));
    MessageElements values;
    if (auto read = read_values(system_, **reply, values); !read)
      return answer_error(sender_, id_, with_context(read.error(), what_));
    sender_->enqueue(make_mail(nullptr, id_.response_id(), values.to_message()), nullptr);
  }

 private:
  caf::actor_system& system_;
  caf::strong_actor_ptr sender_;
  caf::message_id id_;
  std::string what_;
};

}  // namespace

Enqueued ActorProxy::enqueue(caf::mailbox_element_ptr element, SchedulingContext*) {
  caf::message message = take_content(*element);
  // System messages are between CAF and the proxy itself.
  if (message.match_elements<caf::exit_msg>()) return taken();
  if (message.match_elements<caf::down_msg>()) return taken();
  const caf::strong_actor_ptr sender = element->sender;
  const caf::message_id id = element->mid;
  CafCall call = call_of(message);

  std::lock_guard lock(mutex_);
  if (!node_) {
    answer_error(sender, id, {Code::kUnavailable, "the actor '" + name_ + "' is gone"});
    return taken();
  }
  if (auto sendable = check_elements(*node_->system, message, call.first); !sendable) {
    answer_error(sender, id, with_context(sendable.error(), name_ + "." + call.method));
    return taken();
  }
  // A node runs what its proxies have posted before it goes.
  node_->loop->post([node = node_, name = name_, call = std::move(call), message = std::move(message), sender,
                     id] { node->call_dynamic(name, call, message, sender, id); });
  return taken();
}

void ActorProxy::kill_proxy(SchedulingContext* context, caf::error reason) {
  {
    std::lock_guard lock(mutex_);
    node_ = nullptr;
  }
  cleanup(std::move(reason), context);
}

void NodeImpl::call_dynamic(const std::string& actor, const CafCall& call, const caf::message& message,
                            const caf::strong_actor_ptr& sender, caf::message_id id) {
  const std::string what = actor + "." + call.method;
  auto target = resolve(actor);
  if (!target) return answer_error(sender, id, with_context(target.error(), what));
  const rpc::MethodId method_id{rpc::fnv1a(call.method), 0, call.method};
  const auto body = [&](rpc::OutMessage& out) { write_elements(*system, message, call.first, out); };
  if (id.is_request() && sender) {
    endpoint->call(*target, method_id, {}, body, *new ProxyCall(*system, sender, id, what));
  } else {
    (void)endpoint->send(*target, method_id, {}, body);  // nobody waits to hear of an error
  }
}

Result<caf::actor> Node::actor(std::string_view name) {
  NodeImpl& node = *impl_;
  if (node.loop->is_forked()) return HomeProcess::error();
  Loop::Turn turn(*node.loop);
  if (node.closing) return Error{Code::kCancelled, "the node shuts down"};
  if (auto target = node.resolve(name); !target) return with_context(target.error(), name);
  const auto known = node.proxies.find(name);
  if (known != node.proxies.end()) return known->second;
  caf::actor_config config;
  auto proxy = caf::make_actor<ActorProxy, caf::actor>(node.system->next_actor_id(), node.system->node(),
                                                       node.system, config, node, std::string(name));
  node.proxies.emplace(name, proxy);
  return proxy;
}

void NodeImpl::end_proxy(const std::string& actor, const Error& error) {
  const auto found = proxies.find(actor);
  if (found == proxies.end()) return;
  const caf::actor proxy = std::move(found->second);
  proxies.erase(found);
  static_cast<ActorProxy*>(caf::actor_cast<caf::abstract_actor*>(proxy))
      ->kill_proxy(nullptr, to_caf(error));  // those who are told run where they belong, not on our loop
}

}  // namespace troupe
