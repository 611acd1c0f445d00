#include "calls/inbound_calls.hpp"

#include <bit>
#include <new>
#include <utility>

namespace troupe::rpc {

InboundCalls::InboundCalls(std::uint64_t random) : factor_(random | 1) {
  set_chains(kFirstChains);
}

/// Returns the chains there were. None are changed if there is no memory for others.
std::vector<InboundCall*> InboundCalls::set_chains(std::size_t count) {
  std::vector<InboundCall*> chains(count, nullptr);
  shift_ = 64 - std::countr_zero(count);
  return std::exchange(chains_, std::move(chains));
}

InboundCall* InboundCalls::find(std::uint64_t call_id) const {
  for (InboundCall* call = chains_[index_of(call_id)]; call; call = call->next_)
    if (call->header().call_id == call_id && call->header().kind == MessageKind::kRequest) return call;
  return nullptr;
}

InboundCall* InboundCalls::any(std::size_t& from) const {
  while (from < chains_.size() && !chains_[from]) ++from;
  return from < chains_.size() ? chains_[from] : nullptr;
}

/// Without memory the chains only get longer.
void InboundCalls::grow() {
  try {
    const auto before = set_chains(2 * chains_.size());
    for (InboundCall* first : before)
      for (InboundCall* call = first; call;) link(*std::exchange(call, call->next_));
  } catch (const std::bad_alloc&) {
  }
}

/// There are none: what a crowd has left is given back.
void InboundCalls::shrink() {
  try {
    set_chains(kFirstChains);
  } catch (const std::bad_alloc&) {  // not even for few
  }
}

// ---- Of a node, over all its sessions ---------------------------------------------------------------

const std::shared_ptr<PeerNode>& PeerNodes::of(std::uint64_t node_id, std::uint64_t random) {
  if (nodes_.size() >= look_at_) {
    std::erase_if(nodes_, [](const auto& entry) {
      return entry.second.use_count() == 1 && entry.second->sessions.empty() && entry.second->running == 0;
    });
    look_at_ = 2 * nodes_.size() + 16;
  }
  auto& node = nodes_[node_id];
  if (!node) node = std::make_shared<PeerNode>(node_id, random);
  return node;
}

const PeerNode* PeerNodes::find(std::uint64_t node_id) const {
  const auto found = nodes_.find(node_id);
  return found == nodes_.end() ? nullptr : found->second.get();
}

}  // namespace troupe::rpc
