// Objects that nodes make at each other: the host's part. The owner's is in remote_refs.cpp.
#include "remote_objects.hpp"

#include <algorithm>

#include "node_impl.hpp"

namespace troupe {

namespace {

constexpr std::size_t kRemembered = 1 << 14;
/// What may wait for objects that are still to come, in all.
constexpr std::size_t kMaxEarlyCalls = 1 << 12;
constexpr std::size_t kMaxEarlyBytes = std::size_t{256} << 20;
constexpr Duration kLongestEarly{std::chrono::seconds(10)};

}  // namespace

void RecentNumbers::add(std::uint64_t number) {
  if (!set_.insert(number).second) return;
  order_.push_back(number);
  if (order_.size() <= kRemembered) return;
  set_.erase(order_.front());
  order_.pop_front();
}

HostedObjects::HostedObjects(NodeImpl& node) : node_(node) {
  rpc::Methods<detail::ObjectHost> own;
  own.add("release",
          [](detail::ObjectHost& host, const rpc::CallContext& context, std::uint64_t number) {
            return static_cast<HostedObjects&>(host).release(context, number);
          })
      .add("keep_only", [](detail::ObjectHost& host, const rpc::CallContext& context, std::uint64_t below,
                           const std::vector<std::uint64_t>& held) {
        return static_cast<HostedObjects&>(host).keep_only(context, below, held);
      });
  for (const char* name : {"release", "keep_only"}) methods_->add(*own.table()->find(rpc::fnv1a(name)));
}

void HostedObjects::add_constructor(const std::string& name, const rpc::MethodTable& constructors) {
  const std::uint64_t hash = rpc::fnv1a(name);
  if (!methods_->find(hash)) methods_->add(*constructors.find(hash));
}

std::uint64_t HostedObjects::caller_of(const rpc::CallContext& context) const {
  if (context.session == rpc::kLocal) return node_.options.node_id;
  const rpc::Peer* peer = node_.endpoint->peer(context.session);
  return peer ? peer->node_id : 0;
}

Result<void> HostedObjects::may_make(const rpc::CallContext& context, std::uint64_t number) {
  const std::uint64_t owner = caller_of(context);
  if (node_.closing) return Error{Code::kCancelled, "the node shuts down"};
  if (owner == 0 || gone_owners_.contains(owner))
    return Error{Code::kUnavailable, "the node that makes the object is gone"};
  if ((number & kObjectBit) == 0 || node_.actors.contains(number) || ended_.contains(number))
    return Error{Code::kInvalidArgument, "an object's number is not one, or was used already"};
  return {};
}

void HostedObjects::make(const rpc::CallContext& context, std::uint64_t number, std::shared_ptr<void> state,
                         std::shared_ptr<const rpc::MethodTable> methods) {
  const std::uint64_t owner = caller_of(context);
  owners_.emplace(number, owner);
  objects_[owner].insert(number);
  node_.add_actor("", std::move(state), std::move(methods), number);
  const auto waiting = early_.find(number);
  if (waiting == early_.end()) return;
  std::deque<Early> calls = std::move(waiting->second);
  early_.erase(waiting);
  for (Early& early : calls) {
    --early_calls_;
    early_bytes_ -= early.call->bytes();
  }
  for (Early& early : calls) node_.on_call(std::move(early.call));
}

void HostedObjects::take(rpc::InboundCallPtr call) {
  const std::uint64_t number = call->header().target;
  if (ended_.contains(number)) return call->refuse({Code::kUnavailable, "the object has ended"});
  const std::size_t bytes = call->bytes();
  if (early_calls_ >= kMaxEarlyCalls || early_bytes_ + bytes > kMaxEarlyBytes)
    return call->refuse({Code::kResourceExhausted, "too many calls wait for objects that are not there yet"});
  early_[number].push_back({std::move(call), node_.loop->now() + kLongestEarly});
  ++early_calls_;
  early_bytes_ += bytes;
}

void HostedObjects::refuse_late(TimePoint now) {
  std::vector<rpc::InboundCallPtr> late;
  for (auto waiting = early_.begin(); waiting != early_.end();) {
    std::deque<Early>& calls = waiting->second;
    while (!calls.empty() && (calls.front().until <= now || calls.front().call->cancelled())) {
      --early_calls_;
      early_bytes_ -= calls.front().call->bytes();
      late.push_back(std::move(calls.front().call));
      calls.pop_front();
    }
    waiting = calls.empty() ? early_.erase(waiting) : std::next(waiting);
  }
  for (auto& call : late) call->refuse({Code::kUnavailable, "there is no such object"});
}

void HostedObjects::end(std::uint64_t number) {
  const auto owned = owners_.find(number);
  if (owned == owners_.end()) return;  // by what the end of another one has led to
  const auto others = objects_.find(owned->second);
  others->second.erase(number);
  if (others->second.empty()) objects_.erase(others);
  owners_.erase(owned);
  ended_.add(number);
  node_.end_actor(number);
}

Result<void> HostedObjects::release(const rpc::CallContext& context, std::uint64_t number) {
  const auto found = owners_.find(number);
  if (found != owners_.end() && found->second == caller_of(context)) end(number);
  return {};
}

/// The owner's list, made when all its numbers were below `below`: what it lacks of these was let go before.
/// A list that comes late is right still, because numbers are not used twice.
Result<void> HostedObjects::keep_only(const rpc::CallContext& context, std::uint64_t below,
                                      const std::vector<std::uint64_t>& held) {
  const std::uint64_t owner = caller_of(context);
  const std::unordered_set<std::uint64_t> kept(held.begin(), held.end());
  std::vector<std::uint64_t> over;
  if (const auto owned = objects_.find(owner); owned != objects_.end())
    for (const std::uint64_t number : owned->second)
      if (number < below && !kept.contains(number)) over.push_back(number);
  for (const std::uint64_t number : over) end(number);
  return {};
}

void HostedObjects::owner_gone(std::uint64_t owner) {
  gone_owners_.add(owner);
  const auto owned = objects_.find(owner);
  if (owned == objects_.end()) return;
  const std::set<std::uint64_t> over = owned->second;
  for (const std::uint64_t number : over) end(number);
}

// ---- Time ---------------------------------------------------------------------------------------

RemoteObjects::RemoteObjects(NodeImpl& node)
    : hosted(std::make_shared<HostedObjects>(node)),
      owned(std::make_shared<OwnedObjects>(node)),
      node_(node) {
  node.loop->schedule_after(*this, node.options.silence_limit);
}

void RemoteObjects::close() {
  node_.loop->cancel(*this);
}

void RemoteObjects::on_timer() {
  node_.loop->schedule_after(*this, node_.options.silence_limit);
  hosted->refuse_late(node_.loop->now());
  owned->reconcile();
}

}  // namespace troupe
