#include "calls/inbound_calls.hpp"

#include <bit>
#include <utility>

namespace troupe::rpc {

InboundCalls::InboundCalls(std::uint64_t random) : factor_(random | 1) {
  set_chains(kFirstChains);
}

void InboundCalls::set_chains(std::size_t count) {
  chains_ = std::vector<InboundCall*>(count, nullptr);
  shift_ = 64 - std::countr_zero(count);
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

void InboundCalls::grow() {
  const auto before = std::move(chains_);
  set_chains(2 * before.size());
  for (InboundCall* first : before)
    for (InboundCall* call = first; call;) link(*std::exchange(call, call->next_));
}

/// There are none: what a crowd has left is given back.
void InboundCalls::shrink() {
  set_chains(kFirstChains);
}

}  // namespace troupe::rpc
