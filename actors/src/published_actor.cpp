#include "published_actor.hpp"

#include <algorithm>
#include <utility>

#include <troupe/actors/caf.hpp>
#include <troupe/actors/node.hpp>

#include "caf_values.hpp"
#include "node_impl.hpp"

namespace troupe {

namespace {

/// How often calls are looked for that nobody waits for any more.
constexpr Duration kLookEvery{std::chrono::seconds(1)};

}  // namespace

// ---- Responses ----------------------------------------------------------------------------------

Enqueued ResponseReceiver::enqueue(caf::mailbox_element_ptr element, SchedulingContext*) {
  if (!element->mid.is_response()) return taken();
  const std::uint64_t id = element->mid.request_id().integer_value();
  caf::message message = take_content(*element);
  const std::lock_guard lock(mutex_);
  if (!loop_) return taken();
  loop_->post([owner = owner_, id, message = std::move(message)] {
    if (const auto published = owner.lock()) published->respond(id, message);
  });
  return taken();
}

void ResponseReceiver::kill_proxy(SchedulingContext* context, caf::error reason) {
  {
    const std::lock_guard lock(mutex_);
    loop_ = nullptr;
  }
  cleanup(std::move(reason), context);
}

// ---- Calls --------------------------------------------------------------------------------------

PublishedActor::PublishedActor(caf::actor_system& system, Loop& loop, caf::actor actor)
    : system_(system), loop_(loop), actor_(std::move(actor)), looked_at_(loop.clock().now()) {}

PublishedActor::~PublishedActor() {
  if (receiver_)
    static_cast<ResponseReceiver*>(caf::actor_cast<caf::abstract_actor*>(receiver_))
        ->kill_proxy(nullptr, caf::exit_reason::user_shutdown);
  for (auto& [id, call] : std::exchange(asked_, {}))
    call->reply_error({Code::kUnavailable, "the actor has ended"});
}

void PublishedActor::begin() {
  caf::actor_config config;
  receiver_ = caf::make_actor<ResponseReceiver, caf::actor>(system_.next_actor_id(), system_.node(), &system_,
                                                            config, loop_, weak_from_this());
}

std::shared_ptr<const rpc::MethodTable> PublishedActor::table(const std::vector<std::string>& methods) {
  auto table = std::make_shared<rpc::MethodTable>();
  const auto add = [&](const std::string& name, const std::string& method) {
    table->add({name, " of a CAF actor", rpc::MethodTable::kAnySignature, nullptr,
                [method](const rpc::MethodTable::Target& target, rpc::InboundCallPtr call) {
                  static_cast<PublishedActor*>(target.state.get())->take(method, std::move(call));
                }});
  };
  for (const std::string& name : methods) add(name, name);
  add(std::string(kWholeMessage), "");
  return table;
}

void PublishedActor::take(const std::string& method, rpc::InboundCallPtr call) {
  MessageElements elements;
  if (!method.empty()) elements.append_method(method);
  if (auto read = read_values(system_, call->message(), elements); !read)
    return call->reply_error(read.error());
  if (call->header().kind == rpc::MessageKind::kOneWay) {
    actor_->enqueue(make_mail(nullptr, caf::make_message_id(), elements.to_message()), nullptr);
    return call->reply_void();
  }
  drop_expired();
  const std::uint64_t id = next_++;
  asked_.emplace(id, std::move(call));
  // A dead actor answers too: CAF bounces the request.
  actor_->enqueue(make_mail(caf::actor_cast<caf::strong_actor_ptr>(receiver_), caf::make_message_id(id),
                            elements.to_message()),
                  nullptr);
}

void PublishedActor::respond(std::uint64_t id, const caf::message& response) {
  const auto found = asked_.find(id);
  if (found == asked_.end()) return;
  const rpc::InboundCallPtr call = std::move(found->second);
  asked_.erase(found);
  if (response.match_elements<caf::error>())
    return call->reply_error(from_caf(system_, response.get_as<caf::error>(0)));
  if (response.empty()) return call->reply_void();
  if (auto sendable = check_elements(system_, response, 0); !sendable)
    return call->reply_error(with_context(sendable.error(), "the response"));
  call->reply_with([&](rpc::OutMessage& out) { write_answer(system_, response, out); });
}

void PublishedActor::drop_expired() {
  if (loop_.now() - looked_at_ < kLookEvery) return;
  looked_at_ = loop_.now();
  std::vector<rpc::InboundCallPtr> late;  // who is answered may call the actor again
  for (auto entry = asked_.begin(); entry != asked_.end();) {
    if (entry->second->cancelled() || entry->second->expired()) {
      late.push_back(std::move(entry->second));
      entry = asked_.erase(entry);
    } else {
      ++entry;
    }
  }
  for (auto& call : late) call->reply_error({Code::kDeadlineExceeded, "the actor has not responded"});
}

// ---- The node's side ----------------------------------------------------------------------------

Result<void> Node::publish(const std::string& name, const caf::actor& actor,
                           const std::vector<std::string>& methods) {
  NodeImpl& node = *impl_;
  if (node.loop->is_forked()) return HomeProcess::error();
  if (!actor) return Error{Code::kInvalidArgument, "an actor to be published as '" + name + "' must exist"};
  for (auto method = methods.begin(); method != methods.end(); ++method)
    if (std::find(methods.begin(), method, *method) != method)
      return Error{Code::kInvalidArgument, "'" + name + "' cannot have two methods named '" + *method + "'"};
  auto state = std::make_shared<PublishedActor>(*node.system, *node.loop, actor);
  state->begin();
  const std::weak_ptr<PublishedActor> published = state;
  if (auto spawned = spawn_state(name, std::move(state), PublishedActor::table(methods)); !spawned)
    return spawned;
  // Its end ends the name. Called on whatever thread the actor ends on, perhaps at once, perhaps after the
  // node, whose proxies know.
  caf::actor_cast<caf::abstract_actor*>(actor)->attach_functor(
      [watcher = node.ends, published, name](const caf::error&) { watcher->actor_ended(published, name); });
  return {};
}

void EndWatch::actor_ended(const std::weak_ptr<void>& state, const std::string& name) {
  const std::lock_guard lock(mutex_);
  if (!node_) return;
  node_->loop->post([node = node_, state, name] {
    if (state.expired() || node->closing) return;  // another may have the name now
    const auto found = node->local_names.find(name);
    if (found == node->local_names.end()) return;
    node->end_actor(found->second);
    rpc::call_async<void>(*node->endpoint, {node->registry_session, kRegistryActor}, "unpublish",
                          "unpublishing '" + name + "'",
                          {.trace = TraceContext::not_traced(), .detached = true}, name)
        .then([node, name](const Result<void>& told) {
          if (!told && !node->local_names.contains(name)) node->withdrawals.add(name);
        });
  });
}

}  // namespace troupe
