#include "round_pushes.hpp"

#include <iterator>
#include <string>
#include <utility>

namespace troupe::shards {

Result<bool> RoundPushes::admit(const PushName& push, std::uint64_t bytes) const {
  if (kept_.contains(push)) return false;
  const auto of_worker =
      std::distance(kept_.lower_bound({push.worker, 0}), kept_.upper_bound({push.worker, UINT64_MAX}));
  if (static_cast<std::size_t>(of_worker) >= kForEach) {
    return Error{Code::kResourceExhausted, "worker " + std::to_string(push.worker) + " has " +
                                               std::to_string(of_worker) +
                                               " pushes here of which nothing is decided: wait for them"};
  }
  if (bytes > kMost_bytes - bytes_) {
    return Error{Code::kResourceExhausted, "pushes for this round take " + std::to_string(bytes_) +
                                               " bytes already, at most " + std::to_string(kMost_bytes) +
                                               " are kept"};
  }
  return true;
}

void RoundPushes::add(const PushName& push, Kept kept) {
  const std::uint64_t bytes = kept.bytes();
  kept_.emplace(push, std::move(kept));
  bytes_ += bytes;
}

Result<void> RoundPushes::keep(const PushName& push, const RowKeys& keys, std::span<const float> gradients) {
  Kept kept{RowKeyList(keys), {gradients.begin(), gradients.end()}};
  const Result<bool> wanted = admit(push, kept.bytes());
  if (!wanted) return wanted.error();
  if (*wanted) add(push, std::move(kept));
  return {};
}

std::vector<RoundPushes::Taken> RoundPushes::taken(const std::vector<StepOrder::Part>& parts) const {
  std::vector<Taken> pushes;
  for (const StepOrder::Part& part : parts) {
    const auto at = kept_.find(part.push);
    if (at == kept_.end()) continue;  // nothing of it lies on this shard
    pushes.push_back({part.push, at->second.keys.view(), at->second.gradients.data(), part.weight});
  }
  return pushes;
}

std::uint64_t RoundPushes::keys_of(const std::vector<StepOrder::Part>& parts) const {
  std::uint64_t keys = 0;
  for (const StepOrder::Part& part : parts)
    if (const auto at = kept_.find(part.push); at != kept_.end()) keys += at->second.keys.view().size();
  return keys;
}

// Pushes of a worker are decided in the order of their numbers: what is older will not be asked for.
void RoundPushes::drop_up_to(const PushName& push, Pushes& dropped) {
  const auto end = kept_.upper_bound(push);
  for (auto at = kept_.lower_bound({push.worker, 0}); at != end;) {
    bytes_ -= at->second.bytes();
    dropped.insert(kept_.extract(at++));
  }
}

RoundPushes::Pushes RoundPushes::drop(const StepOrder& order) {
  Pushes dropped;
  for (const StepOrder::Part& part : order.take) drop_up_to(part.push, dropped);
  for (const PushName& push : order.forget) drop_up_to(push, dropped);
  for (const std::uint64_t worker : order.left) drop_up_to({worker, UINT64_MAX}, dropped);
  return dropped;
}

}  // namespace troupe::shards
