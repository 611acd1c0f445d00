#include "calls/held_requests.hpp"

#include <algorithm>

namespace troupe::rpc {

void HeldRequests::push(InboundCallPtr call) {
  call->held_ = ++last_;
  earliest_ = std::min(earliest_, call->deadline());
  calls_.push_back(std::move(call));
  ++count_;
}

InboundCallPtr HeldRequests::pop() {
  return take(*calls_.front());
}

InboundCallPtr HeldRequests::take(const InboundCall& call) {
  const std::uint64_t first = last_ - calls_.size() + 1;
  InboundCallPtr taken = std::move(calls_[static_cast<std::size_t>(call.held_ - first)]);
  taken->held_ = 0;
  --count_;
  trim();
  return taken;
}

std::vector<InboundCallPtr> HeldRequests::take_expired(TimePoint now) {
  std::vector<InboundCallPtr> expired;
  if (now < earliest_) return expired;
  earliest_ = TimePoint::never();
  for (InboundCallPtr& call : calls_) {
    if (!call) continue;
    if (call->deadline() > now) {
      earliest_ = std::min(earliest_, call->deadline());
      continue;
    }
    call->held_ = 0;
    expired.push_back(std::move(call));
    --count_;
  }
  trim();
  return expired;
}

void HeldRequests::trim() {
  while (!calls_.empty() && !calls_.front()) calls_.pop_front();
}

}  // namespace troupe::rpc
