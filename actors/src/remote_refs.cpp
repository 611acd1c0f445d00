// Objects that nodes make at each other: the owner's part.
#include <troupe/actors/remote.hpp>

#include <algorithm>
#include <utility>

#include "node_impl.hpp"
#include "remote_objects.hpp"

namespace troupe {

namespace {
constexpr Duration kListTimeout{std::chrono::seconds(2)};
constexpr std::uint32_t kCreationAttempts = 5;
}  // namespace

namespace detail {

/// Kept by the references to it and by its open calls; with the last of them it is released.
class RemoteObject final : public std::enable_shared_from_this<RemoteObject> {
 public:
  RemoteObject(const std::shared_ptr<OwnedObjects>& owner, std::string name)
      : owner_(owner), endpoint_(*owner->node().endpoint), loop_(endpoint_.loop()), name_(std::move(name)) {}
  ~RemoteObject();
  RemoteObject(const RemoteObject&) = delete;
  RemoteObject& operator=(const RemoteObject&) = delete;

  rpc::Endpoint& endpoint() const { return endpoint_; }
  const std::string& name() const { return name_; }
  /// Sends the creation. A failure is found by whoever asks.
  void create(std::uint64_t node_id, std::uint64_t number, rpc::MethodId method, const rpc::BodyWriter& body);
  void fail(Error error);
  std::uint64_t call(rpc::MethodId method, const rpc::CallOptions& options, const rpc::BodyWriter& body,
                     rpc::ReplySink& sink);
  rpc::Future<void> creation();

 private:
  /// Forwards what comes of a call, and keeps the object until then; deletes itself.
  class Call;
  /// The same for the creation.
  class Creation;
  void finish_creation(const Result<void>& outcome);

  std::weak_ptr<OwnedObjects> owner_;  // gone: the node is
  rpc::Endpoint& endpoint_;
  Loop& loop_;
  std::string name_;
  std::uint64_t node_id_ = 0, number_ = 0;
  bool made_ = false;
  std::optional<Error> failure_;
  std::set<Call*> calls_;
  std::vector<rpc::Promise<void>> waiting_;
};

class RemoteObject::Call final : public rpc::ReplySink {
 public:
  Call(std::shared_ptr<RemoteObject> object, rpc::ReplySink& sink) : object_(std::move(object)), sink_(sink) {
    object_->calls_.insert(this);
  }
  ~Call() {
    object_->calls_.erase(this);
    if (gone_) *gone_ = true;
  }
  Call(const Call&) = delete;
  Call& operator=(const Call&) = delete;

  void on_reply(Result<std::unique_ptr<rpc::InMessage>> reply) override {
    const std::unique_ptr<Call> self(this);
    object_->calls_.erase(this);  // whoever has the answer may wait, and the object fail meanwhile
    if (object_->failure_)
      sink_.on_reply(*object_->failure_);
    else
      sink_.on_reply(std::move(reply));
  }
  void on_value(void* result) override {
    const std::unique_ptr<Call> self(this);
    object_->calls_.erase(this);
    sink_.on_value(result);
  }
  void on_item(std::unique_ptr<rpc::InMessage> item) override { sink_.on_item(std::move(item)); }
  bool has_items(std::uint64_t count) const override { return sink_.has_items(count); }
  std::string called() const override { return sink_.called(); }

  /// Whether it had its answer while it was made is seen by `gone`.
  void set_id(std::uint64_t id) { id_ = id; }
  void watch(bool* gone) { gone_ = gone; }
  std::uint64_t id() const { return id_; }

 private:
  std::shared_ptr<RemoteObject> object_;
  rpc::ReplySink& sink_;
  bool* gone_ = nullptr;
  std::uint64_t id_ = 0;
};

class RemoteObject::Creation final : public rpc::ReplySink {
 public:
  explicit Creation(std::shared_ptr<RemoteObject> object) : object_(std::move(object)) {}
  void on_reply(Result<std::unique_ptr<rpc::InMessage>> reply) override {
    const std::unique_ptr<Creation> self(this);
    object_->finish_creation(rpc::detail::decode_reply<void>(std::move(reply), object_->name_));
  }

 private:
  std::shared_ptr<RemoteObject> object_;
};

RemoteObject::~RemoteObject() {
  const auto owner = owner_.lock();
  if (owner && number_ != 0) owner->release_soon(node_id_, number_);
}

void RemoteObject::create(std::uint64_t node_id, std::uint64_t number, rpc::MethodId method,
                          const rpc::BodyWriter& body) {
  node_id_ = node_id;
  number_ = number;
  NodeImpl& node = owner_.lock()->node();
  rpc::CallOptions options;
  options.token = node.next_token.fetch_add(1, std::memory_order_relaxed);
  options.retry.max_attempts = kCreationAttempts;
  options.detached = true;  // the object may outlive the call within which it is made
  endpoint_.call_with_retries(
      [weak = owner_, node_id]() -> Result<rpc::CallTarget> {
        const auto owner = weak.lock();
        if (!owner) return Error{Code::kCancelled, "the node shuts down"};
        auto session = owner->node().session_to(node_id);
        if (!session) return session.error();
        return rpc::CallTarget{*session, kObjectsActor};
      },
      method, options, body, *new Creation(shared_from_this()));
}

void RemoteObject::finish_creation(const Result<void>& outcome) {
  if (outcome)
    made_ = true;
  else
    fail(outcome.error());
  for (auto& promise : std::exchange(waiting_, {})) promise.set(outcome);
}

/// Open calls wait for an object that will not come: they hear of it now.
void RemoteObject::fail(Error error) {
  failure_ = std::move(error);
  const auto self = weak_from_this().lock();
  while (!calls_.empty()) {
    const std::uint64_t id = (*calls_.begin())->id();
    calls_.erase(calls_.begin());
    if (id != 0) endpoint_.cancel(id);  // else it is just being made, and ends by itself
  }
}

std::uint64_t RemoteObject::call(rpc::MethodId method, const rpc::CallOptions& options,
                                 const rpc::BodyWriter& body, rpc::ReplySink& sink) {
  const auto refuse = [&](Error error) {
    sink.on_reply(std::move(error));
    return std::uint64_t{0};
  };
  if (loop_.is_forked()) return refuse(HomeProcess::error());
  const auto owner = owner_.lock();
  if (!owner) return refuse({Code::kCancelled, "the node shuts down"});
  if (failure_) return refuse(*failure_);
  if (options.retry.max_attempts > 1)
    return refuse({Code::kInvalidArgument,
                   "calls on a remote object are not repeated: its node's death ends it; leave out `retry`"});
  auto session = owner->node().session_to(node_id_);
  if (!session) return refuse(session.error());
  auto* call = new Call(shared_from_this(), sink);
  bool gone = false;
  call->watch(&gone);
  const std::uint64_t id = endpoint_.call({*session, number_}, method, options, body, *call);
  if (gone) return id;
  call->watch(nullptr);
  call->set_id(id);
  return id;
}

rpc::Future<void> RemoteObject::creation() {
  rpc::Promise<void> promise(loop_);
  auto future = promise.future();
  if (failure_)
    promise.set(*failure_);
  else if (made_)
    promise.set({});
  else
    waiting_.push_back(std::move(promise));
  return future;
}

rpc::Endpoint& endpoint_of(const RemoteObject& object) {
  return object.endpoint();
}
const std::string& name_of(const RemoteObject& object) {
  return object.name();
}
std::uint64_t call_object(const std::shared_ptr<RemoteObject>& object, rpc::MethodId method,
                          const rpc::CallOptions& options, const rpc::BodyWriter& body,
                          rpc::ReplySink& sink) {
  return object->call(method, options, body, sink);
}
rpc::Future<void> creation_of(RemoteObject& object) {
  return object.creation();
}

}  // namespace detail

// ---- What this node holds -----------------------------------------------------------------------

OwnedObjects::OwnedObjects(NodeImpl& node)
    : node_(node),
      loop_(node.loop.get()),
      next_number_(kObjectBit | ((node.options.node_id << 20) & (kObjectBit - 1))) {}

std::shared_ptr<detail::RemoteObject> OwnedObjects::make(
    std::string_view where, std::string_view type, rpc::MethodId method,
    const std::function<void(std::uint64_t, rpc::OutMessage&)>& body) {
  auto object = std::make_shared<detail::RemoteObject>(shared_from_this(),
                                                       std::string(type) + " at " + std::string(where));
  if (node_.loop->is_forked()) {
    object->fail(HomeProcess::error());
    return object;
  }
  const Member* member = node_.directory.find_member_named(where);
  if (!member || !node_.joined) {
    object->fail(member ? Error{Code::kCancelled, "the node shuts down"}
                        : Error{Code::kNotFound, "there is no node named '" + std::string(where) + "'"});
    return object;
  }
  const std::uint64_t number = next_number_++;
  at_[member->node_id].held.insert(number);
  object->create(member->node_id, number, method, [&](rpc::OutMessage& out) { body(number, out); });
  return object;
}

/// Perhaps on some other thread, where a reference was dropped, while the node goes.
void OwnedObjects::release_soon(std::uint64_t node_id, std::uint64_t number) {
  {
    const std::lock_guard lock(mutex_);
    if (!loop_) return;
    if (!loop_->in_turn())
      return loop_->post([weak = weak_from_this(), node_id, number] {
        if (const auto still = weak.lock()) still->release(node_id, number);
      });
  }
  release(node_id, number);
}

void OwnedObjects::close() {
  const std::lock_guard lock(mutex_);
  loop_ = nullptr;
}

void OwnedObjects::release(std::uint64_t node_id, std::uint64_t number) {
  const auto found = at_.find(node_id);
  if (found == at_.end()) return;
  found->second.held.erase(number);
  ++found->second.releases;
  // It may get lost: then the list of what is still held says the same.
  if (const auto session = node_.session_to(node_id))
    (void)node_.endpoint->send({*session, kObjectsActor}, {rpc::fnv1a("release"), 0}, {},
                               rpc::detail::arguments_writer(number));
}

void OwnedObjects::reconcile() {
  for (auto at = at_.begin(); at != at_.end();) {
    const bool gone = !node_.directory.find_member(at->first);
    const bool settled = at->second.releases == at->second.confirmed;
    if (gone || (settled && at->second.held.empty())) {
      at = at_.erase(at);
      continue;
    }
    if (!settled && !at->second.asking) tell_what_is_held(at->first, at->second);
    ++at;
  }
}

void OwnedObjects::tell_what_is_held(std::uint64_t node_id, At& at) {
  const auto session = node_.session_to(node_id);
  if (!session) return;
  at.asking = true;
  const std::vector<std::uint64_t> held(at.held.begin(), at.held.end());
  rpc::call_async<void>(*node_.endpoint, {*session, kObjectsActor}, "keep_only", "telling what is held",
                        {.timeout = kListTimeout, .detached = true}, next_number_, held)
      .then([weak = weak_from_this(), node_id, told = at.releases](const Result<void>& outcome) {
        const auto self = weak.lock();
        if (!self) return;
        const auto found = self->at_.find(node_id);
        if (found == self->at_.end()) return;
        found->second.asking = false;
        if (outcome) found->second.confirmed = std::max(found->second.confirmed, told);
      });
}

// ---- Node ---------------------------------------------------------------------------------------

void Node::add_constructor(const std::string& name, const rpc::MethodTable& constructors) {
  const Loop::Turn turn(*impl_->loop);
  impl_->objects->hosted->add_constructor(name, constructors);
}

std::shared_ptr<detail::RemoteObject> Node::make_remote(
    std::string_view where, std::string_view type, rpc::MethodId method,
    const std::function<void(std::uint64_t, rpc::OutMessage&)>& body) {
  const Loop::Turn turn(*impl_->loop);
  return impl_->objects->owned->make(where, type, method, body);
}

std::uint64_t Node::make_token() {
  return impl_->next_token.fetch_add(1, std::memory_order_relaxed);
}

}  // namespace troupe
