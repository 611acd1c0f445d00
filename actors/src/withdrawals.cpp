#include "withdrawals.hpp"

#include <vector>

#include <troupe/rpc/client.hpp>

#include "node_impl.hpp"

namespace troupe {

Withdrawals::Withdrawals(NodeImpl& node) : node_(node), again_([this] { try_again(); }) {}

void Withdrawals::add(const std::string& name) {
  if (node_.closing) return;
  names_.insert(name);
  if (!again_.scheduled()) node_.loop->schedule_after(again_, node_.options.heartbeat_interval);
}

void Withdrawals::close() {
  node_.loop->cancel(again_);
  names_.clear();
}

void Withdrawals::try_again() {
  const std::vector<std::string> names(names_.begin(), names_.end());
  for (const std::string& name : names) {
    rpc::call_async<void>(
        *node_.endpoint, {node_.registry_session, kRegistryActor}, "unpublish", "unpublishing '" + name + "'",
        {.timeout = node_.options.silence_limit, .trace = TraceContext::not_traced(), .detached = true}, name)
        .then([this, name](const Result<void>& told) {
          if (told) names_.erase(name);
        });
  }
  if (!node_.closing && !names_.empty()) node_.loop->schedule_after(again_, node_.options.heartbeat_interval);
}

Result<void> NodeImpl::withdraw(const std::string& name) {
  auto told = rpc::call_sync<void>(*endpoint, {registry_session, kRegistryActor}, "unpublish",
                                   "unpublishing '" + name + "'",
                                   {.trace = TraceContext::not_traced(), .detached = true}, name);
  if (told) return told;
  const Loop::Turn turn(*loop);
  if (!local_names.contains(name) && !names_in_making.contains(name)) withdrawals.add(name);
  return told;
}

}  // namespace troupe
