#include "calls/held_requests.hpp"

#include <algorithm>
#include <cstddef>

namespace troupe::rpc {

namespace {
/// All are looked at for those that are too late no more often than this.
constexpr Duration kBetweenLooks{std::chrono::milliseconds(10)};
/// So many may be done with before anything is moved.
constexpr std::size_t kFewPlaces = 32;
}  // namespace

/// Nothing is counted before there is a place.
void HeldRequests::push(InboundCallPtr&& call) {
  calls_.push_back(std::move(call));  // a look that is under way comes to it
  InboundCall& held = *calls_.back();
  held.held_ = ++last_;
  earliest_ = std::min(earliest_, held.deadline());
  ++count_;
  --*begun_;
}

/// It is not held any more, and counts as begun.
InboundCallPtr HeldRequests::release(InboundCallPtr& place) {
  place->held_ = 0;
  --count_;
  ++*begun_;
  return std::move(place);
}

InboundCallPtr HeldRequests::pop() {
  return take(*calls_[first_]);
}

InboundCallPtr HeldRequests::take(const InboundCall& call) {
  // Places are counted from the end: numbers follow one another.
  const auto place = calls_.size() - 1 - static_cast<std::size_t>(last_ - call.held_);
  InboundCallPtr taken = release(calls_[place]);
  trim();
  return taken;
}

std::vector<InboundCallPtr> HeldRequests::take_expired(TimePoint now) {
  std::vector<InboundCallPtr> expired;
  if (!looking_) {
    if (now < earliest_ || now < look_again_) return expired;
    look_again_ = now + kBetweenLooks;
    begin_look();
  }
  looked_ = std::max(looked_, first_);
  const std::size_t end = std::min(calls_.size(), looked_ + kLook);
  // Memory first: nothing is moved if there is none.
  expired.reserve(static_cast<std::size_t>(
      std::count_if(calls_.begin() + static_cast<std::ptrdiff_t>(looked_),
                    calls_.begin() + static_cast<std::ptrdiff_t>(end),
                    [&](const InboundCallPtr& call) { return call && call->deadline() <= now; })));
  for (; looked_ < end; ++looked_) {
    InboundCallPtr& call = calls_[looked_];
    if (!call) continue;
    if (call->deadline() > now) {
      kept_ = std::min(kept_, call->deadline());
      continue;
    }
    expired.push_back(release(call));
  }
  if (looked_ == calls_.size()) {
    earliest_ = kept_;
    looking_ = false;
  }
  trim();
  return expired;
}

void HeldRequests::begin_look() {
  looking_ = true;
  looked_ = first_;
  kept_ = TimePoint::never();
}

/// What is done with is moved out of the way when it is more than half of all, wherever it was: behind a
/// request that waits for long others may come and be cancelled for ever.
void HeldRequests::trim() {
  while (first_ < calls_.size() && !calls_[first_]) ++first_;
  if (first_ == calls_.size()) {
    calls_ = std::vector<InboundCallPtr>();
    first_ = looked_ = 0;
    looking_ = false;
  } else if (calls_.size() > 2 * count_ + kFewPlaces) {
    std::erase(calls_, nullptr);
    first_ = 0;
    if (looking_) begin_look();
    for (std::size_t i = 0; i < calls_.size(); ++i) calls_[i]->held_ = last_ - (calls_.size() - 1 - i);
  }
}

}  // namespace troupe::rpc
