#include "round_pushes.hpp"

#include <iterator>
#include <string>
#include <utility>

namespace troupe::shards {

Result<void> RoundPushes::keep(const PushName& push, std::span<const std::uint64_t> keys,
                               std::span<const float> gradients) {
  if (kept_.contains(push)) return {};
  const auto of_worker =
      std::distance(kept_.lower_bound({push.worker, 0}), kept_.upper_bound({push.worker, UINT64_MAX}));
  if (static_cast<std::size_t>(of_worker) >= kForEach) {
    return Error{Code::kResourceExhausted, "worker " + std::to_string(push.worker) + " has " +
                                               std::to_string(of_worker) +
                                               " pushes here of which nothing is decided: wait for them"};
  }
  Kept kept{{keys.begin(), keys.end()}, {gradients.begin(), gradients.end()}};
  if (kept.bytes() > kMost_bytes - bytes_) {
    return Error{Code::kResourceExhausted, "pushes for this round take " + std::to_string(bytes_) +
                                               " bytes already, at most " + std::to_string(kMost_bytes) +
                                               " are kept"};
  }
  const std::uint64_t bytes = kept.bytes();
  kept_.emplace(push, std::move(kept));
  bytes_ += bytes;
  return {};
}

RoundPushes::Sum RoundPushes::weighted(const std::vector<StepOrder::Part>& parts) const {
  Sum sum;
  for (const StepOrder::Part& part : parts) {
    const auto at = kept_.find(part.push);
    if (at == kept_.end()) continue;  // nothing of it lies on this shard
    sum.pushes.push_back(part.push);
    sum.keys.insert(sum.keys.end(), at->second.keys.begin(), at->second.keys.end());
    const std::size_t begin = sum.gradients.size();
    sum.gradients.insert(sum.gradients.end(), at->second.gradients.begin(), at->second.gradients.end());
    if (part.weight == 1) continue;
    for (std::size_t i = begin; i < sum.gradients.size(); ++i) sum.gradients[i] *= part.weight;
  }
  return sum;
}

// Pushes of a worker are decided in the order of their numbers: what is older will not be asked for.
void RoundPushes::drop_up_to(const PushName& push) {
  const auto begin = kept_.lower_bound({push.worker, 0});
  const auto end = kept_.upper_bound(push);
  for (auto at = begin; at != end; ++at) bytes_ -= at->second.bytes();
  kept_.erase(begin, end);
}

void RoundPushes::drop(const StepOrder& order) {
  for (const StepOrder::Part& part : order.take) drop_up_to(part.push);
  for (const PushName& push : order.forget) drop_up_to(push);
  for (const std::uint64_t worker : order.left) drop_up_to({worker, UINT64_MAX});
}

}  // namespace troupe::shards
