#include "barriers.hpp"

#include <algorithm>
#include <utility>

namespace troupe {

namespace {
std::string listed(const std::vector<std::string>& names) {
  std::string text;
  for (const std::string& name : names) (text += text.empty() ? "" : ", ") += name;
  return text;
}
}  // namespace

rpc::Future<void> Barriers::refuse(Error error) {
  rpc::Promise<void> promise(loop_);
  promise.set(std::move(error));
  return promise.future();
}

Error Barriers::gone_error(const std::string& node, const std::string& why) {
  return {Code::kUnavailable, "the participant '" + node + "' is gone: " + why};
}

rpc::Future<void> Barriers::enter(const std::string& name, const std::string& node,
                                  std::vector<std::string> participants, Duration timeout) {
  std::sort(participants.begin(), participants.end());
  participants.erase(std::unique(participants.begin(), participants.end()), participants.end());
  if (!std::binary_search(participants.begin(), participants.end(), node))
    return refuse({Code::kInvalidArgument, "node '" + node + "' is not among the participants"});
  Barrier& barrier = barriers_[name];
  if (barrier.arrived.empty()) barrier.participants = participants;
  if (barrier.participants != participants)
    return refuse({Code::kInvalidArgument, "others wait there with the participants " +
                                               listed(barrier.participants) + ", not " +
                                               listed(participants)});
  if (barrier.arrived.contains(node))
    return refuse({Code::kFailedPrecondition, "node '" + node + "' waits there already"});

  auto arrival = std::make_unique<Arrival>(*this, name, node);
  auto future = arrival->promise.future();
  // The caller gave up, or died.
  arrival->promise.on_cancel([this, name, node] { (void)take(name, node); });
  loop_.schedule_after(*arrival, timeout);
  barrier.arrived.emplace(node, std::move(arrival));
  if (barrier.arrived.size() == participants.size()) {
    const Barrier full = std::move(barrier);
    barriers_.erase(name);
    end(full, {});
  }
  return future;
}

void Barriers::gone(const std::string& node, const std::string& why) {
  std::vector<Barrier> broken;
  for (auto next = barriers_.begin(); next != barriers_.end();) {
    const auto& participants = next->second.participants;
    if (!std::binary_search(participants.begin(), participants.end(), node)) {
      ++next;
      continue;
    }
    broken.push_back(std::move(next->second));
    next = barriers_.erase(next);
  }
  for (const Barrier& barrier : broken) end(barrier, gone_error(node, why));
}

/// Those who are set may come to the next barrier from inside: so it is no member any more.
void Barriers::end(const Barrier& barrier, const Result<void>& outcome) {
  for (const auto& [node, arrival] : barrier.arrived) arrival->promise.set(outcome);
}

std::unique_ptr<Barriers::Arrival> Barriers::take(const std::string& barrier, const std::string& node) {
  const auto found = barriers_.find(barrier);
  if (found == barriers_.end()) return nullptr;
  auto arrived = found->second.arrived.extract(node);
  if (found->second.arrived.empty()) barriers_.erase(found);
  return arrived ? std::move(arrived.mapped()) : nullptr;
}

void Barriers::give_up(const std::string& barrier, const std::string& node) {
  std::vector<std::string> missing;
  if (const auto found = barriers_.find(barrier); found != barriers_.end())
    for (const std::string& name : found->second.participants)
      if (!found->second.arrived.contains(name)) missing.push_back(name);
  const auto arrival = take(barrier, node);
  if (arrival)
    arrival->promise.set(Error{Code::kDeadlineExceeded, "these did not come in time: " + listed(missing)});
}

}  // namespace troupe
