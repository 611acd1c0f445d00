#include "round_pushes.hpp"

#include <algorithm>
#include <iterator>
#include <string>
#include <utility>

namespace troupe::shards {

Result<void> RoundPushes::keep(const PushName& push, const RowKeys& keys, std::span<const float> gradients) {
  if (kept_.contains(push)) return {};
  const auto of_worker =
      std::distance(kept_.lower_bound({push.worker, 0}), kept_.upper_bound({push.worker, UINT64_MAX}));
  if (static_cast<std::size_t>(of_worker) >= kForEach) {
    return Error{Code::kResourceExhausted, "worker " + std::to_string(push.worker) + " has " +
                                               std::to_string(of_worker) +
                                               " pushes here of which nothing is decided: wait for them"};
  }
  Kept kept{RowKeyList(keys), {gradients.begin(), gradients.end()}};
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

namespace {

/// The rows that are in at least one of them, ascending, no two of which touch.
std::vector<RowRange> union_of(std::vector<RowRange> ranges) {
  std::sort(ranges.begin(), ranges.end(), [](const auto& a, const auto& b) { return a.begin < b.begin; });
  std::vector<RowRange> all;
  for (const RowRange& range : ranges) {
    if (!all.empty() && range.begin <= all.back().end) {
      all.back().end = std::max(all.back().end, range.end);
    } else {
      all.push_back(range);
    }
  }
  return all;
}

}  // namespace

RoundPushes::Sum RoundPushes::weighted(const std::vector<StepOrder::Part>& parts, std::uint64_t dim) const {
  Sum sum;
  std::vector<Taken> pushes;
  bool in_ranges = true;
  for (const StepOrder::Part& part : parts) {
    const auto at = kept_.find(part.push);
    if (at == kept_.end()) continue;  // nothing of it lies on this shard
    sum.pushes.push_back(part.push);
    const RowKeys keys = at->second.keys.view();
    sum.pushed_keys += keys.size();
    if (keys.empty()) continue;
    pushes.push_back({&at->second, part.weight});
    in_ranges = in_ranges && keys.in_ranges();
  }
  if (in_ranges) {
    add_ranges(sum, pushes, dim);
  } else {
    for (const Taken& push : pushes) add_list(sum, push);
  }
  return sum;
}

void RoundPushes::add_list(Sum& sum, const Taken& push) {
  std::vector<std::uint64_t>& keys = sum.keys.keys;
  const RowKeyList& own = push.kept->keys;
  keys.insert(keys.end(), own.keys.begin(), own.keys.end());
  for (const RowRange& range : own.ranges)
    for (std::uint64_t row = range.begin; row < range.end; ++row) keys.push_back(row);
  const std::size_t begin = sum.gradients.size();
  sum.gradients.insert(sum.gradients.end(), push.kept->gradients.begin(), push.kept->gradients.end());
  if (push.weight == 1) return;
  for (std::size_t i = begin; i < sum.gradients.size(); ++i) sum.gradients[i] *= push.weight;
}

/// One gradient a row, without a look for any: neither the pushes' ranges nor their union's touch.
void RoundPushes::add_ranges(Sum& sum, const std::vector<Taken>& pushes, std::uint64_t dim) {
  std::vector<RowRange> ranges;
  for (const Taken& push : pushes)
    ranges.insert(ranges.end(), push.kept->keys.ranges.begin(), push.kept->keys.ranges.end());
  sum.keys.ranges = union_of(std::move(ranges));
  sum.gradients.resize(sum.keys.view().size() * dim);
  for (const Taken& push : pushes) {
    const float* from = push.kept->gradients.data();
    auto whole = sum.keys.ranges.begin();
    float* rows = sum.gradients.data();  // of `whole`
    for (const RowRange& range : push.kept->keys.ranges) {
      for (; whole->end < range.end; ++whole) rows += whole->size() * dim;
      float* to = rows + (range.begin - whole->begin) * dim;
      const std::size_t count = range.size() * dim;
      for (std::size_t i = 0; i < count; ++i) to[i] += push.weight * from[i];
      from += count;
    }
  }
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
